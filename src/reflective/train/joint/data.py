"""Problems to learn from and problems held out: read, checked, and made what the trainer iterates over.

What can be known before the first step is told before it: a problem whose gold answer no grader reads or whose prompt
leaves no room in the context is left out with a note; where nothing is left, the run does not start.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from reflective.errors import InputError
from reflective.tasks import Split, mixture, prompt_like
from reflective.tasks.families import family_names
from reflective.tasks.families.gym import gym_families, gym_problems
from reflective.tasks.files.hub import HUB
from reflective.tasks.prompts import SLOT, ask
from reflective.tasks.sources import LEVELS
from reflective.train.joint.config import VERIFY, DataConfig, JointConfig
from reflective.train.problems import gradable, shuffled
from reflective.train.progress import Note
from reflective.types import Problem

GENERATED = 4000  # problems of a family where the configuration does not say how many
ROOM = 16  # tokens that a prompt must leave in the context

Encode = Callable[[str], Sequence[int]]


def read_data(config: JointConfig, encode: Encode, context: int, note: Note) -> tuple[list[Problem], list[Problem]]:
    """The problems to train on and those held out. `encode` gives a prompt's tokens, `context` is the model's.

    Raises `InputError` where too few problems remain.
    """
    train, held_out = _problems(config.data, config.seed, note)
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


def _problems(data: DataConfig, seed: int, note: Note) -> tuple[list[Problem], list[Problem]]:
    families, gym = family_names(data.source or ""), gym_families(data.source or "")
    if families is not None or gym is not None:
        for name, given in (("fields", data.fields), ("kind", data.kind), ("files", data.files)):
            if given:
                raise InputError(f"[data] {name} is for rows of a file; {data.source!r} is generated. Leave it out.")
        return _gym(data, gym, seed) if gym is not None else _generated(data, data.families or families, seed)
    options: dict[str, Any] = {"fields": data.fields, "kind": data.kind, "prompt": data.prompt, "like": data.like}
    if data.hub is not None:
        source = f"{HUB}{data.hub}/{','.join(data.files)}".rstrip("/")
        options["revision"] = data.revision
    else:
        source = str(data.source)
    problems = shuffled(source, seed, note, levels=data.levels, skip_bad=data.skip_bad, needs_answer=False, **options)
    if data.held_out >= len(problems):
        raise InputError(
            f"{len(problems)} problems are there and {data.held_out} of them are to be held out. Lower [data] held_out."
        )
    cut = len(problems) - data.held_out
    return problems[:cut][: data.problems], problems[cut:]


def _generated(data: DataConfig, families: Sequence[str] | None, seed: int) -> tuple[list[Problem], list[Problem]]:
    prompt = data.prompt or (prompt_like(data.like) if data.like else SLOT)

    def draw(split: Split, count: int) -> list[Problem]:
        problems = mixture(split, count, data.levels or LEVELS, families, seed)
        return [replace(problem, text=ask(problem.text, prompt)) for problem in problems]

    return draw("train", data.problems or GENERATED), draw("validation", data.held_out)


def _gym(data: DataConfig, families: list[str], seed: int) -> tuple[list[Problem], list[Problem]]:
    if data.levels:
        raise InputError(f"[data] levels have no meaning for {data.source!r}. Leave them out.")
    count, prompt = data.problems or GENERATED, data.prompt or (prompt_like(data.like) if data.like else None)
    held_out = list(gym_problems(families, data.held_out, split="validation", seed=seed, prompt=prompt))
    asked = {p.text for p in held_out}  # the package's splits may share problems
    others = gym_problems(families, count + data.held_out, split="train", seed=seed, prompt=prompt)
    return list(islice((p for p in others if p.text not in asked), count)), held_out


def _usable(problems: list[Problem], encode: Encode, context: int, graded: bool, note: Note) -> list[Problem]:
    """Without those that can't be graded (where the answers are to be graded) or that don't fit."""
    if graded:
        problems = gradable(problems, note)
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
