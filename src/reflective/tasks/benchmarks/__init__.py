"""Benchmarks: problem sets from elsewhere, by name from the Hugging Face hub or from a file of yours.

`load_problems` takes them all, the generated families and own files too:

    load_problems("math500", limit=100)
    load_problems("gsm8k", file="gsm8k_test.jsonl")
    load_problems("livecodebench", since="2024-08-01", until="2025-02-01")
    load_problems("my.csv", fields={"problem": "question", "answer": "key"}, kind="choice")
    load_problems("countdown", limit=50)
    load_problems("reasoning_gym:sudoku", limit=50)
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import cast, get_args

from reflective.errors import InputError
from reflective.tasks.base import Split
from reflective.tasks.benchmarks.base import Benchmark, Options, ask
from reflective.tasks.gym import PREFIX, gym_families, gym_problems
from reflective.types import Problem

__all__ = ["BENCHMARKS", "Benchmark", "Options", "get_benchmark", "load_problems"]

GENERATED = 100  # problems of a family, where no number is given
MIXTURE = "mixture"  # all families in turn

_HOMES = {  # name: module, constant
    "aime24": ("aime", "AIME24"),
    "aime25": ("aime", "AIME25"),
    "amc23": ("amc", "AMC23"),
    "math500": ("math500", "MATH500"),
    "gsm8k": ("gsm8k", "GSM8K"),
    "olympiadbench": ("olympiadbench", "OLYMPIADBENCH"),
    "minerva_math": ("minerva", "MINERVA"),
    "gpqa_diamond": ("gpqa", "GPQA_DIAMOND"),
    "ceval": ("ceval", "CEVAL"),
    "livecodebench": ("livecodebench", "LIVECODEBENCH"),
    "humaneval_plus": ("evalplus", "HUMANEVAL_PLUS"),
    "mbpp_plus": ("evalplus", "MBPP_PLUS"),
}
_ALIASES = {
    "aime2024": "aime24",
    "aime2025": "aime25",
    "amc2023": "amc23",
    "minerva": "minerva_math",
    "gpqa": "gpqa_diamond",
    "olympiad": "olympiadbench",
    "humaneval+": "humaneval_plus",
    "mbpp+": "mbpp_plus",
    "lcb": "livecodebench",
}


class _Benchmarks(Mapping[str, Benchmark]):
    """The benchmarks by name; one's module is imported when it is looked up."""

    def __getitem__(self, name: str) -> Benchmark:
        home, constant = _HOMES[name]
        found: Benchmark = getattr(importlib.import_module(f"reflective.tasks.benchmarks.{home}"), constant)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(_HOMES)

    def __len__(self) -> int:
        return len(_HOMES)


BENCHMARKS: Mapping[str, Benchmark] = _Benchmarks()


def benchmark_name(name: str) -> str | None:
    """The name as it is known here: "MATH-500" is math500, "AIME 2024" is aime24. None where there is no such one."""
    plain = _plain(name)
    known = {_plain(one): one for one in _HOMES} | {_plain(alias): one for alias, one in _ALIASES.items()}
    return known.get(plain)


def _plain(name: str) -> str:
    return re.sub(r"[-_\s]", "", name).lower()


def get_benchmark(name: str) -> Benchmark:
    """The benchmark of that name. Raises `InputError` naming the nearest one."""
    known = benchmark_name(name)
    if known is None:
        near = difflib.get_close_matches(name, [*_HOMES, *_ALIASES], n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InputError(f"unknown benchmark {name!r}.{hint} Known: {', '.join(_HOMES)}.")
    return BENCHMARKS[known]


def load_problems(
    source: str,
    *,
    file: str | Path | None = None,
    split: str = "test",
    levels: Sequence[int] = (1, 2, 3),
    limit: int | None = None,
    seed: int = 0,
    revision: str | None = None,
    prompt: str | None = None,
    fields: Mapping[str, str] | None = None,
    kind: str | None = None,
    since: str | date | None = None,
    until: str | date | None = None,
    subjects: Sequence[str] = (),
    needs_answer: bool = True,
) -> list[Problem]:
    """Problems with stable ids: of a benchmark, of a generated family, or of a file.

    `source` is a benchmark ("math500"; from the hub, or from `file`), a family or "mixture", families of reasoning_gym
    ("reasoning_gym:sudoku"; see `tasks/gym.py`), or a file's path. `limit` keeps the first ones (a family gives 100
    without it). Of a benchmark: `revision` on the hub; `seed` shuffles the options of GPQA; `since` and `until` (days,
    both included) are LiveCodeBench's window; `subjects` keeps these. Of a family: `split`, `levels` (not of
    reasoning_gym's) and `seed`. Of an own file: `fields`, `kind` and `needs_answer` (see `benchmarks/own.py`).
    `prompt`, with {problem} in it, replaces the benchmark's own. Raises `InputError` for what can't be read.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}; it must be 1 or more.")
    name = benchmark_name(source)
    own = Path(source if file is None else file)
    if name is not None and fields is None and kind is None:
        options = Options(seed, _day(since), _day(until), tuple(subjects))
        benchmark = BENCHMARKS[name]
        return benchmark.problems(None if file is None else own, revision=revision, prompt=prompt, options=options)[
            :limit
        ]
    if file is None and (families := family_names(source)) is not None:
        return _generated(families, split, limit or GENERATED, levels, seed, prompt)
    if file is None and (names := gym_families(source)) is not None:
        return list(gym_problems(names, limit or GENERATED, split=_split(split), seed=seed, prompt=prompt))
    if own.suffix or own.exists():
        from reflective.tasks.benchmarks.own import own_problems

        return own_problems(own, fields=fields, kind=kind, prompt=prompt, needs_answer=needs_answer)[:limit]
    raise InputError(_unknown(source))


def family_names(source: str) -> list[str] | None:
    """The generated families that a name stands for; None where it is no family and not "mixture"."""
    from reflective.tasks import TASKS

    return list(TASKS) if source == MIXTURE else [source] if source in TASKS else None


def _generated(
    families: list[str], split: str, count: int, levels: Sequence[int], seed: int, prompt: str | None
) -> list[Problem]:
    from reflective.tasks import mixture

    drawn = mixture(_split(split), count, tuple(levels), families, seed)
    return [p if prompt is None else replace(p, text=ask(p.text, prompt)) for p in drawn]


def _split(split: str) -> Split:
    if split not in get_args(Split):
        raise InputError(f"unknown split {split!r}. Known: {', '.join(get_args(Split))}.")
    return cast(Split, split)


def _day(value: str | date | None) -> date | None:
    if value is None or isinstance(value, date):
        return value
    try:
        return date.fromisoformat(value)
    except ValueError as error:
        raise InputError(f"{value!r} is no day; write it as 2024-08-01.") from error


def _unknown(source: str) -> str:
    from reflective.tasks import TASKS

    known = [*_HOMES, *TASKS, MIXTURE, f"{PREFIX}:NAME"]
    near = difflib.get_close_matches(source, known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{source!r} is no benchmark, no family and no file.{hint} Known: {', '.join(known)}."
