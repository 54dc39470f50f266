"""Trajectories of a model as a run of our own evaluation: graded records, with token ids where something reads them
again. A folder never holds answers of two models."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from reflective.engines.torch import TorchEngine
from reflective.evaluate.run import Plan, Progress, run_benchmark
from reflective.models.digest import weights_digest
from reflective.records import Record
from reflective.search import BestOfN, Settings
from reflective.train.progress import Note, clock
from reflective.train.rollouts import load_records
from reflective.types import Problem

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

    `keep_ids` keeps token ids. Raises `InputError` where the folder holds another run, and KeyboardInterrupt on Ctrl-C;
    what was solved before is recorded in any case.
    """
    about = {"name": folder.name, "weights": weights_digest(engine.model, engine.head)}
    told = time.monotonic()

    def tell(progress: Progress) -> None:
        nonlocal told
        if time.monotonic() - told > TELL_SECONDS:
            told = time.monotonic()
            note(f"  {progress.done:,} of {progress.total:,} problems × {k}, {clock(progress.seconds_left)} left")

    run_benchmark(engine, problems, Plan(k, BestOfN("all"), settings, about, tokens=keep_ids), folder, tell=tell)
    return load_records(folder)
