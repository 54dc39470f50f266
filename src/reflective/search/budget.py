"""What a problem may cost in all: tokens and seconds, and the best that can be had within.

The more of the tokens is spent, the fewer trajectories go on, the best by running score, so that some come to an
answer. Reasoning stops while there is still room for one; then the strategy answers from what was closed. How far the
trajectories are is known at token marks, so that a budget of tokens is not passed by an engine whose rows advance
together; one that writes ahead of what it tells may pass it, and the usage says by how much.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

from reflective.search.settings import Settings

ANSWER_SHARE: Final = 0.25  # of all tokens, at most, kept for an answer
ANSWER_TIME_SHARE: Final = 0.1  # of the time, kept for an answer
EVERY: Final = 16  # tokens between two marks, where the budget allows
MARKS: Final = 4  # marks at least that all trajectories together can come to within the budget


@dataclass(slots=True)
class Budget:
    """The budgets of one problem with `k` trajectories, and what is spent. `answer` is the budget of an answer."""

    settings: Settings
    k: int
    answer: int
    written: dict[int, int] = field(default_factory=dict)  # index -> tokens known to be written
    over: str = ""
    """Why no more reasoning is written; "" while there is room."""

    @property
    def every(self) -> int:
        """Tokens between two marks; 0 where nothing is bounded."""
        most = self.settings.max_total_tokens
        if most is None:
            return EVERY if self.settings.deadline is not None else 0
        return max(1, min(EVERY, most // (MARKS * self.k)))

    @property
    def reserve(self) -> int:
        """Tokens kept for an answer."""
        return min(self.answer, max(1, int(ANSWER_SHARE * (self.settings.max_total_tokens or 0))))

    @property
    def _all_tokens(self) -> str:
        return f"the budget of {self.settings.max_total_tokens:,} tokens"

    def left(self) -> int | None:
        """Tokens that may still be written; None where they are not bounded."""
        most = self.settings.max_total_tokens
        return None if most is None else max(most - sum(self.written.values()), 0)

    def admits(self, running: int, every: int) -> bool:
        """Whether one more trajectory may be begun beside `running` ones; where none run, it is over without."""
        left = self.left()
        fits = left is None or left - self.reserve >= (running + 1) * max(every, 1)
        if not fits and not running and not self.over:
            self.over = self._all_tokens
        return not self.over and fits

    def allowed(self) -> int:
        """How many trajectories may go on: fewer, the more of the tokens is spent, so that some come to an answer."""
        left, most = self.left(), self.settings.max_total_tokens
        if left is None or most is None:
            return self.k
        return max(1, math.ceil(self.k * (left - self.reserve) / max(most - self.reserve, 1)))

    def look(self, running: int, every: int, elapsed: float) -> bool:
        """Whether reasoning must stop now, with so many trajectories being written; says so once."""
        left, deadline = self.left(), self.settings.deadline
        if self.over:
            return False
        if left is not None and left - self.reserve < running * max(every, 1):
            self.over = self._all_tokens
        elif deadline is not None and elapsed >= deadline * (1.0 - ANSWER_TIME_SHARE):
            self.over = f"the deadline of {deadline:g} s"
        return bool(self.over)

    def too_late(self, elapsed: float) -> bool:
        """Whether even answers must stop."""
        return self.settings.deadline is not None and elapsed >= self.settings.deadline
