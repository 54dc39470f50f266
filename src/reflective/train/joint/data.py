"""Problems to learn from and problems held out: read, checked, and made what the trainer iterates over.

What can be known before the first step is told before it: a problem whose gold answer no grader reads or whose prompt
leaves no room in the context is left out with a note; where nothing is left, the run does not start.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from reflective.errors import InputError
from reflective.tasks import Split, load_problems, mixture
from reflective.tasks.benchmarks import family_names
from reflective.tasks.benchmarks.base import ask
from reflective.tasks.benchmarks.hub import HubSource, fetch
from reflective.tasks.benchmarks.own import own_problems
from reflective.tasks.gym import gym_families, gym_problems
from reflective.train.joint.config import VERIFY, DataConfig, JointConfig
from reflective.train.progress import Note
from reflective.types import Problem
from reflective.verify import WITHOUT_GOLD, self_check

GENERATED = 4000  # problems of a family where the configuration does not say how many
ROOM = 16  # tokens that a prompt must leave in the context

Encode = Callable[[str], Sequence[int]]


def read_data(config: JointConfig, encode: Encode, context: int, note: Note) -> tuple[list[Problem], list[Problem]]:
    """The problems to train on and those held out. `encode` gives a prompt's tokens, `context` is the model's.

    Raises `InputError` where too few problems remain.
    """
    train, held_out = _problems(config.data, config.seed)
    graded = VERIFY in config.rewards.functions
    left_out: list[str] = []
    train = _usable(train, encode, context, graded, left_out.append)
    for text in left_out:
        note(text)
    held_out = _usable(held_out, encode, context, graded, note)
    need = config.rollouts.problems
    if len(train) < need:
        why = f" ({'; '.join(left_out)})" if left_out else ""
        raise InputError(
            f"{len(train)} problem(s) can be used for training{why}; a step takes {need}. "
            "Give more problems, or lower [rollouts] problems or [data] held_out."
        )
    return train, held_out


def _problems(data: DataConfig, seed: int) -> tuple[list[Problem], list[Problem]]:
    families, gym = family_names(data.source or ""), gym_families(data.source or "")
    if families is not None or gym is not None:
        for name, given in (("fields", data.fields), ("kind", data.kind)):
            if given:
                raise InputError(f"[data] {name} is for rows of a file; {data.source!r} is generated. Leave it out.")
        return _gym(data, gym, seed) if gym is not None else _drawn(data, data.families or families, seed)
    fields = dict(data.fields) or None
    if data.hub is None:
        source = str(data.source)
        problems = load_problems(source, fields=fields, kind=data.kind, prompt=data.prompt, needs_answer=False)
    else:
        problems = [
            problem
            for file in fetch(HubSource(data.hub, data.files, data.revision))
            for problem in own_problems(file, fields=fields, kind=data.kind, prompt=data.prompt, needs_answer=False)
        ]
    random.Random(seed).shuffle(problems)
    if data.held_out >= len(problems):
        raise InputError(
            f"{len(problems)} problems are there and {data.held_out} of them are to be held out. Lower [data] held_out."
        )
    cut = len(problems) - data.held_out
    return problems[:cut][: data.problems], problems[cut:]


def _drawn(data: DataConfig, families: Sequence[str] | None, seed: int) -> tuple[list[Problem], list[Problem]]:
    def draw(split: Split, count: int) -> list[Problem]:
        drawn = mixture(split, count, data.levels, families, seed)
        return [p if data.prompt is None else replace(p, text=ask(p.text, data.prompt)) for p in drawn]

    return draw("train", data.problems or GENERATED), draw("validation", data.held_out)


def _gym(data: DataConfig, families: list[str], seed: int) -> tuple[list[Problem], list[Problem]]:
    count = data.problems or GENERATED
    held_out = list(gym_problems(families, data.held_out, split="validation", seed=seed, prompt=data.prompt))
    asked = {p.text for p in held_out}  # the package's splits may share problems
    drawn = gym_problems(families, count + data.held_out, split="train", seed=seed, prompt=data.prompt)
    return list(islice((p for p in drawn if p.text not in asked), count)), held_out


def _usable(problems: list[Problem], encode: Encode, context: int, graded: bool, note: Note) -> list[Problem]:
    """Without those that can't be graded (where the answers are to be graded) or that don't fit."""
    if graded:
        faults = [_fault(p) for p in problems]  # by place: ids are told apart within a file only
        for what, count in Counter(fault[0] for fault in faults if fault).items():
            example = next(f"{p.id}{fault[1]}" for p, fault in zip(problems, faults) if fault and fault[0] == what)
            note(f"{count} of {len(problems)} problems are left out: {what} (such as {example})")
        problems = [p for p, fault in zip(problems, faults) if not fault]
    fitting = [p for p in problems if len(encode(p.text)) + ROOM <= context]
    if len(fitting) < len(problems):
        note(f"{len(problems) - len(fitting)} problems are left out: the prompt leaves no room in {context:,} tokens")
    return fitting


def _fault(problem: Problem) -> tuple[str, str] | None:
    """What is wrong with its gold answer, and how."""
    if problem.kind not in WITHOUT_GOLD and not (problem.answer or "").strip():
        return "no gold answer", ""
    faults = self_check([problem])
    return ("a gold answer that no grader reads", f": {faults[0][1].reason}") if faults else None


def rows(problems: Sequence[Problem]) -> Any:
    """A `datasets.Dataset` with the question as `prompt`, the gold `answer` ("" where there is none), both for reward
    functions, and the problem's number, by which everything finds it."""
    from datasets import Dataset

    return Dataset.from_dict(
        {
            "prompt": [p.text for p in problems],
            "answer": [p.answer or "" for p in problems],
            "problem": list(range(len(problems))),
        }
    )


def numbered(train: Sequence[Problem], held_out: Sequence[Problem]) -> tuple[list[Problem], Any, Any]:
    """All problems under one numbering, and the rows of both parts (None where nothing is held out)."""
    every = [*train, *held_out]
    every = [replace(p, id=p.id or str(i)) for i, p in enumerate(every)]
    table = rows(every)
    held = table.select(range(len(train), len(every))) if held_out else None
    return every, table.select(range(len(train))), held


def data_digest(problems: Sequence[Problem]) -> str:
    """Of the problems and their answers, in order."""
    digest = hashlib.sha256()
    for problem in problems:
        digest.update(json.dumps([problem.text, problem.answer, problem.kind]).encode())
    return digest.hexdigest()[:16]
