"""Score-weighted vote: k full trajectories, each votes for its final answer with its score.

An unscored trajectory weighs nothing; where no voter is scored, each vote counts one and a note says so. Ties are
broken as in the majority vote.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from reflective.search.base import Choice
from reflective.search.majority import Majority, no_vote
from reflective.search.votes import ballots
from reflective.types import Problem, Trajectory

NO_WEIGHT = "no trajectory with an answer has a scored step; each vote counted one"


class Weighted(Majority):
    """A trajectory's vote weighs its score; see the module's docstring."""

    name: ClassVar[str] = "weighted"

    def choose(self, trajectories: Sequence[Trajectory], problem: Problem) -> Choice:
        votes = ballots(trajectories, problem)
        if not votes:
            return no_vote(trajectories)
        # argmax_a Σ_j S_j · [answer of j is a]
        total = sum(ballot.weight for ballot in votes)
        if total == 0.0:
            unweighted = super().choose(trajectories, problem)
            return replace(unweighted, evidence=None, notes=(NO_WEIGHT,))
        winner = max(votes, key=lambda ballot: (ballot.weight, *ballot.rank))
        return Choice(winner.voice.index, winner.voice.answer, winner.weight / total)
