"""Problems to learn from and problems held out: read, drawn or shuffled, and checked before anything is sampled.

Generated problems are held out by their split, others by shuffling them with the run's seed. What no grader reads is
left out with a note, or the run does not start.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reflective.tasks import load_problems
from reflective.tasks.benchmarks import BENCHMARKS, benchmark_name
from reflective.tasks.files.hub import HUB
from reflective.train.progress import Note
from reflective.types import Problem
from reflective.verify import WITHOUT_GOLD, self_check

NAMED_FAULTS = 3  # bad rows that are named one by one


def shuffled(
    source: str, seed: int, note: Note, *, skip_bad: bool, fields: Mapping[str, str], **options: Any
) -> list[Problem]:
    """All problems of a benchmark, a data set on the hub or a file, in an order that the seed decides.

    A benchmark gives its training problems; where it has none, its only ones, with a note.
    """
    split, skipped = _training_split(source, note), list[str]() if skip_bad else None
    problems = load_problems(source, split=split, fields=dict(fields) or None, skipped=skipped, **options)
    tell_skipped(skipped or [], note)
    random.Random(seed).shuffle(problems)
    return problems


def _training_split(source: str, note: Note) -> str | None:
    name = benchmark_name(source)
    if name is None:
        return "train" if source.startswith(HUB) and source.count("/") == 1 else None
    if "train" in BENCHMARKS[name].splits:
        return "train"
    note(f"{name} has no problems for training; its {BENCHMARKS[name].split} problems are trained on")
    return None


def tell_skipped(skipped: Sequence[str], note: Callable[[str], object]) -> None:
    """What is wrong with rows that were left out: the first ones by name, and how many there are."""
    for fault in skipped[:NAMED_FAULTS]:
        note(f"left out: {fault}")
    if len(skipped) > NAMED_FAULTS:
        note(f"left out: {len(skipped) - NAMED_FAULTS:,} more bad rows")


def gradable(problems: list[Problem], note: Callable[[str], object]) -> list[Problem]:
    """Those whose gold answer is right against itself, or that need none."""
    unread = {id(problem): verdict for problem, verdict in self_check([p for p in problems if not _lacks_gold(p)])}
    kept: list[Problem] = []
    lacking: list[Problem] = []
    unreadable: list[Problem] = []  # told apart by the objects: ids need not be distinct
    for problem in problems:
        (lacking if _lacks_gold(problem) else unreadable if id(problem) in unread else kept).append(problem)
    if lacking:
        note(f"{len(lacking)} of {len(problems)} problems are left out: no gold answer (such as {lacking[0].id})")
    if unreadable:
        first = unreadable[0]
        note(
            f"{len(unreadable)} of {len(problems)} problems are left out: a gold answer that no grader reads "
            f"(such as {first.answer!r:.60} of {first.id}: {unread[id(first)].reason})"
        )
    return kept


def _lacks_gold(problem: Problem) -> bool:
    return problem.kind not in WITHOUT_GOLD and not (problem.answer or "").strip()
