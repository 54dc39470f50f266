"""Problems to learn from and problems held out: read, checked, and made what the trainer iterates over.

What can be known before the first step is told before it: a problem whose gold answer no grader reads or whose prompt
leaves no room in the context is left out with a note; where nothing is left, the run does not start.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from reflective.errors import InputError
from reflective.tasks import load_problems, mixture
from reflective.tasks.benchmarks.hub import HubSource, fetch
from reflective.tasks.benchmarks.own import own_problems
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
    train, held_out = (_usable(part, encode, context, graded, note) for part in (train, held_out))
    need = config.rollouts.problems
    if len(train) < need:
        raise InputError(
            f"{len(train)} problem(s) can be used for training; a step takes {need}. "
            "Give more problems, or lower [rollouts] problems or [data] held_out."
        )
    return train, held_out


def _problems(data: DataConfig, seed: int) -> tuple[list[Problem], list[Problem]]:
    if data.source == "mixture" and data.families:
        count = data.problems or GENERATED
        train = list(mixture("train", count, data.levels, data.families, seed))
        return train, list(mixture("validation", data.held_out, data.levels, data.families, seed))
    if data.source is not None and data.is_generated:
        count = data.problems or GENERATED
        train = load_problems(data.source, split="train", levels=data.levels, limit=count, seed=seed)
        if not data.held_out:
            return train, []
        return train, load_problems(data.source, split="validation", levels=data.levels, limit=data.held_out, seed=seed)
    if data.hub is not None:
        files = fetch(HubSource(data.hub, data.files, data.revision))
        problems = [p for f in files for p in own_problems(f, fields=data.fields, kind=data.kind, prompt=data.prompt)]
    else:
        fields = dict(data.fields) or None
        problems = load_problems(str(data.source), fields=fields, kind=data.kind, prompt=data.prompt)
    random.Random(seed).shuffle(problems)
    if data.held_out >= len(problems):
        raise InputError(
            f"{len(problems)} problems are there and {data.held_out} of them are to be held out. Lower [data] held_out."
        )
    cut = len(problems) - data.held_out
    return problems[:cut][: data.problems], problems[cut:]


def _usable(problems: list[Problem], encode: Encode, context: int, graded: bool, note: Note) -> list[Problem]:
    """Without those that can't be graded (where the answers are to be graded) or that don't fit."""
    if graded:
        silent = {p.id for p in problems if p.kind not in WITHOUT_GOLD and not (p.answer or "").strip()}
        unreadable = {p.id: verdict.reason for p, verdict in self_check(problems) if p.id not in silent}
        for what, ids in (("no gold answer", silent), ("a gold answer that no grader reads", set(unreadable))):
            if ids:
                reason = next((unreadable[i] for i in ids if i in unreadable), "")
                example = f"{sorted(ids)[0]}{': ' + reason if reason else ''}"
                note(f"{len(ids)} of {len(problems)} problems are left out: {what} (such as {example})")
        problems = [p for p in problems if p.id not in silent and p.id not in unreadable]
    fitting = [p for p in problems if len(encode(p.text)) + ROOM <= context]
    if len(fitting) < len(problems):
        note(f"{len(problems) - len(fitting)} problems are left out: the prompt leaves no room in {context:,} tokens")
    return fitting


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
