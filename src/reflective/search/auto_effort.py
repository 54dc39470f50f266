"""Effort auto: as few trajectories as the problem needs, at a stated risk (fitted by `search.certify`).

It begins with `first` trajectories at once, and keeps as many running as have come to an end (times `growth`, at least
`first`), so that an easy problem costs a few and a hard one is not held up by rounds. At each mark

    hopeless   a trajectory whose running score is below the share `behind` of the leader's is let go; or, where the
               limit of the risk has a `keep`, all k begin and the best share goes on at doubling marks (`prune`)
    safe       everything stops when the predicted regret is at most the limit of the asked risk

Regret is the probability that all k would give a right answer where the present leader's is wrong; its logit is linear
in what is seen (`evidence`). The leader is who answers at effort high among those that ended (`leader_at_high`), or the
winner of the score-weighted vote where the records say that it is clearly better. A vote has the quorum of effort high
(`search.majority`): below it the most probable trajectory leads.

Without a schedule it stops by agreement: when there is a quorum and P(p1 > p2) of the two leading answers passes 0.95
(the criterion of adaptive consistency), at no stated risk, and says so. That needs no scores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from reflective.judge.aggregate import logit
from reflective.judge.schedule import DEFAULT_RISK, Leader, Limit, Schedule
from reflective.search.adaptive_consistency import THRESHOLD, leader_probability
from reflective.search.base import Choice
from reflective.search.clock import Board, Decision, Seen
from reflective.search.clocked import EVERY, Clocked
from reflective.search.majority import QUORUM, has_quorum, pick_by_vote
from reflective.search.prune import is_doubling, outranked
from reflective.selection import best_closed

FIRST = 4  # trajectories at once, where no schedule says another number
SCORE_CLIP = 1e-4
SURPRISE_CLIP = 1e-4

BY_AGREEMENT = (
    "effort auto stopped by agreement, at no stated risk: {}. With a head, reflective calibrate fits a schedule"
)


class AutoEffort(Clocked):
    """See the module's docstring. `limit` is one of the schedule's."""

    name: ClassVar[str] = "auto_effort"

    def __init__(self, schedule: Schedule | None = None, limit: Limit | None = None, *, scored: bool = True) -> None:
        self.schedule, self.scored = schedule, scored
        self.limit = limit or (schedule.limit() if schedule is not None else None)
        self.every = schedule.every if schedule is not None else EVERY

    def budget(self, k: int) -> int:
        return self.schedule.k if self.schedule is not None else k

    def first(self, k: int) -> int:
        if self.schedule is None:
            return FIRST
        return k if self._prunes else self.schedule.first

    @property
    def waits_for_ends(self) -> bool:
        return self.schedule is None  # an agreement changes with an answer alone

    @property
    def _prunes(self) -> bool:
        return self.limit is not None and self.limit.keep < 1.0

    def decide(self, board: Board) -> Decision:
        schedule = self.schedule
        if schedule is None:
            return self._by_agreement(board)
        leader = leader_of(board.ended, schedule.leader) if board.ended else None
        if board.ended and self.limit is not None:
            predicted = regret(schedule.weights, evidence(board, leader))
            if predicted <= self.limit.regret:
                return Decision(stop=f"safe: more would win a right answer with probability {predicted:.4f}")
        if self.limit is not None and self._prunes:
            return Decision(outranked(board, self.limit.keep) if is_doubling(board.now // self.every) else ())
        least = self.limit.behind * (leader[0].score or 0.0) if self.limit and leader else 0.0
        drop = hopeless(board.running, least)
        return Decision(drop, wanted(board, len(drop), schedule.first, schedule.growth))

    def _by_agreement(self, board: Board) -> Decision:
        lead = leader_probability(board.ended)
        if lead > THRESHOLD and has_quorum(board.ended, _groups(board.ended), QUORUM):
            return Decision(stop=f"safe: the leading answer stays ahead with probability {lead:.3f}")
        return Decision(start=wanted(board, 0, FIRST, 1.0))

    def pick(self, ended: Sequence[Seen]) -> Choice:
        schedule, limit = self.schedule, self.limit
        if schedule is None or limit is None:
            why = "no schedule is fitted" if self.scored else "the model has no head"
            choice = pick_by_vote(ended, _groups(ended), weighted=self.scored, quorum=QUORUM)
            return replace(choice, notes=(*choice.notes, BY_AGREEMENT.format(why)))
        notes: tuple[str, ...] = ()
        if limit.risk > DEFAULT_RISK and limit.risk == schedule.smallest_risk:
            notes = (f"the risk is {limit.risk:g}, the smallest that the validation problems certified",)
        if schedule.leader == "vote":
            choice = pick_by_vote(ended, _groups(ended), weighted=True, quorum=QUORUM)
            return replace(choice, notes=(*choice.notes, *notes))
        best, more = best_closed(ended)
        return Choice(None, notes=notes) if best is None else Choice(best.index, None, best.score, (*more, *notes))


def _groups(ended: Sequence[Seen]) -> list[int | None]:
    return [t.group for t in ended]


Led = tuple[Seen, float]


def leader_at_high(whole: bool) -> Leader:
    """Who answers at effort high by default: the winner of the score-weighted vote where the `whole` response is the
    reasoning, else the best score."""
    return "vote" if whole else "score"


def leader_of(ended: Sequence[Seen], by: Leader) -> Led | None:
    """The trajectory that the answer would be taken from now, and the sum of the scores that give its answer."""
    if by == "score":
        winner = best_closed(ended)[0]
    else:
        chosen = pick_by_vote(ended, _groups(ended), weighted=True, quorum=QUORUM).index
        winner = next((t for t in ended if t.index == chosen), None)
    if winner is None:
        return None
    agreeing = (t.score or 0.0 for t in ended if t.group is not None and t.group == winner.group)
    return winner, math.fsum(agreeing)


def hopeless(running: Sequence[Seen], least: float) -> list[tuple[int, str]]:
    """Those to let go, with the reasons."""
    return [
        (t.index, f"score {t.score:.3f} after step {t.steps} is below {least:.3f}")
        for t in running
        if t.score is not None and t.score < least
    ]


def wanted(board: Board, dropped: int, first: int, growth: float) -> int:
    """How many to start, so that max(first, growth · those that have come to an end) are running."""
    left = len(board.running) - dropped
    return max(0, max(first, int(growth * (board.started - left))) - left)


def regret(weights: Sequence[float], seen: Sequence[float]) -> float:
    """σ(w · x)."""
    z = math.fsum(w * x for w, x in zip(weights, seen, strict=True))
    return 1.0 / (1.0 + math.exp(-z)) if z >= 0 else math.exp(z) / (1.0 + math.exp(z))


FEATURES = 10


def evidence(board: Board, leader: Led | None) -> tuple[float, ...]:
    """What the regret is predicted from; something has ended.

    Of the leader: l = logit of its score, l², ln(1 + the scores of its answer), ln(−ℓ); of the other answers
    ln(1 + their scores); ln n of the number started, l · ln n, the share that has ended; whether nobody leads; 1.
    """
    n = math.log(board.started)
    done = 1.0 - len(board.running) / board.started
    if leader is None:
        return 0.0, 0.0, 0.0, 0.0, 0.0, n, 0.0, done, 1.0, 1.0
    best, lead = leader
    others = math.fsum(t.score or 0.0 for t in board.ended if t.group is not None) - lead
    odds = logit(best.score or 0.0, SCORE_CLIP)
    surprise = math.log(max(-(best.mean_logprob or 0.0), SURPRISE_CLIP))
    weights = math.log1p(lead), math.log1p(max(others, 0.0))
    return odds, odds * odds, *weights, surprise, n, n * odds, done, 0.0, 1.0
