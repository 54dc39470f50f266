"""Compact records: all that figures are computed from, without texts and token ids, in one compressed file.

A benchmark's questions and a model's answers are not ours to hand on, and take a hundred times the room.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from reflective.files import whole_file
from reflective.records import Record, TrajectoryRecord
from reflective.types import Problem, Timing, Verdict

DIGITS = 4  # of logits and log-probabilities
LEFT_OUT = "…"  # stands for the text of an answer, so that it still counts as one


def compact(record: Record) -> Record:
    """The record without what was asked and written, and without the folder that the model lay in."""
    return replace(
        record,
        model=Path(record.model).name,
        problem=Problem("", id=record.key, kind=record.problem.kind),
        trajectories=tuple(_compact(t) for t in record.trajectories),
        answer=None if record.answer is None else LEFT_OUT,
        timing=Timing(0.0),
        verdict=_kind(record.verdict),
        notes=(),
        prompt_ids=(),
    )


def _compact(t: TrajectoryRecord) -> TrajectoryRecord:
    return replace(
        t,
        step_logits=tuple(_short(s) for s in t.step_logits),
        score=None if t.score is None else _short(t.score),
        mean_logprob=None if t.mean_logprob is None else _short(t.mean_logprob),
        answer=None if t.answer is None else LEFT_OUT,
        answer_text=LEFT_OUT if t.answer_text.strip() else "",
        thinking="",
        step_ends=(),
        token_ids=(),
        verdict=_kind(t.verdict),
    )


def _kind(verdict: Verdict | None) -> Verdict | None:
    return None if verdict is None else Verdict(verdict.kind)


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def write_compact(path: Path, records: Iterable[Record]) -> None:
    """Write records, compacted, whole or not at all; the same records give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(compact(record).to_json(), ensure_ascii=False, separators=(",", ":")) for record in records]
    with whole_file(path) as temporary:
        temporary.write_bytes(gzip.compress("".join(line + "\n" for line in lines).encode(), mtime=0))


def read_compact(path: Path) -> Iterator[Record]:
    """The records of a file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield Record.from_json(json.loads(line))
