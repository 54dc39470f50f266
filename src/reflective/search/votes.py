"""Equal answers, counted together.

Two answers are equal when they are the same text after a cheap normalisation, the same exact number ("27.0" and 27,
"1/2" and 0.5), or, for problems of kind "math", when the grader takes one for the other. The grader is asked only
where it could matter and a bounded number of times.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Generic, Protocol, TypeVar

from reflective.types import Problem

MAX_COMPARISONS = 100  # questions to the grader for one vote
COMPARISON_TIME_LIMIT_S = 1.0

_NUMBER = re.compile(r"[-+]?(?:\d{1,40}|\d{1,3}(?:,\d{3}){1,12})(?:\.\d{0,40})?(?:/[1-9]\d{0,39})?")

Same = Callable[[str, str], bool]


class Voter(Protocol):
    """What a vote needs of a trajectory or of its record."""

    @property
    def index(self) -> int: ...
    @property
    def score(self) -> float | None: ...
    @property
    def answer(self) -> str | None: ...


AnyVoter = TypeVar("AnyVoter", bound=Voter)


@dataclass(frozen=True, slots=True)
class Ballot(Generic[AnyVoter]):
    """One answer and the trajectories that gave it, by index."""

    members: tuple[AnyVoter, ...]

    @property
    def voice(self) -> AnyVoter:
        """The member that speaks for the answer: the best score, then the lowest index."""
        return max(self.members, key=lambda t: (-1.0 if t.score is None else t.score, -t.index))

    @property
    def rank(self) -> tuple[float, int]:
        """What breaks a tie between answers: the best score, then the lowest index."""
        score = self.voice.score
        return (-1.0 if score is None else score, -self.members[0].index)

    @property
    def weight(self) -> float:
        """The sum of the scores; an unscored trajectory weighs nothing."""
        return sum(t.score for t in self.members if t.score is not None)


def ballots(trajectories: Sequence[AnyVoter], problem: Problem) -> list[Ballot[AnyVoter]]:
    """The distinct answers, in the order of their first trajectory. A trajectory without an answer casts no vote."""
    voters = sorted((t for t in trajectories if t.answer is not None), key=lambda t: t.index)
    groups: dict[str | Fraction, list[AnyVoter]] = {}
    for t in voters:
        groups.setdefault(_key(t.answer or ""), []).append(t)
    merged = _merge(list(groups.items()), problem) if problem.kind == "math" else list(groups.values())
    return [Ballot(tuple(sorted(members, key=lambda t: t.index))) for members in merged]


def _key(answer: str) -> str | Fraction:
    """The exact number, or the text without what never matters: spaces, dollar signs, a full stop at the end."""
    text = re.sub(r"\s+", "", answer).strip("$").removesuffix(".")
    if _NUMBER.fullmatch(text):
        whole, _, below = text.replace(",", "").partition("/")
        return Fraction(whole.removesuffix(".")) / Fraction(below or 1)
    return text


def _merge(groups: list[tuple[str | Fraction, list[AnyVoter]]], problem: Problem) -> list[list[AnyVoter]]:
    """Join groups whose answers the grader takes for each other. Two different plain numbers are never asked about."""
    merged: list[tuple[str | Fraction, list[AnyVoter]]] = []
    asked = 0
    for key, members in groups:
        home = None
        for other_key, other in merged:
            if isinstance(key, Fraction) and isinstance(other_key, Fraction):
                continue
            if asked >= MAX_COMPARISONS:
                break
            asked += 1
            if _same(other[0].answer or "", members[0].answer or "", problem):
                home = other
                break
        if home is None:
            merged.append((key, list(members)))
        else:
            home.extend(members)
    return [members for _, members in merged]


def _same(one: str, other: str, problem: Problem) -> bool:
    from reflective.verify import grade

    return grade(replace(problem, answer=one), other, time_limit_s=COMPARISON_TIME_LIMIT_S).right is True
