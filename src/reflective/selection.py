"""One order of trajectories, one equality of answers and one vote, for search, training and evaluation.

**Order**, best first: closed before unclosed, since nothing can be answered from reasoning that was not closed; scored
before unscored; the higher score. Those without a score: the higher mean token log-probability, unknown ones last. Then
the lower index. A score may be any finite number (those of other tools are); NaN and infinities count as unknown.

**Equal answers** are the same text after a cheap normalisation, the same exact number ("27.0" and 27, "1/2" and 0.5),
or, for problems of kind "math", what the grader takes for each other. The grader is asked only where it could matter
and a bounded number of times.

**Vote.** The answer with most votes wins, or with the largest sum of scores in a weighted vote. A trajectory without an
answer casts no vote, an unscored one weighs nothing. Of equally strong answers the one whose best member scores higher
wins (any score is above none), then the one that came first. Scores weigh only where no voter's is negative, which
would count agreement against an answer, and one is above 0; else each vote counts one and a note says so.

The definitions for single problems need no NumPy. `order_keys`, `score_ranks` and `winners` are the same for arrays:
P problems, N trajectories, G distinct answers. A test compares both.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from reflective.types import Problem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_COMPARISONS = 100  # questions to the grader for one vote
COMPARISON_TIME_LIMIT_S = 1.0
TIE = 1e-9  # sums of scores within this share of the largest are equal: their order of addition differs

NO_SCORE_LOGPROB = "no trajectory has a scored step; the one with the highest mean token log-probability was taken"
NO_SCORE_FIRST = "no trajectory has a scored step and token log-probabilities are unknown; the first one was taken"
NO_WEIGHT = "no trajectory with an answer has a scored step; each vote counted one"
NEGATIVE_WEIGHT = "a score is negative, so scores can't weigh votes; each vote counted one"

_NUMBER = re.compile(r"[-+]?(?:\d{1,40}|\d{1,3}(?:,\d{3}){1,12})(?:\.\d{0,40})?(?:/[1-9]\d{0,39})?")


class Ranked(Protocol):
    """What the order needs of a trajectory, of its record, or of what training knows of it."""

    @property
    def index(self) -> int: ...
    @property
    def closed(self) -> bool: ...
    @property
    def score(self) -> float | None: ...
    @property
    def mean_logprob(self) -> float | None: ...


class Voter(Protocol):
    """What a vote needs."""

    @property
    def index(self) -> int: ...
    @property
    def score(self) -> float | None: ...


class Answered(Protocol):
    """What comparing answers needs."""

    @property
    def index(self) -> int: ...
    @property
    def answer(self) -> str | None: ...


AnyRanked = TypeVar("AnyRanked", bound=Ranked)
AnyVoter = TypeVar("AnyVoter", bound=Voter)


# ---- the order


def _figure(value: float | None) -> tuple[bool, float]:
    """Known before unknown, then high before low."""
    return (True, value) if value is not None and math.isfinite(value) else (False, 0.0)


def _order(t: Ranked) -> tuple[bool, tuple[bool, float], tuple[bool, float], int]:
    score = _figure(t.score)
    return t.closed, score, _figure(None if score[0] else t.mean_logprob), -t.index


def by_score(trajectories: Sequence[AnyRanked]) -> list[AnyRanked]:
    """Best first."""
    return sorted(trajectories, key=_order, reverse=True)


def best_by_score(trajectories: Sequence[AnyRanked]) -> AnyRanked:
    """The first in the order, closed or not."""
    return max(trajectories, key=_order)


def best_by_logprob(trajectories: Sequence[AnyRanked]) -> AnyRanked:
    """The closed one with the highest mean token log-probability, a selector that needs no training."""
    return max(trajectories, key=lambda t: (t.closed, _figure(t.mean_logprob), -t.index))


def best_closed(trajectories: Sequence[AnyRanked]) -> tuple[AnyRanked | None, tuple[str, ...]]:
    """The closed trajectory to answer from, and a note where that was not decided by score."""
    candidates = [t for t in trajectories if t.closed]
    if not candidates:
        return None, ()
    best = best_by_score(candidates)
    if _figure(best.score)[0] or len(candidates) == 1:
        return best, ()
    return best, (NO_SCORE_LOGPROB if _figure(best.mean_logprob)[0] else NO_SCORE_FIRST,)


# ---- the vote


@dataclass(frozen=True, slots=True)
class Vote(Generic[AnyVoter]):
    """The outcome: `winner` is the best of the `members` that gave the winning answer; `share` is theirs of all votes,
    None where scores should have weighed and could not."""

    winner: AnyVoter
    members: tuple[AnyVoter, ...]
    share: float | None
    notes: tuple[str, ...] = ()


def vote(
    trajectories: Sequence[AnyVoter], groups: Sequence[int | None], *, weighted: bool = False
) -> Vote[AnyVoter] | None:
    """The vote of trajectories whose answers have these numbers (see `answer_groups`); None where nobody votes."""
    ballots: dict[int, list[AnyVoter]] = {}
    for t, group in sorted(zip(trajectories, groups, strict=True), key=lambda pair: pair[0].index):
        if group is not None:
            ballots.setdefault(group, []).append(t)
    if not ballots:
        return None
    answers = list(ballots.values())
    scores = [t.score for members in answers for t in members if t.score is not None and math.isfinite(t.score)]
    notes: tuple[str, ...] = ()
    if weighted and min(scores, default=0.0) < 0.0:
        notes = (NEGATIVE_WEIGHT,)
    elif weighted and max(scores, default=0.0) <= 0.0:
        notes = (NO_WEIGHT,)
    strengths = [_strength(members, weighted and not notes) for members in answers]
    # argmax_a Σ_j S_j · [answer of j is a], or Σ_j [answer of j is a]
    tied = [i for i, strength in enumerate(strengths) if strength >= max(strengths) * (1 - TIE)]
    won = max(tied, key=lambda i: (max(_figure(t.score) for t in answers[i]), -answers[i][0].index))
    winner = max(answers[won], key=lambda t: (_figure(t.score), -t.index))
    return Vote(winner, tuple(answers[won]), None if notes else strengths[won] / sum(strengths), notes)


def _strength(members: Sequence[Voter], weighted: bool) -> float:
    if not weighted:
        return float(len(members))
    return math.fsum(t.score for t in members if t.score is not None and math.isfinite(t.score))


# ---- equal answers


def answer_groups(trajectories: Sequence[Answered], problem: Problem) -> list[int | None]:
    """The number of each trajectory's answer among the distinct answers, in the order of their first trajectory; None
    where there is no answer."""
    keys = {id(t): _key(t.answer) for t in trajectories if t.answer is not None}
    first: dict[str | Fraction, str] = {}  # of each key, the spelling that came first
    for t in sorted(trajectories, key=lambda t: t.index):
        if t.answer is not None:
            first.setdefault(keys[id(t)], t.answer)
    numbers = _joined(first, problem) if problem.kind == "math" else {key: number for number, key in enumerate(first)}
    return [numbers[keys[id(t)]] if id(t) in keys else None for t in trajectories]


def _key(answer: str) -> str | Fraction:
    """The exact number, or the text without what never matters: spaces, dollar signs, a full stop at the end."""
    text = re.sub(r"\s+", "", answer).strip("$").removesuffix(".")
    if _NUMBER.fullmatch(text):
        whole, _, below = text.replace(",", "").partition("/")
        return Fraction(whole.removesuffix(".")) / Fraction(below or 1)
    return text


def _joined(first: dict[str | Fraction, str], problem: Problem) -> dict[str | Fraction, int]:
    """Numbers for the keys, one for those whose spellings the grader takes for each other. Two different plain numbers
    are never asked about."""
    numbers: dict[str | Fraction, int] = {}
    homes: list[str | Fraction] = []  # the first key of each number
    asked = 0
    for key, spelling in first.items():
        number = len(homes)
        for i, home in enumerate(homes):
            if isinstance(key, Fraction) and isinstance(home, Fraction):
                continue
            if asked >= MAX_COMPARISONS:
                break
            asked += 1
            if _same(first[home], spelling, problem):
                number = i
                break
        if number == len(homes):
            homes.append(key)
        numbers[key] = number
    return numbers


def _same(one: str, other: str, problem: Problem) -> bool:
    from reflective.verify import grade

    return grade(replace(problem, answer=one), other, time_limit_s=COMPARISON_TIME_LIMIT_S).right is True


# ---- the same for arrays


def order_keys(closed: NDArray[np.bool_], *figures: NDArray[np.float64]) -> list[NDArray[np.generic]]:
    """What the order sorts by, (P, N) each: the first decides, larger is better, no NaN. A figure decides where those
    before it are unknown. Which of several unclosed trajectories stands higher does not matter: they are equal."""
    import numpy as np

    keys: list[NDArray[np.generic]] = [closed]
    undecided = closed
    for figure in figures:
        known = undecided & np.isfinite(figure)
        keys += [known, np.where(known, figure, 0.0)]
        undecided = undecided & ~known
    return keys


def score_ranks(score: NDArray[np.float64]) -> NDArray[np.int64]:
    """Of each score its place among the different ones of its row, from 1 for the lowest up; 0 for none. (P, N)."""
    import numpy as np

    known = np.isfinite(score)
    value = np.where(known, score, -np.inf)
    order = value.argsort(axis=1, kind="stable")
    ascending = np.take_along_axis(value, order, axis=1)
    new = np.ones(score.shape, dtype=np.bool_)
    new[:, 1:] = ascending[:, 1:] != ascending[:, :-1]
    place = np.cumsum(new & np.isfinite(ascending), axis=1)
    ranks = np.zeros(score.shape, dtype=np.int64)
    np.put_along_axis(ranks, order, place, axis=1)
    return np.where(known, ranks, 0)


def winners(
    strength: NDArray[np.float64], best: NDArray[np.int64], first: NDArray[np.int64], n: int
) -> NDArray[np.int64]:
    """The number of the answer that wins each vote, (P, G) -> (P,). `strength` is -inf for answers without a vote,
    `best` the rank of their best member's score, `first` the index of their first member among `n`."""
    import numpy as np

    top = strength.max(axis=1, keepdims=True)
    tied = strength >= np.where(top > 0, top * (1 - TIE), top)
    out: NDArray[np.int64] = np.where(tied, best * (n + 1) + (n - first), -1).argmax(axis=1)
    return out
