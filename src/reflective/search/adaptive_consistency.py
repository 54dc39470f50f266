"""Adaptive consistency (arXiv 2305.11860): sample one trajectory after another until the majority is likely to stay.

After each sample, with v1 and v2 votes for the two leading answers, it stops when P(p1 > p2) > `threshold` under a
Beta(v1 + 1, v2 + 1) posterior for the share of the first among the two (the paper's Beta criterion, threshold 0.95),
and at k samples at the latest. The majority's answer is given. No score is read.

One sample at a time is what the paper does and costs the fewest tokens; `width` writes so many side by side, which is
faster and wastes some.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

from reflective.errors import InputError
from reflective.search.base import Choice
from reflective.search.clock import Board, Decision, Seen
from reflective.search.clocked import Clocked
from reflective.search.majority import pick_by_vote
from reflective.settings import check_least

THRESHOLD = 0.95  # section 3 of the paper


class AdaptiveConsistency(Clocked):
    """See the module's docstring."""

    name: ClassVar[str] = "adaptive_consistency"

    def __init__(self, threshold: float = THRESHOLD, width: int = 1, every: int = 16) -> None:
        if not 0.5 <= threshold < 1.0:
            raise InputError(f"threshold is {threshold}; it must lie in 0.5 up to below 1.")
        check_least(1, width=width, every=every)
        self.threshold, self.width, self.every = threshold, width, every

    @property
    def waits_for_ends(self) -> bool:
        return True

    def first(self, k: int) -> int:
        return self.width

    def decide(self, board: Board) -> Decision:
        lead = leader_probability(board.ended)
        if lead > self.threshold:
            return Decision(stop=f"the leading answer stays ahead with probability {lead:.3f}")
        return Decision(start=self.width - len(board.running))

    def pick(self, ended: Sequence[Seen]) -> Choice:
        return pick_by_vote(ended, [t.group for t in ended], weighted=False)


def leader_probability(ended: Sequence[Seen]) -> float:
    """P(p1 > p2) for the two leading answers; 0 where nobody has voted."""
    votes = [count for _, count in Counter(t.group for t in ended if t.group is not None).most_common(2)]
    return beta_above_half(*(*votes, 0, 0)[:2]) if votes else 0.0


def beta_above_half(first: int, second: int) -> float:
    """P(p > 1/2) for p ~ Beta(first + 1, second + 1)."""
    # = P(X ≤ first), X ~ Binomial(first + second + 1, 1/2)
    n = first + second + 1
    return float(sum(math.comb(n, i) for i in range(first + 1))) / 2.0**n
