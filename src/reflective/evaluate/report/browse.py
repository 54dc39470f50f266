"""The problems that a reader can open on the page: which ones, and their trajectories with steps and scores.

A page holds as much text as its budget allows. Where a run has more, problems are taken at random, in a fixed order,
until it is used up: what is shown is a fair picture of the run.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from reflective.evaluate.report.content import Run
from reflective.evaluate.table import level_of
from reflective.records import Record, TrajectoryRecord, read_records
from reflective.records.manifest import RECORDS
from reflective.selection import by_score

STEP_END = "\n\n"  # where steps are looked for when their ends were not recorded


def problems_to_show(run: Run, budget_bytes: float, *, seed: int = 0) -> list[dict[str, Any]]:
    """The problems of a run as JSON objects, up to about `budget_bytes` of text, ordered as in the run."""
    sizes = {record.key: _size(record) for record in read_records(run.folder / RECORDS)}
    order = list(sizes)
    random.Random(seed).shuffle(order)
    chosen: set[str] = set()
    spent = 0
    for key in order:
        if chosen and spent + sizes[key] > budget_bytes:
            break
        chosen.add(key)
        spent += sizes[key]
    place = {key: i for i, key in enumerate(run.table.keys)}
    shown = (record for record in read_records(run.folder / RECORDS) if record.key in chosen)
    return [problem_of(record) for record in sorted(shown, key=lambda r: place.get(r.key, 0))]


def problem_of(record: Record) -> dict[str, Any]:
    """One problem with its trajectories, best score first."""
    trajectories = [_trajectory(t, t.index == record.selected) for t in by_score(record.trajectories)]
    rights = [t["right"] for t in trajectories]
    return {
        "key": record.key,
        "family": record.problem.family,
        "level": level_of(record.problem.metadata),
        "text": record.problem.text,
        "gold": record.problem.answer,
        "answer": record.answer,
        "right": record.verdict.right if record.verdict else None,
        "reason": record.verdict.reason if record.verdict else "",
        "rights": sum(r is True for r in rights),
        "confidence": record.confidence,
        "notes": list(record.notes),
        "trajectories": trajectories,
    }


def _trajectory(t: TrajectoryRecord, selected: bool) -> dict[str, Any]:
    steps, rest = steps_of(t)
    return {
        "index": t.index,
        "selected": selected,
        "closed": t.closed,
        "finish": t.finish_reason,
        "parent": t.parent,
        "at": t.at,
        "tokens": t.tokens,
        "let_go": t.let_go,
        "score": _short(t.score),
        "logprob": _short(t.mean_logprob),
        "answer": t.answer,
        "right": t.verdict.right if t.verdict else None,
        "reason": t.verdict.reason if t.verdict else "",
        "steps": [[text, _short(score)] for text, score in steps],
        "rest": rest,
        "answer_text": t.answer_text,
    }


def steps_of(t: TrajectoryRecord) -> tuple[list[tuple[str, float]], str]:
    """The thinking cut into its steps, each with its score, and what stands behind the last one.

    Where the ends were not recorded, empty lines are taken for them if there are as many; else nothing is cut, and the
    scores stand alone.
    """
    scores = t.step_scores
    ends: Sequence[int] = t.step_ends
    if len(ends) != len(scores):
        found = list(_ends(t.thinking))
        ends = found if len(found) == len(scores) else ()
    if not ends:
        return [("", score) for score in scores], t.thinking
    starts = [0, *ends[:-1]]
    steps = [(t.thinking[a:b], score) for a, b, score in zip(starts, ends, scores, strict=True)]
    return steps, t.thinking[ends[-1] :]


def _ends(text: str) -> Iterator[int]:
    place = text.find(STEP_END)
    while place >= 0:
        yield place + len(STEP_END)
        place = text.find(STEP_END, place + len(STEP_END))


def _size(record: Record) -> int:
    """About how many bytes a problem takes on the page."""
    texts = len(record.problem.text) + sum(len(t.thinking) + len(t.answer_text) for t in record.trajectories)
    return texts + 300 + sum(250 + 16 * len(t.step_logits) for t in record.trajectories)


def _short(value: float | None) -> float | None:
    return None if value is None or value != value or abs(value) == float("inf") else float(f"{value:.4g}")
