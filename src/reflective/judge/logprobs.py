"""What token log-probabilities add to a step's score, for heads that read them. No torch.

c is the mean and the lowest log-probability of the step's tokens, its step token included. The logit becomes
s = MLP(h) + w · c, and the score σ(s) · p^v with p the geometric mean of the tokens' probabilities. Both are additive
to what comes out of the backbone, so that every engine can add them at no cost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from reflective.judge.aggregate import logsigmoid


class LogprobTerms(NamedTuple):
    """w, for the mean and for the lowest log-probability, and the exponent v of a head, as numbers."""

    mean: float
    lowest: float
    exponent: float = 0.0

    def logit(self, mlp: float, mean: float, lowest: float) -> float:
        """The step's logit from MLP(h) and c = (mean, lowest)."""
        # s = MLP(h) + w · c; score = σ(s) · p^v
        return times_probability(mlp + self.mean * mean + self.lowest * lowest, mean, self.exponent)


def times_probability(s: float, logprob: float, exponent: float) -> float:
    """The logit of σ(s) · p^exponent, p = exp(logprob) being a probability: a step's score, less where it was unlikely.

    With `exponent` 0 that is s itself.
    """
    loss = -exponent * min(logprob, 0.0)
    if loss == 0.0:
        return s
    log_q = logsigmoid(s) - loss  # of what is below 1
    return log_q - math.log(-math.expm1(log_q))


def step_logprobs(logprobs: Sequence[float], positions: Sequence[int]) -> list[tuple[float, float]]:
    """c of each step that ends at one of these positions of the tokens' log-probabilities, in ascending order."""
    rows, start = [], 0
    for position in positions:
        step = logprobs[start : position + 1]
        rows.append((sum(step) / len(step), min(step)))
        start = position + 1
    return rows
