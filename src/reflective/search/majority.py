"""Majority vote: k full trajectories, the most frequent final answer wins; scores only break ties.

The rules of the vote are those of `reflective.selection`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from reflective.search.base import Choice, Steering, Strategy
from reflective.selection import answer_groups, best_closed, vote
from reflective.types import Problem, Trajectory

NO_VOTE = "no trajectory states a final answer, so there was no vote; the best one by score is shown"


class Majority(Strategy):
    """One trajectory, one vote; see the module's docstring."""

    name: ClassVar[str] = "majority"
    weighted: ClassVar[bool] = False

    def on_thought(self, run: Steering, trajectory: Trajectory) -> None:
        run.answer(trajectory.index)

    def choose(self, trajectories: Sequence[Trajectory], problem: Problem) -> Choice:
        found = vote(trajectories, answer_groups(trajectories, problem), weighted=self.weighted)
        if found is None:  # no voter: the best closed trajectory, with no final answer
            best, _ = best_closed(trajectories)
            return Choice(None) if best is None else Choice(best.index, None, None, (NO_VOTE,))
        return Choice(found.winner.index, found.winner.answer, found.share, found.notes)
