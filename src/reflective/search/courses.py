"""Problems played without a stop, for fitting: where each limit of the regret would have stopped them.

As long as nothing stops, what is dropped and started does not depend on the regret; so a problem is played once for
every way to begin and to drop, and all limits, whatever the weights, are read off its marks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from reflective.judge.calibrate import fit_logistic
from reflective.judge.schedule import Leader
from reflective.search.auto_effort import FEATURES, AutoEffort, evidence, hopeless, leader_of, wanted
from reflective.search.clock import Board, Clock, Decision, Seen
from reflective.search.risk import Played
from reflective.search.simulate import Trace
from reflective.selection import best_closed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DROP_STEPS: Final = 2
RIDGE: Final = 0.1


@dataclass(frozen=True, slots=True)
class Course:
    """A problem played without a stop: at each mark the evidence, whether the leader is right, and the tokens so far.

    `high`: whether effort high gives a right answer, which takes `full` tokens.
    """

    high: bool
    full: int
    marks: tuple[tuple[tuple[float, ...], bool, int], ...]


class _Unstopped(AutoEffort):
    """Effort auto that never finds a problem safe; it notes what it sees."""

    def __init__(self, first: int, growth: float, drop: float, every: int) -> None:
        super().__init__()
        self.every, self._first, self._growth, self._drop = every, first, growth, drop
        self.board: Board | None = None

    def first(self, k: int) -> int:
        return self._first

    def decide(self, board: Board) -> Decision:
        self.board = board
        drop = hopeless(board.running, self._drop, DROP_STEPS)
        return Decision(drop, wanted(board, len(drop), self._first, self._growth))


def play(traces: Sequence[Trace], k: int, first: int, growth: float, drop: float, leader: Leader, every: int) -> Course:
    """The course of a problem."""
    rule = _Unstopped(first, growth, drop, every)
    clock = Clock(rule, k)
    clock.begin()
    marks = []
    spent = 0  # tokens of what was let go

    def look(index: int, tokens: int) -> Seen:
        return traces[index].at(tokens)

    while not clock.done:
        clock.advance(look)
        board = rule.board
        assert board is not None
        if board.ended:
            found = leader_of(board.ended, leader)
            right = found is not None and traces[found[0].index].right is True
            written = spent + sum(t.tokens for t in (*board.ended, *board.running))
            marks.append((evidence(board, found), right, written))
        spent = sum(t.tokens for t, _ in clock.let_go.values())
    if not marks:
        marks.append(((0.0,) * FEATURES, False, clock.tokens))
    marks[-1] = (*marks[-1][:2], clock.tokens)
    best, _ = best_closed([t.whole for t in traces[:k]])
    high = best is not None and traces[best.index].right is True
    return Course(high, sum(t.whole.tokens for t in traces[:k]), tuple(marks))


@dataclass(frozen=True, slots=True, eq=False)
class Courses:
    """Courses as arrays, P problems, M marks of the longest, F features."""

    x: NDArray[np.float64]  # (P, M, F)
    right: NDArray[np.bool_]  # (P, M)
    tokens: NDArray[np.int64]  # (P, M)
    last: NDArray[np.int64]  # (P,)
    high: NDArray[np.bool_]  # (P,)
    full: NDArray[np.int64]  # (P,)

    @classmethod
    def of(cls, courses: Sequence[Course]) -> Courses:
        """Short courses are filled up with their last mark."""
        import numpy as np

        most = max(len(course.marks) for course in courses)
        marks = [[*course.marks, *[course.marks[-1]] * (most - len(course.marks))] for course in courses]
        return cls(
            x=np.array([[x for x, _, _ in row] for row in marks], dtype=float),
            right=np.array([[right for _, right, _ in row] for row in marks], dtype=bool),
            tokens=np.array([[spent for _, _, spent in row] for row in marks], dtype=np.int64),
            last=np.array([len(course.marks) - 1 for course in courses]),
            high=np.array([course.high for course in courses], dtype=bool),
            full=np.array([course.full for course in courses], dtype=np.int64),
        )

    def take(self, rows: Sequence[int]) -> Courses:
        """Some of the problems."""
        return Courses(*(getattr(self, name)[list(rows)] for name in Courses.__dataclass_fields__))

    def played(self, weights: Sequence[float], limits: Sequence[float]) -> list[Played]:
        """What each limit comes to."""
        import numpy as np

        predicted = 1.0 / (1.0 + np.exp(-np.clip(self.x @ np.array(weights), -700.0, 700.0)))  # (P, M)
        least = np.minimum.accumulate(predicted, axis=1)
        rows, found = np.arange(len(self.last)), []
        for limit in limits:
            stopped = least <= limit
            mark = np.where(stopped.any(axis=1), stopped.argmax(axis=1), self.last)
            right = self.right[rows, mark]
            share = float(self.tokens[rows, mark].sum() / max(self.full.sum(), 1))
            found.append(Played(int((self.high & ~right).sum()), int((right & ~self.high).sum()), share))
        return found


def play_all(
    problems: Sequence[Sequence[Trace]], k: int, first: int, growth: float, drop: float, leader: Leader, every: int
) -> Courses:
    """The courses of problems."""
    return Courses.of([play(traces, k, first, growth, drop, leader, every) for traces in problems])


def learn(parts: Sequence[Courses]) -> tuple[float, ...]:
    """The weights of the regret: P(effort high is right and the leader is not), each problem counting alike."""
    import numpy as np

    x, y, weight = [], [], []
    for c in parts:
        there = np.arange(c.x.shape[1])[None, :] <= c.last[:, None]  # (P, M)
        x.append(c.x[there])
        y.append((c.high[:, None] & ~c.right)[there].astype(float))
        weight.append(np.broadcast_to(1.0 / (c.last[:, None] + 1.0), there.shape)[there] / len(parts))
    prior = np.zeros(FEATURES)
    return tuple(fit_logistic(np.concatenate(x), np.concatenate(y), np.concatenate(weight), prior, ridge=RIDGE))
