"""The problems that a head is trained on and those that it is validated on, checked before anything is sampled."""

from __future__ import annotations

from dataclasses import replace

from reflective.errors import InputError
from reflective.tasks import TASKS, mixture
from reflective.tasks.benchmarks import benchmark_name
from reflective.tasks.families import family_names
from reflective.tasks.sources import LEVELS
from reflective.train.head.config import HeadConfig
from reflective.train.problems import gradable, shuffled
from reflective.train.progress import Note
from reflective.types import Problem


def read_data(config: HeadConfig, note: Note) -> tuple[list[Problem], list[Problem]]:
    """The problems to train a head on and those to validate on. Raises `InputError` where either can't be graded."""
    train, validation = _parts(config, note)
    parts = []
    for problems, part in ((train, "training"), (validation, "validation")):
        told: list[str] = []
        usable = gradable(problems, told.append)
        if not usable:
            raise InputError(f"none of the {len(problems)} {part} problems can be graded: {told[0]}")
        for text in told:
            note(f"{part}: {text}")
        parts.append([_behind(problem, config.system) for problem in usable] if config.system else usable)
    return parts[0], parts[1]


def _behind(problem: Problem, system: str) -> Problem:
    """The problem behind a system message."""
    asked = problem.messages or ({"role": "user", "content": problem.text},)
    if asked[0]["role"] == "system":
        raise InputError(f"{problem.id} has a system message of its own; leave --system out.")
    return replace(problem, messages=({"role": "system", "content": system}, *asked))


def _parts(config: HeadConfig, note: Note) -> tuple[list[Problem], list[Problem]]:
    source = config.data or (config.tasks[0] if len(config.tasks) == 1 else "")
    families = list(TASKS) if config.tasks == ("all",) else family_names(source) or config.tasks
    if family_names(source) is not None or not (config.data or benchmark_name(source)):
        for name in ("fields", "kind", "prompt", "like", "skip_bad"):
            if getattr(config, name):
                raise InputError(f"{name} has no meaning for {', '.join(families)}; leave it out.")
        levels = config.levels or LEVELS
        train = list(mixture("train", config.problems, levels, families, seed=config.seed + 1))
        return train, list(mixture("validation", config.validation_problems, levels, families, seed=config.seed))
    problems = shuffled(
        source,
        config.seed,
        note,
        levels=config.levels,
        fields=config.fields,
        kind=config.kind,
        prompt=config.prompt,
        like=config.like,
        skip_bad=config.skip_bad,
    )
    held_out = max(1, round(len(problems) * config.validation_share))
    if len(problems) - held_out < 1:
        raise InputError(f"{source} holds {len(problems)} problem(s); 2 are the least, hundreds are useful.")
    return problems[:-held_out][: config.problems], problems[-held_out:][: config.validation_problems]
