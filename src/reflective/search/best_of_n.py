"""Best of n, the paper's method: reason k times, answer once, from the reasoning with the highest score.

Departure from the reference: it writes all k answers and selects afterwards; here only the selected trajectory is
continued. `answers="all"` does as the reference does. The choice is the same. Should the answer come out empty, the
next best trajectory is continued.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from reflective.search.base import Answers, Choice, Steering, Strategy
from reflective.selection import best_closed
from reflective.types import Problem, Trajectory


class BestOfN(Strategy):
    """Select by trajectory score; see the module's docstring."""

    name: ClassVar[str] = "best_of_n"
    needs_scores: ClassVar[bool] = True

    def __init__(self, answers: Answers = "selected") -> None:
        self.answers = answers

    def on_thought(self, run: Steering, trajectory: Trajectory) -> None:
        if self.answers == "all":
            run.answer(trajectory.index)

    def on_idle(self, run: Steering) -> None:
        best, _ = best_closed(run.trajectories)
        if best is not None and best.finish_reason == "think_end":
            run.answer(best.index)

    def choose(self, trajectories: Sequence[Trajectory], problem: Problem) -> Choice:
        # argmax_j S(trajectory j) over the closed ones (paper, section 3.3)
        best, notes = best_closed(trajectories)
        if best is None:
            return Choice(None)
        return Choice(best.index, best.answer, best.score, notes)
