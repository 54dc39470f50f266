"""Majority vote: k full trajectories, the most frequent final answer wins; scores only break ties.

The rules of the vote are those of `reflective.selection`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from reflective.search.base import Choice, Steering, Strategy
from reflective.selection import Ranked, answer_groups, best_by_logprob, best_closed, vote
from reflective.types import Problem, Trajectory

NO_VOTE = "no trajectory states a final answer, so there was no vote; the best one by score is shown"
FEW_VOTES = "too few trajectories state a final answer for a vote; the one that the model found most probable is shown"
QUORUM = 0.5  # share of the closed trajectories that must state a final answer, where nobody asked for a vote


class Majority(Strategy):
    """One trajectory, one vote; see the module's docstring.

    Where fewer than `quorum` of the closed trajectories state a final answer, as with problems that have none, the most
    probable trajectory is chosen instead, also where there are scores: they were learned from final answers, and say
    nothing where there are none (docs/real-models.md, HumanEval).
    """

    name: ClassVar[str] = "majority"
    weighted: ClassVar[bool] = False

    def __init__(self, quorum: float = 0.0) -> None:
        self.quorum = quorum

    def on_thought(self, run: Steering, trajectory: Trajectory) -> None:
        run.answer(trajectory.index)

    def choose(self, trajectories: Sequence[Trajectory], problem: Problem) -> Choice:
        groups = answer_groups(trajectories, problem)
        choice = pick_by_vote(trajectories, groups, weighted=self.weighted, quorum=self.quorum)
        return replace(choice, answer=next((t.answer for t in trajectories if t.index == choice.index), None))


def has_quorum(trajectories: Sequence[Ranked], groups: Sequence[int | None], quorum: float) -> bool:
    """Whether at least `quorum` of the closed trajectories state a final answer; each has the number of its answer."""
    stated = [group is not None for t, group in zip(trajectories, groups, strict=True) if t.closed]
    return sum(stated) >= quorum * len(stated)


def pick_by_vote(
    trajectories: Sequence[Ranked], groups: Sequence[int | None], *, weighted: bool, quorum: float = 0.0
) -> Choice:
    """The winner of the vote, without its answer: the most probable one below the `quorum`, and the best closed one
    where nobody votes."""
    several = len(trajectories) > 1  # of one alone nobody expects a vote
    if not has_quorum(trajectories, groups, quorum):
        return Choice(best_by_logprob(trajectories).index, None, None, (FEW_VOTES,) if several else ())
    found = vote(trajectories, groups, weighted=weighted)
    if found is not None:
        return Choice(found.winner.index, None, found.share, found.notes)
    shown, _ = best_closed(trajectories)
    return Choice(None) if shown is None else Choice(shown.index, None, None, (NO_VOTE,) if several else ())
