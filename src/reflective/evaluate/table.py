"""Records as columns: what every metric is computed from. NumPy arrays, read once from a stream of records.

P problems, N trajectories of the problem that has most. Rows of problems with fewer are filled up: `present` says which
cells are real. What is unknown is NaN: the verdict of a trajectory that no grader could judge or that was not
continued to an answer, the score of one without a step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reflective.errors import InputError
from reflective.grading import groups_of, has_ended
from reflective.records import Record, TrajectoryRecord
from reflective.types import LET_GO

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

SCORES = (
    "score",
    "mean_logprob",
    "self_certainty",
    "confidence_mean",
    "confidence_lowest_group",
    "confidence_bottom10",
    "confidence_tail",
)
"""The figures of a trajectory by which one may be selected: fields of `TrajectoryRecord`, larger is better."""

FIRST_SCORE = 6  # columns of a trajectory before its scores
LEVEL_KEYS = ("level", "difficulty")  # of a problem's metadata


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The columns. `right` is 1, 0 or NaN; `group` the number of the answer among the problem's answers, -1 for none.
    `let_go` is the number in `LET_GO` of why the strategy gave a trajectory up, -1 where it did not.

    `chosen_right`, `confidence`, `seconds`, `prompt_tokens` and `written_tokens` are of the problem: the verdict of the
    answer that the run's own strategy gave, the probability that it stated, and what it cost.

    In a `complete` table every trajectory was drawn independently and came to its answer or to its end. Where only
    chosen ones did, or where some are forks, their verdicts are no fair sample, and nothing can be said of other
    choices.
    """

    keys: tuple[str, ...]
    families: tuple[str, ...]
    levels: tuple[str, ...]
    present: Bools  # (P, N)
    right: Floats  # (P, N)
    closed: Bools  # (P, N)
    finished: Bools  # (P, N)
    tokens: Floats  # (P, N)
    group: Ints  # (P, N)
    let_go: Ints  # (P, N)
    scores: Mapping[str, Floats]  # name -> (P, N)
    chosen_right: Floats  # (P,)
    confidence: Floats  # (P,)
    seconds: Floats  # (P,)
    prompt_tokens: Ints  # (P,)
    written_tokens: Floats  # (P,)
    model: str = ""
    strategy: str = ""
    complete: bool = True
    graders: frozenset[str] = frozenset()  # the versions that gave the verdicts

    @property
    def problems(self) -> int:
        """P."""
        return len(self.keys)

    @property
    def trajectories(self) -> int:
        """How many there are in all."""
        return int(self.present.sum())

    @property
    def budget(self) -> int:
        """The number of trajectories that every problem has which has any: the largest k that can be judged."""
        counts = self.present.sum(1)
        return int(counts[counts > 0].min(initial=np.iinfo(np.int64).max)) if (counts > 0).any() else 0

    def take(self, rows: Sequence[int] | Ints | Bools) -> Table:
        """The problems with these numbers, in this order; or those where a mask says so."""
        index = np.asarray(rows)
        numbers = np.flatnonzero(index) if index.dtype == np.bool_ else index.astype(np.int64)
        changed: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                changed[field.name] = value[numbers]
            elif isinstance(value, tuple):
                changed[field.name] = tuple(value[int(i)] for i in numbers)
            elif isinstance(value, Mapping):
                changed[field.name] = {name: column[numbers] for name, column in value.items()}
            else:
                changed[field.name] = value
        return Table(**changed)

    @classmethod
    def of(cls, records: Iterable[Record]) -> Table:
        """The columns of records, one row each, ordered by the problems' numbers in their run where they have them."""
        rows = _Rows()
        for record in records:
            rows.add(record)
        return rows.table()


class _Rows:
    """Lists that grow a record at a time and become arrays at the end."""

    def __init__(self) -> None:
        self.heads: list[tuple[Any, ...]] = []
        self.cells: list[Floats] = []  # (n, columns) each
        self.model = self.strategy = ""
        self.complete = True
        self.graders: set[str] = set()

    def add(self, record: Record) -> None:
        self.model, self.strategy = record.model, record.strategy
        self.graders.add(record.grader)
        number, counted = record.extra.get("number"), record.extra.get("tokens_known", True)
        self.heads.append(
            (
                number if isinstance(number, int) else len(self.heads),
                record.key,
                record.problem.family,
                level_of(record.problem.metadata),
                _right(record.verdict),
                _float(record.confidence),
                record.timing.total_s,
                record.usage.prompt_tokens,
                record.usage.completion_tokens if counted else float("nan"),
            )
        )
        self.complete = self.complete and all(has_ended(t) and t.parent is None for t in record.trajectories)
        groups = groups_of(record)
        cells = [_cells(t, group, counted) for t, group in zip(record.trajectories, groups, strict=True)]
        self.cells.append(np.array(cells, dtype=np.float64).reshape(len(cells), FIRST_SCORE + len(SCORES)))

    def table(self) -> Table:
        order = sorted(range(len(self.heads)), key=lambda i: self.heads[i][0])
        heads = [self.heads[i] for i in order]
        problems, most = len(order), max((len(cells) for cells in self.cells), default=0)
        full = np.full((problems, most, FIRST_SCORE + len(SCORES)), np.nan)
        present = np.zeros((problems, most), dtype=np.bool_)
        for row, i in enumerate(order):
            full[row, : len(self.cells[i])] = self.cells[i]
            present[row, : len(self.cells[i])] = True
        if len({head[1] for head in heads}) < problems:
            raise InputError("several records are of the same problem. Give every problem an id of its own.")
        columns = list(zip(*heads, strict=True)) if heads else [()] * 9
        return Table(
            keys=tuple(columns[1]),
            families=tuple(columns[2]),
            levels=tuple(columns[3]),
            present=present,
            right=full[:, :, 0],
            closed=full[:, :, 1] == 1.0,
            finished=full[:, :, 2] == 1.0,
            tokens=full[:, :, 3],
            group=np.nan_to_num(full[:, :, 4], nan=-1.0).astype(np.int64),
            let_go=np.nan_to_num(full[:, :, 5], nan=-1.0).astype(np.int64),
            scores={name: full[:, :, FIRST_SCORE + i] for i, name in enumerate(SCORES)},
            chosen_right=np.array(columns[4], dtype=np.float64),
            confidence=np.array(columns[5], dtype=np.float64),
            seconds=np.array(columns[6], dtype=np.float64),
            prompt_tokens=np.array(columns[7], dtype=np.int64),
            written_tokens=np.array(columns[8], dtype=np.float64),
            model=self.model,
            strategy=self.strategy,
            complete=self.complete,
            graders=frozenset(self.graders),
        )


def level_of(metadata: Mapping[str, Any]) -> str:
    """The difficulty that a problem states, as text; nothing where it states none."""
    return next((str(metadata[key]) for key in LEVEL_KEYS if metadata.get(key) is not None), "")


def _cells(t: TrajectoryRecord, group: int | None, counted: bool) -> tuple[float, ...]:
    return (
        _right(t.verdict),
        float(t.closed),
        float(t.finish_reason in ("think_end", "eos")),
        float(t.tokens) if counted else float("nan"),
        -1.0 if group is None else float(group),
        float(next((number for number, kind in enumerate(LET_GO) if f"{kind}:" in t.let_go), -1)),
        *(_float(getattr(t, name)) for name in SCORES),
    )


def _right(verdict: Any) -> float:
    known = None if verdict is None else verdict.right
    return float("nan") if known is None else float(known)


def _float(value: float | None) -> float:
    return float("nan") if value is None else float(value)
