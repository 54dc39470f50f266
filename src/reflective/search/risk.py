"""A bound on a loss of accuracy, from problems where one rule was right and another was not.

The loss of a problem is L = 1 where effort high gives a right answer and the cheaper rule a wrong one, −1 the other way
round, else 0; the risk is E[L]. The p-value of E[L] ≥ r is exact for independent problems: the distribution of Σ L
depends on the share d of problems with L ≠ 0 alone, and the p-value is the largest over a 1 − γ confidence set of d,
plus γ (Berger and Boos 1994).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from reflective.judge.schedule import Limit

DELTA: Final = 0.05  # the probability with which a certificate may be wrong
GAMMA: Final = 0.005  # of it, what the confidence set of the disagreements takes
Setting = tuple[float, float]  # a limit of the regret, and the running score below which a trajectory is dropped


@dataclass(frozen=True, slots=True)
class Played:
    """A setting on some problems: losses, gains and the share of the tokens."""

    losses: int
    gains: int
    tokens: float


def certified(results: Sequence[Played], path: Sequence[Setting], problems: int, risks: Iterable[float]) -> list[Limit]:
    """The cheapest certified setting of each risk, and that of the smallest risk that can be certified at all.

    `results` are of the settings of `path`, which begins with the safest.
    """
    found = []
    for risk in (smallest_risk(results[0].losses, results[0].gains, problems), *risks):
        best = None
        for result, (limit, drop) in zip(results, path, strict=True):
            if risk_p_value(result.losses, result.gains, problems, risk) > DELTA:
                break
            here = Limit(risk, limit, drop, (result.losses - result.gains) / problems, result.tokens)
            best = here if best is None or here.tokens < best.tokens else best
        if best is not None:
            found.append(best)
    return sorted(found, key=lambda limit: limit.risk)


def smallest_risk(losses: int, gains: int, problems: int) -> float:
    """The smallest risk that is certified by so many losses and gains, to 4 places, rounded up."""
    low, high = 0, 10_000
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if risk_p_value(losses, gains, problems, middle / 10_000) <= DELTA else (middle, high)
    return high / 10_000


def risk_p_value(losses: int, gains: int, problems: int, risk: float) -> float:
    """A valid p-value of E[L] ≥ risk, where L was 1 `losses` times and −1 `gains` times among the problems.

    The largest P(Σ L ≤ what was seen) over shares d of L ≠ 0 in their 1 − γ confidence set, plus γ; capped at 1.
    """
    import numpy as np

    if problems < 1 or risk >= 1.0:
        return 1.0 if risk < 1.0 else 0.0
    highest = max(_upper_share(losses + gains, problems), risk)
    shares = np.unique(np.linspace(max(risk, 1e-9), highest, 6))
    return min(1.0, GAMMA + max(_below(losses - gains, problems, float(d), risk) for d in shares))


def _below(total: int, n: int, d: float, risk: float) -> float:
    """P(Σ L ≤ total) for n problems with P(L = 1) = (d + risk) / 2 and P(L = −1) = (d − risk) / 2."""
    import numpy as np

    most = min(n, math.ceil(n * d + 9.0 * math.sqrt(n * d + 1.0) + 9.0))  # beyond, nothing is left
    m = np.arange(most + 1)
    p = min((d + risk) / (2.0 * d), 1.0)
    logs = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, n + 1)))))  # ln i!
    weight = np.exp(logs[n] - logs[m] - logs[n - m] + m * math.log(d) + (n - m) * math.log1p(-min(d, 1 - 1e-12)))
    ups = np.arange(most + 1)[None, :]  # L = 1 so often among m
    downs = m[:, None] - ups
    there = (downs >= 0) & (ups - downs <= total)
    chance = logs[m][:, None] - logs[ups] - logs[np.maximum(downs, 0)]
    chance = chance + ups * math.log(p) + downs * (math.log1p(-p) if p < 1.0 else -1e9)
    return float(weight @ np.where(there, np.exp(np.minimum(chance, 0.0)), 0.0).sum(axis=1))


def _upper_share(count: int, n: int) -> float:
    """The upper end of the one-sided 1 − γ interval of a share (Clopper and Pearson)."""
    low, high = count / n, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if _at_most(count, n, middle) > GAMMA else (low, middle)
    return high


def _at_most(count: int, n: int, p: float) -> float:
    """P(X ≤ count), X ~ Binomial(n, p)."""
    if p >= 1.0:
        return float(count >= n)
    terms = (
        math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * math.log(p) + (n - i) * math.log1p(-p)
        for i in range(count + 1)
    )
    return math.fsum(map(math.exp, terms)) if p > 0 else 1.0
