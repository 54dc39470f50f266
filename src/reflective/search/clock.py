"""The clock of strategies that only start, drop and stop: decisions fall at stated token counts, never at arrivals.

All trajectories of a problem advance together, a token per tick. Every `every` ticks there is a mark, at which the
strategy sees what each trajectory had come to by then and decides which to let go, how many to start, and whether to
stop. A trajectory that is started at mark a has tokens 1, 2, … at ticks a + 1, a + 2, …, until it ends.

`Clock` holds this for records (`search.simulate`) and for trajectories that are being written (`search.clocked`): both
give it what is seen of a trajectory at a number of its own tokens, so that both decide alike, however fast or in which
order an engine writes. What an engine has written beyond a mark by the time of the decision is counted in the usage
and has no other effect.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Protocol

from reflective.selection import Vote, vote
from reflective.types import PRUNED, STOPPED


class Confidences:
    """How sure the model was of each token of a trajectory (`reflective.confidence`), growing as it is written."""

    __slots__ = ("_lowest", "_sums")

    def __init__(self, values: Sequence[float] = ()) -> None:
        self._sums = list(accumulate(values, initial=0.0))
        self._lowest: dict[int, list[float]] = {}  # window -> the least group sum up to each end

    def extend(self, values: Sequence[float]) -> None:
        """More tokens."""
        self._sums += list(accumulate(values, initial=self._sums[-1]))[1:]

    def __len__(self) -> int:
        return len(self._sums) - 1

    def lowest(self, tokens: int, window: int) -> float:
        """The least mean of `window` successive ones among the first `tokens`; of all where they are fewer."""
        if tokens < 1:
            return math.nan
        if tokens <= window:
            return self._sums[tokens] / tokens
        lowest = self._lowest.setdefault(window, [])
        for end in range(window + len(lowest), len(self._sums)):
            group = self._sums[end] - self._sums[end - window]
            lowest.append(min(group, lowest[-1]) if lowest else group)
        return lowest[tokens - window] / window


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of a trajectory when it has `tokens` tokens.

    `ended`: that is all of it. `score` is S of an ended one, else the geometric mean of the `steps` step scores so far.
    `group` numbers its final answer among the problem's answers, None where it has none. `confidences` are those of
    its tokens, and maybe of some behind them, where they are kept.
    """

    index: int
    tokens: int
    ended: bool
    closed: bool
    steps: int
    score: float | None
    group: int | None = None
    mean_logprob: float | None = None
    confidences: Confidences | None = None

    def lowest_group(self, window: int) -> float:
        """The least mean of `window` successive confidences so far; of all where there are fewer, NaN without any."""
        return self.confidences.lowest(self.tokens, window) if self.confidences is not None else math.nan


@dataclass(frozen=True, slots=True)
class Decision:
    """What a strategy wants at a mark: indices to let go with the reasons, the number of new ones, an end."""

    drop: Sequence[tuple[int, str]] = ()
    start: int = 0
    stop: str = ""
    """Why everything that is being written can be let go; "": go on."""


GO_ON = Decision()


@dataclass(slots=True)
class Board:
    """What a strategy decides from. `running` and `ended` are by index; `started` counts all, the dropped ones too."""

    k: int
    now: int
    started: int
    running: Sequence[Seen]
    ended: Sequence[Seen]
    news: bool
    """Whether a trajectory has ended since the last mark."""

    def vote(self, weighted: bool) -> Vote[Seen] | None:
        """The vote of those that have ended."""
        return vote(self.ended, [t.group for t in self.ended], weighted=weighted)


class Rule(Protocol):
    """What the clock asks: a pure function of what is seen at the marks."""

    every: int

    @property
    def waits_for_ends(self) -> bool:
        """Whether it goes on at every mark before which no trajectory has ended."""

    def first(self, k: int) -> int:
        """How many trajectories begin at tick 0."""

    def decide(self, board: Board) -> Decision:
        """What to do at a mark. Where nothing is running afterwards, the problem is done."""


Look = Callable[[int, int], Seen | None]
"""What is seen of trajectory `index` at a number of its own tokens; None: it has not come there yet."""


@dataclass(slots=True)
class Clock:
    """The state of one problem: what has begun when, what has ended or was let go, and where the time stands."""

    rule: Rule
    k: int
    now: int = 0
    began: dict[int, int] = field(default_factory=dict)  # index -> tick
    running: list[int] = field(default_factory=list)  # what has begun, and neither ended nor been let go
    let_go: dict[int, tuple[Seen, str]] = field(default_factory=dict)
    ended: list[Seen] = field(default_factory=list)  # by index

    def begin(self) -> list[int]:
        """The indices to start at tick 0."""
        return self._start(max(1, self.rule.first(self.k)))

    @property
    def done(self) -> bool:
        """Whether nothing is running any more."""
        return not self.running

    def advance(self, look: Look) -> tuple[Sequence[tuple[int, str]], Sequence[int]] | None:
        """Go to the next mark: what is let go there, with the reasons, and what is started. None: not all are there."""
        mark = self.now + self.rule.every
        running: list[Seen] = []
        news: list[Seen] = []
        for index in self.running:
            seen = look(index, mark - self.began[index])
            if seen is None:
                return None
            (news if seen.ended else running).append(seen)
        self.now = mark
        if news:
            self.ended = sorted((*self.ended, *news), key=lambda seen: seen.index)
        elif self.rule.waits_for_ends:
            return (), ()
        decision = self.rule.decide(Board(self.k, mark, len(self.began), running, self.ended, bool(news)))
        if decision.stop:
            dropped = [(seen.index, f"{STOPPED}: {decision.stop}") for seen in running]
        else:
            dropped = [(index, f"{PRUNED}: {why}") for index, why in decision.drop]
        there = {seen.index: seen for seen in running}
        self.let_go |= {index: (there.pop(index), why) for index, why in dropped}
        self.running = list(there)
        return dropped, () if decision.stop else self._start(decision.start)

    def skip(self, tick: int) -> None:
        """Nothing is decided before the mark at or behind this tick."""
        every = self.rule.every
        self.now = max(self.now, -(-tick // every) * every - every)

    def _start(self, count: int) -> list[int]:
        new = list(range(len(self.began), min(len(self.began) + count, self.k)))
        self.began |= dict.fromkeys(new, self.now)
        self.running += new
        return new

    @property
    def tokens(self) -> int:
        """Tokens written by the clock: of what ended, and of what was let go up to then."""
        return sum(t.tokens for t in self.ended) + sum(t.tokens for t, _ in self.let_go.values())


class RunningScore:
    """The geometric mean of step scores, exp(mean(ln σ(s_i))), after each step."""

    __slots__ = ("sums",)

    def __init__(self, scores: Sequence[float] = ()) -> None:
        self.sums = [0.0]
        for score in scores:
            self.add(score)

    def add(self, score: float) -> None:
        """One more step."""
        self.sums.append(self.sums[-1] + math.log(max(score, 1e-300)))

    @property
    def last(self) -> float:
        """After all steps so far; 0 before the first."""
        return self.at(len(self.sums) - 1) or 0.0

    def at(self, steps: int) -> float | None:
        """After so many steps; None before the first."""
        return math.exp(self.sums[steps] / steps) if steps else None
