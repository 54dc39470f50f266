"""Step logits to one trajectory score. Pure Python, so that whoever only compares scores needs no torch.

All take logits s, not probabilities, since σ(s) of a confident head rounds to 1.0 or 0.0. A trajectory without a
step has no score: None, never 0.0 and never 1.0, and it ranks below every scored one. A NaN logit is an error, not a
score; infinite ones are fine.

Departure from the reference: it adds 1e-8 to each step score before the logarithm and takes a logit of exactly 0 for
padding. Neither is needed here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from reflective.errors import EngineError
from reflective.settings import check_names

DEFAULT_AGGREGATION: Final = "geometric_mean"


def sigmoid(s: float) -> float:
    """σ(s), without overflow."""
    return 1.0 / (1.0 + math.exp(-s)) if s >= 0 else math.exp(s) / (1.0 + math.exp(s))


def logit(p: float, clip: float) -> float:
    """ln(p / (1 − p)); p is kept away from 0 and 1 by `clip`, where it has no end."""
    p = min(max(p, clip), 1.0 - clip)
    return math.log(p / (1.0 - p))


def logsigmoid(s: float) -> float:
    """log σ(s) = min(s, 0) − log(1 + exp(−|s|)), exact for any size of s."""
    return min(s, 0.0) - math.log1p(math.exp(-abs(s)))


def _geometric_mean(logits: Sequence[float]) -> float:
    # S = (Π σ(s_i))^(1/n) = exp(mean log σ(s_i)) (paper, section 3.2)
    return math.exp(math.fsum(map(logsigmoid, logits)) / len(logits))


def _minimum(logits: Sequence[float]) -> float:
    return sigmoid(min(logits))


def _last(logits: Sequence[float]) -> float:
    return sigmoid(logits[-1])


def _mean(logits: Sequence[float]) -> float:
    return math.fsum(map(sigmoid, logits)) / len(logits)


def _product(logits: Sequence[float]) -> float:
    return math.exp(math.fsum(map(logsigmoid, logits)))


AGGREGATIONS: Final[Mapping[str, Callable[[Sequence[float]], float]]] = {
    "geometric_mean": _geometric_mean,
    "min": _minimum,
    "last": _last,
    "mean": _mean,
    "product": _product,
}


def aggregate(logits: Iterable[float], how: str = DEFAULT_AGGREGATION) -> float | None:
    """The score of a trajectory, in 0..1, from the logits of its steps; None where there is no step."""
    check_names([how], AGGREGATIONS, "aggregation")
    steps = [float(s) for s in logits]
    if not steps:
        return None
    for i, s in enumerate(steps):
        if math.isnan(s):
            raise EngineError(f"the logit of step {i} is NaN: the model overflowed. Try dtype float32.")
    return AGGREGATIONS[how](steps)
