"""Effort auto's schedule at the end of training, fitted on the validation rollouts as the new head scores them.

The epoch of the head, and its layer where several were tried, were chosen on the same problems, which flatters the
certificate a little (`search.certify`); `reflective calibrate` on problems of their own gives one that is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from reflective.errors import InputError
from reflective.judge.aggregate import aggregate
from reflective.judge.heads.paper import SPRMHead
from reflective.judge.judge import Judge
from reflective.records import Record
from reflective.search.auto_fit import fit_auto
from reflective.search.simulate import traces_of
from reflective.shards import Place
from reflective.train.head.fit import step_logits_of
from reflective.train.progress import Note
from reflective.train.rollouts import load_records, load_rollouts

FLATTERED = "the head was chosen on the same problems, so the real risks are a little higher; see docs/spending.md"


def with_schedule(judge: Judge, folder: Path, temperature: float, note: Note) -> Judge:
    """The judge with a schedule fitted on the rollouts in `folder`; unchanged, with a note why, if none can be."""
    records = [record for record in load_records(folder) if record.trajectories]
    rollouts = load_rollouts(folder, Place(judge.config.layer, judge.config.feature_position))
    logits = iter(step_logits_of(cast(SPRMHead, judge.head), rollouts))
    problems = [
        traces_of(with_scores(record, [next(logits) for _ in record.trajectories], judge.aggregation))
        for record in records
    ]
    try:
        judge, schedule = fit_auto(judge, problems, sampling={"temperature": temperature})
    except InputError as error:
        note(f"no schedule for effort auto: {error}")
        return judge
    limits = "  ".join(f"{limit.risk:g}: {limit.tokens:.2f}" for limit in schedule.limits)
    note(
        f"effort auto, tested on {schedule.problems:,} problems, by risk the share of the tokens of {schedule.k} "
        f"trajectories  {limits}"
    )
    note(FLATTERED)
    return judge


def with_scores(record: Record, logits: Sequence[Sequence[float]], aggregation: str) -> Record:
    """The record with the logits that a head gives to the steps of each of its trajectories."""
    scored = (
        replace(t, step_logits=tuple(steps), score=aggregate(steps, aggregation))
        for t, steps in zip(record.trajectories, logits, strict=True)
    )
    return replace(record, trajectories=tuple(scored))
