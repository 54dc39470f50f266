"""A single sample: one trajectory, one answer. The baseline that the other strategies are measured against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from reflective.search.base import Choice, Steering, Strategy
from reflective.types import Problem, Trajectory


class Single(Strategy):
    """The first trajectory, whatever the effort is; its score serves the confidence only."""

    name: ClassVar[str] = "single"

    def budget(self, k: int) -> int:
        return 1

    def on_thought(self, run: Steering, trajectory: Trajectory) -> None:
        run.answer(trajectory.index)

    def choose(self, trajectories: Sequence[Trajectory], problem: Problem) -> Choice:
        first = min(trajectories, key=lambda t: t.index, default=None)
        if first is None or not first.closed:
            return Choice(None)
        return Choice(first.index, first.answer, first.score)
