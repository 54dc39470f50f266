"""Heads fitted on recorded hidden states, and their scores of recorded trajectories as records of their own.

A head's scores are written in the format of every other run, so that one summary computes every figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from settings import Table, merged

from reflective.judge.aggregate import aggregate
from reflective.judge.config import JudgeConfig
from reflective.judge.heads.paper import SPRMHead
from reflective.records import Record, RecordWriter
from reflective.records.manifest import RECORDS
from reflective.selection import best_closed
from reflective.settings import make_settings
from reflective.shards import Steps
from reflective.train.head.config import HeadConfig
from reflective.train.head.fit import fit_exponent, fit_head
from reflective.train.progress import Note
from reflective.train.rollouts import Rollouts

DIGITS = 5  # of a logit that is written

Logits = list[list[list[float]]]
"""Of each problem's each trajectory's steps."""


def head_config(model: str, seed: int, *tables: Table) -> HeadConfig:
    """The package's settings of a head, and what the tables say over them."""
    return make_settings(HeadConfig, merged({"model": model, "tasks": ["all"], "seed": seed}, *tables))


def fit(config: HeadConfig, train: Rollouts, validation: Rollouts, sprm: JudgeConfig, note: Note) -> SPRMHead:
    """A head fitted on `train`, as it was after its best epoch on `validation`; one beside log-probabilities with the
    exponent that is best there, as the shipped one.

    Raises `TrainingError` where there are not both right and wrong trajectories.
    """
    said: list[str] = []
    head, epoch = fit_head(config, train, validation, adapted(sprm, config), said.append)
    if head.uses_logprobs:
        head.probability_exponent, _ = fit_exponent(head, validation, config.aggregation)
    note(f"  fitted on {len(train):,} trajectories: {said[epoch - 1] if 0 < epoch <= len(said) else 'nothing learnt'}")
    return head


def adapted(sprm: JudgeConfig, config: HeadConfig) -> JudgeConfig:
    """The head's place in the model, with the kind of head that the settings ask for."""
    return replace(
        sprm,
        dropout=config.dropout,
        logprob_features=config.logprob_features,
        probability_exponent=0.0,
        aggregation=config.aggregation,
        calibration=None,
    )


@torch.no_grad()
def logits_of(head: SPRMHead, records: Sequence[Record], steps: Mapping[str, Steps]) -> Logits:
    """What a head says of every step."""
    found: Logits = []
    for record in records:
        mine = steps[record.key]
        values: list[float] = head.eval()(mine.features, mine.logprobs if head.uses_logprobs else None).tolist()
        row, start = list[list[float]](), 0
        for count in mine.counts:
            row.append(values[start : start + count])
            start += count
        found.append(row)
    return found


def judge_test(
    head: SPRMHead, records: Sequence[Record], steps: Mapping[str, Steps], folder: Path, aggregation: str
) -> None:
    """Write what a head says of recorded trajectories."""
    write_scored(folder, records, steps, logits_of(head, records, steps), aggregation)


def write_scored(
    folder: Path, records: Sequence[Record], steps: Mapping[str, Steps], logits: Logits, aggregation: str
) -> None:
    """The records as a judge sees them, in a folder of the judge's name, whole or not there.

    Reasoning and token ids stay where they were sampled.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{RECORDS}"
    temporary.unlink(missing_ok=True)
    with RecordWriter(temporary) as writer:
        for record, values in zip(records, logits, strict=True):
            writer.write(_scored(record, values, steps[record.key].positions, aggregation, folder.name))
    temporary.rename(folder / RECORDS)


def _scored(
    record: Record, logits: Sequence[Sequence[float]], places: Sequence[Sequence[int]], aggregation: str, name: str
) -> Record:
    trajectories = tuple(
        replace(
            t,
            step_logits=tuple(float(f"{s:.{DIGITS}g}") for s in values),
            step_positions=tuple(at[: len(values)]),
            score=aggregate(values, aggregation),
            thinking="",
            step_ends=(),
            token_ids=(),
        )
        for t, values, at in zip(record.trajectories, logits, places, strict=True)
    )
    chosen, _ = best_closed(trajectories)
    return replace(
        record,
        model=name,
        trajectories=trajectories,
        selected=None if chosen is None else chosen.index,
        answer=None if chosen is None else chosen.answer,
        verdict=chosen.verdict if chosen is not None else record.verdict,
        confidence=None,
        prompt_ids=(),
    )
