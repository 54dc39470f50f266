"""Trajectories of a model as graded records, with their token ids where something will read them again.

    solve -> grade -> write

Like `reflective.evaluate.run`, in one thread: a record is written as soon as its problem is done, a stopped run goes on
behind its last one, and a folder never holds answers of two models.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from reflective.engines.torch import TorchEngine
from reflective.evaluate.run import Plan
from reflective.grading import record_of
from reflective.records import Record, RecordWriter, read_records, with_own_keys
from reflective.records.manifest import RECORDS, claim
from reflective.search import BestOfN, Settings, solve_many
from reflective.train.joint.setup import weights_digest
from reflective.train.progress import Note, clock
from reflective.types import Problem, Solution

TELL_SECONDS = 15.0


def sample(
    engine: TorchEngine,
    problems: Sequence[Problem],
    k: int,
    folder: Path,
    settings: Settings,
    note: Note,
    *,
    keep_ids: bool = False,
) -> list[Record]:
    """`k` trajectories of each problem, all with their answers; what is there already is not sampled again.

    `keep_ids` keeps the token ids of prompt and trajectories in the record's `extra`. Raises `InputError` where the
    folder holds another run, and KeyboardInterrupt on Ctrl-C; what was solved before is recorded in any case.
    """
    problems = with_own_keys(problems)
    described = {"name": folder.name, "weights": weights_digest(engine.model, engine.head), "ids": keep_ids}
    plan = Plan(k, BestOfN("all"), settings, described)
    claim(folder, plan.manifest(engine, problems))
    numbers = {problem.id or problem.text: number for number, problem in enumerate(problems)}
    with RecordWriter(folder / RECORDS) as writer:
        waiting = [problem for problem in problems if (problem.id or problem.text) not in writer.done]
        began = told = time.monotonic()
        solutions = solve_many(
            engine, waiting, k, strategy=plan.strategy, settings=settings, in_flight=2 * engine.max_rows
        )
        for count, (problem, solution) in enumerate(solutions, 1):
            record = record_of(solution, numbers[problem.id or problem.text])
            writer.write(replace(record, extra={**record.extra, **_ids(engine, solution)}) if keep_ids else record)
            if time.monotonic() - told > TELL_SECONDS:
                told = time.monotonic()
                left = (told - began) / count * (len(waiting) - count)
                note(f"  {len(writer.done):,} of {len(problems):,} problems × {k}, {clock(left)} left")
    return load(folder)


def load(folder: Path) -> list[Record]:
    """The records of a folder in the order of their problems."""
    return sorted(read_records(folder / RECORDS), key=lambda record: record.extra["number"])


def _ids(engine: TorchEngine, solution: Solution) -> dict[str, Any]:
    return {
        "prompt_ids": list(engine.encode_prompt(solution.problem.text)),
        "token_ids": [list(t.token_ids) for t in solution.trajectories],
    }
