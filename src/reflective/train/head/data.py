"""The problems of head-only training: read, and checked before anything is sampled.

A problem whose gold answer no grader reads is left out with a note; where none is left, the run does not start.
"""

from __future__ import annotations

import random
from pathlib import Path

from reflective.errors import InputError
from reflective.tasks import mixture
from reflective.train.head.config import HeadConfig
from reflective.train.problems import read_problems
from reflective.train.progress import Note
from reflective.types import Problem
from reflective.verify import self_check


def read_data(config: HeadConfig, note: Note) -> tuple[list[Problem], list[Problem]]:
    """The problems to learn from and those to validate on. Raises `InputError` where none of either can be graded."""
    train, validation = _problems(config)
    return _readable(train, "training", note), _readable(validation, "validation", note)


def _problems(config: HeadConfig) -> tuple[list[Problem], list[Problem]]:
    if config.data is None:
        families = None if config.tasks == ("all",) else config.tasks
        train = list(mixture("train", config.problems, config.levels, families, seed=config.seed + 1))
        return train, list(mixture("validation", config.validation_problems, config.levels, families, seed=config.seed))
    problems = read_problems(Path(config.data))
    random.Random(config.seed).shuffle(problems)
    held_out = max(1, round(len(problems) * config.validation_share))
    if len(problems) - held_out < 1:
        raise InputError(f"{config.data} holds {len(problems)} problem(s); 2 are the least, hundreds are useful.")
    return problems[:-held_out][: config.problems], problems[-held_out:][: config.validation_problems]


def _readable(problems: list[Problem], part: str, note: Note) -> list[Problem]:
    """Those whose gold answer is right against itself."""
    faults = self_check(problems)
    if not faults:
        return problems
    bad, verdict = faults[0]
    what = f"a gold answer that no grader reads (such as {bad.answer!r:.60} of {bad.id}: {verdict.reason})"
    unreadable = {id(problem) for problem, _ in faults}
    kept = [problem for problem in problems if id(problem) not in unreadable]
    if not kept:
        raise InputError(f"none of the {len(problems)} {part} problems can be graded: each has {what}.")
    note(f"{len(faults)} of {len(problems)} {part} problems are left out: {what}")
    return kept
