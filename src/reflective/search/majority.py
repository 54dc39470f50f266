"""Majority vote: k full trajectories, the most frequent final answer wins; scores only break ties.

Of equally frequent answers the one whose best trajectory scores higher wins, then the one that came first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from reflective.search.base import Choice, Steering, Strategy
from reflective.search.ranking import best_closed
from reflective.search.votes import ballots
from reflective.types import Problem, Trajectory

NO_VOTE = "no trajectory states a final answer, so there was no vote; the best one by score is shown"


class Majority(Strategy):
    """One trajectory, one vote; see the module's docstring."""

    name: ClassVar[str] = "majority"

    def on_thought(self, run: Steering, trajectory: Trajectory) -> None:
        run.answer(trajectory.index)

    def choose(self, trajectories: Sequence[Trajectory], problem: Problem) -> Choice:
        votes = ballots(trajectories, problem)
        if not votes:
            return no_vote(trajectories)
        winner = max(votes, key=lambda ballot: (len(ballot.members), *ballot.rank))
        share = len(winner.members) / sum(len(ballot.members) for ballot in votes)
        return Choice(winner.voice.index, winner.voice.answer, share)


def no_vote(trajectories: Sequence[Trajectory]) -> Choice:
    """What a vote without voters comes to: the best closed trajectory, with no final answer."""
    best, _ = best_closed(trajectories)
    return Choice(None) if best is None else Choice(best.index, None, None, (NO_VOTE,))
