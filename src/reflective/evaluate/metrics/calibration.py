"""Whether stated probabilities hold: the reliability diagram and the expected calibration error over its bins.

    ECE = Σ_bins |Σ confidence - Σ right| / samples

the definition of `reflective.judge.calibrate.ece` (a test compares them), over problems or over their trajectories.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reflective.evaluate.table import Floats

BINS = 15  # of equal width, as in `reflective.judge.calibrate.ece`


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """Counts in each bin, one row per problem: samples, the sum of what was stated, the number of right ones; (P,
    BINS)."""

    count: Floats
    stated: Floats
    right: Floats

    @classmethod
    def of(cls, stated: Floats, right: Floats) -> Reliability:
        """From probabilities and outcomes, (P,) or (P, N); pairs with a NaN are left out.

        Values outside 0..1 are not probabilities (other tools' scores may be anything): then nothing is counted.
        """
        p, y = (a.reshape(len(a), -1 if a.size else 0) for a in (stated, right))
        known = ~np.isnan(p) & ~np.isnan(y)
        if known.any() and not (p[known].min() >= 0.0 and p[known].max() <= 1.0):
            known = np.zeros_like(known)
        row = np.nonzero(known)[0]
        place = np.minimum((p[known] * BINS).astype(np.int64), BINS - 1)
        cell, size = row * BINS + place, len(p) * BINS

        def summed(weights: Floats | None) -> Floats:
            return np.bincount(cell, weights=weights, minlength=size).reshape(len(p), BINS).astype(np.float64)

        return cls(summed(None), summed(p[known]), summed(y[known]))

    @property
    def error(self) -> float:
        """The ECE; NaN without samples."""
        return float(self.resampled(np.ones((1, len(self.count))))[0][0])

    def resampled(self, counts: Floats) -> tuple[Floats]:
        """The ECE where problem p is taken counts[r, p] times; (R, P) -> (R,)."""
        gap = np.abs(counts @ (self.stated - self.right)).sum(1)
        samples = (counts @ self.count).sum(1)
        out: Floats = np.divide(gap, samples, out=np.full(len(counts), np.nan), where=samples > 0)
        return (out,)
