"""Where problems come from: one name for a benchmark, a generated family, a data set on the hub, or a file.

load_problems("math500", levels=[1, 2, 3], limit=100)
load_problems("gsm8k", file="gsm8k_test.jsonl")
load_problems("livecodebench", since="2024-08-01", until="2025-02-01")
load_problems("my.csv", fields={"question": "q", "answer": "key"}, kind="choice")
load_problems("hub:openai/gsm8k/main/test*.parquet", like="gsm8k")
load_problems("countdown", limit=50)
load_problems("reasoning_gym:sudoku", limit=50)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, Final, cast, get_args

from reflective.errors import InputError
from reflective.settings import check_least, check_names, did_you_mean
from reflective.tasks.base import Split
from reflective.tasks.benchmarks import BENCHMARKS, Options, benchmark_name, get_benchmark
from reflective.tasks.families import MIXTURE, TASKS, family_names, mixture
from reflective.tasks.families.gym import PREFIX, gym_families, gym_problems
from reflective.tasks.families.gym import PROMPT as GYM_PROMPT
from reflective.tasks.files import read_problems
from reflective.tasks.files.hub import HUB, HubSource, fetch
from reflective.tasks.prompts import SLOT, ask
from reflective.types import Problem

GENERATED: Final = 100  # problems of a family, where no number is given
LEVELS: Final = (1, 2, 3)  # of a family, where none are given


def load_problems(
    source: str,
    *,
    file: str | Path | None = None,
    split: str | None = None,
    levels: Sequence[int] | None = None,
    limit: int | None = None,
    seed: int = 0,
    revision: str | None = None,
    prompt: str | None = None,
    like: str | None = None,
    fields: Mapping[str, str] | None = None,
    kind: str | None = None,
    since: str | date | None = None,
    until: str | date | None = None,
    subjects: Sequence[str] = (),
    needs_answer: bool = True,
    skipped: list[str] | None = None,
) -> list[Problem]:
    """Problems with stable ids: of a benchmark, of a generated family, of a data set on the hub, or of a file.

    `source` is a benchmark ("math500"; from the hub, or from `file`), a family or "mixture", families of reasoning_gym
    ("reasoning_gym:sudoku"), "hub:owner/name" (see `HubSource.named`), or a file's path. `limit` keeps the first ones
    (a family gives 100 without it). `prompt`, with {problem} in it, replaces the source's own; `like` names a benchmark
    or family and asks as that does (a file's rows are then of its kind, too).

    The others have a meaning for some sources only, and are refused for the rest. A benchmark: `split` ("train", where
    there is one), `revision` on the hub, and what it says in `Benchmark.options` of `seed`, `since` and `until` (days,
    both included), `subjects` and `levels`. A family: `split`, `seed` and `levels` (not of reasoning_gym's). A file, a
    data set on the hub, or the `file` of a benchmark: `fields` and `kind` (see `tasks/files`), `skipped`, which makes
    bad rows left out and told there, and `needs_answer`. Raises `InputError` for what can't be read.
    """
    check_least(1, limit=limit)
    given = {
        name
        for name, value in (
            ("file", file), ("split", split), ("levels", levels), ("seed", seed), ("revision", revision),
            ("fields", fields), ("kind", kind), ("since", since), ("until", until), ("subjects", subjects),
        )
        if value
    }  # fmt: skip
    if like is not None:
        prompt = prompt or prompt_like(like)
        if kind is None and (model := benchmark_name(like)) is not None:
            kind = BENCHMARKS[model].kind
    rows: dict[str, Any] = {"prompt": prompt, "skipped": skipped}
    name = benchmark_name(source)
    if name is not None and not (given & {"fields", "kind"} and file is not None):
        benchmark = BENCHMARKS[name]
        _refuse(given - {"file", "split", "revision", *benchmark.options}, source)
        options = Options(seed, _day(since), _day(until), tuple(subjects), None if levels is None else tuple(levels))
        path = None if file is None else Path(file)
        return benchmark.problems(path, split=split, revision=revision, options=options, **rows)[:limit]
    if name is not None:  # rows of another form, asked and graded as the benchmark's
        _refuse(given - {"file", "fields", "kind"}, f"{source} with fields of its own")
        benchmark = BENCHMARKS[name]
        rows["prompt"] = prompt or benchmark.prompt
        return read_problems(
            [Path(cast(str, file))], fields=fields, kind=kind or benchmark.kind, needs_answer=needs_answer, **rows
        )[:limit]
    if (families := family_names(source)) is not None:
        _refuse(given - {"split", "levels", "seed"}, source)
        drawn = mixture(_split(split or "test"), limit or GENERATED, tuple(levels or LEVELS), families, seed)
        return [p if prompt is None else replace(p, text=ask(p.text, prompt)) for p in drawn]
    if (names := gym_families(source)) is not None:
        _refuse(given - {"split", "seed"}, source)
        return list(gym_problems(names, limit or GENERATED, split=_split(split or "test"), seed=seed, prompt=prompt))
    rows |= {"fields": fields, "kind": kind, "needs_answer": needs_answer}
    if source.startswith(HUB):
        _refuse(given - {"split", "revision", "fields", "kind"}, source)
        data_set = HubSource.named(source, split, revision)
        return read_problems(fetch(data_set), name=data_set.dataset, **rows)[:limit]
    own = Path(source if file is None else file).expanduser()
    if own.suffix or own.exists():
        _refuse(given - {"file", "fields", "kind"}, source)
        return read_problems([own], **rows)[:limit]
    known = [*BENCHMARKS, *TASKS, MIXTURE, f"{PREFIX}:NAME", f"{HUB}OWNER/NAME"]
    hint = did_you_mean(source, known)
    raise InputError(f"{source!r} is no benchmark, no family and no file.{hint} Known: {', '.join(known)}.")


def prompt_like(name: str) -> str:
    """The prompt with which a benchmark or a family asks its questions."""
    if family_names(name) is not None:
        return SLOT
    if gym_families(name) is not None:
        return GYM_PROMPT
    return get_benchmark(name).prompt


def _refuse(options: set[str], source: str) -> None:
    for name in sorted(options):
        raise InputError(f"{name!r} has no meaning for {source!r}; leave it out.")


def _split(split: str) -> Split:
    check_names([split], get_args(Split), "split")
    return cast(Split, split)


def _day(value: str | date | None) -> date | None:
    if value is None or isinstance(value, date):
        return value
    try:
        return date.fromisoformat(value)
    except ValueError as error:
        raise InputError(f"{value!r} is no day; write it as 2024-08-01.") from error
