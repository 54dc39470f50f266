"""Is run A better than run B? A test over the problems that both have, paired, so that hard problems cancel out.

The figure is the mean difference of a value per problem, with a bootstrap interval. The p-value is that of a sign-flip
permutation test: were both runs the same, each problem's difference would be as likely with the other sign. With up to
12 differing problems all flips are counted, else a fixed number of random ones is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from reflective.evaluate.bootstrap import Bootstrap
from reflective.evaluate.table import Floats, Table

FLIPS = 10_000
EXACT = 12  # differing problems up to which all 2^n flips are counted
SIGNIFICANCE = 0.05

Outcome = Literal["better", "worse", "noise", "unknown"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A minus B over `problems` common problems. `outcome` is A's: "noise" is a difference that chance explains."""

    difference: float
    low: float
    high: float
    p: float
    problems: int

    @property
    def outcome(self) -> Outcome:
        """What the test says at 5 %."""
        if np.isnan(self.p):
            return "unknown"
        if self.p >= SIGNIFICANCE:
            return "noise"
        return "better" if self.difference > 0 else "worse"

    def sentence(self, a: str, b: str) -> str:
        """The result in words; values are shares, told in points."""
        if self.outcome == "unknown":
            return f"{a} and {b} have no problem in common that can be judged."
        between = f" ({100 * self.low:+.1f} to {100 * self.high:+.1f})" if self.low == self.low else ""
        figures = f"{100 * self.difference:+.1f} points{between}, p = {self.p:.3g}, {self.problems} problems"
        if self.outcome == "noise":
            return f"No difference between {a} and {b} beyond noise: {figures}."
        return f"{a} is {self.outcome} than {b}: {figures}."

    def to_json(self) -> dict[str, float | int | str]:
        """A JSON object."""
        return {
            "difference": self.difference,
            "low": self.low,
            "high": self.high,
            "p": self.p,
            "problems": self.problems,
            "outcome": self.outcome,
        }


def common(a: Table, b: Table) -> tuple[Table, Table]:
    """Both tables, with the problems that both have, in the same order."""
    place = {key: i for i, key in enumerate(b.keys)}
    pairs = [(i, place[key]) for i, key in enumerate(a.keys) if key in place]
    return a.take([i for i, _ in pairs]), b.take([j for _, j in pairs])


def compare(a: Floats, b: Floats, *, seed: int = 0) -> Comparison:
    """Values of the same problems in two runs, (P,) each; problems where one is NaN are left out."""
    known = ~np.isnan(a) & ~np.isnan(b)
    difference = (a - b)[known]
    n = len(difference)
    if n == 0:
        return Comparison(float("nan"), float("nan"), float("nan"), float("nan"), 0)
    interval = Bootstrap(n, seed=seed).means(difference[:, None])[0]
    return Comparison(interval.value, interval.low, interval.high, _flip_test(difference, seed), n)


def _flip_test(difference: Floats, seed: int) -> float:
    """Two-sided p-value of the mean against random signs."""
    differing = difference[np.abs(difference) > 1e-12]
    n = len(differing)
    if n == 0:
        return 1.0
    seen = abs(float(differing.sum())) - 1e-9
    if n <= EXACT:
        signs = 1.0 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return float((np.abs(signs @ differing) >= seen).mean())
    rng = np.random.default_rng(abs(seed))
    extreme, block = 0, max(1, 4_000_000 // n)
    for first in range(0, FLIPS, block):
        signs = rng.integers(0, 2, (min(block, FLIPS - first), n)) * 2.0 - 1.0
        extreme += int((np.abs(signs @ differing) >= seen).sum())
    # the observed signs are one of the possible flips, so p is never 0
    return (extreme + 1) / (FLIPS + 1)
