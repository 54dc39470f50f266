"""95 % intervals by resampling problems: trajectories of one problem share its difficulty, so a problem is the unit.

P problems, R resamples, M figures. A resample draws P problems with replacement; a figure that is a mean over problems
is averaged over those where it is defined. The interval runs from the 2.5 % to the 97.5 % quantile. Every figure of a
run sees the same resamples.

Departures: where a share is 0 or 1 in every problem, resampling can't vary it and would claim certainty; the Wilson
interval takes its place. Another figure that no resample varies (one problem that counts, the same value in all) has no
interval.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reflective.evaluate.table import Floats

RESAMPLES = 1000
LEVEL = 0.95
Z = 1.959963984540054  # of the normal distribution at LEVEL
BLOCK_CELLS = 4_000_000  # of resample × problem at a time, to bound memory


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95 % interval; NaN where it is undefined. `problems` is how many it was computed from."""

    value: float
    low: float
    high: float
    problems: int = 0

    def to_json(self) -> dict[str, float | int]:
        """A JSON object; NaN stays NaN and becomes null when it is printed."""
        return {"value": self.value, "low": self.low, "high": self.high, "problems": self.problems}


class Bootstrap:
    """The resamples of P problems."""

    def __init__(self, problems: int, *, resamples: int = RESAMPLES, seed: int = 0) -> None:
        self.problems, self.resamples = problems, resamples
        rng = np.random.default_rng(abs(seed))
        block = max(1, BLOCK_CELLS // max(problems, 1))
        parts = []
        for first in range(0, resamples, block):
            rows = min(block, resamples - first)
            drawn = rng.integers(0, max(problems, 1), (rows, problems))
            cell = drawn + np.arange(rows)[:, None] * problems
            counts = np.bincount(cell.ravel(), minlength=rows * problems).reshape(rows, problems)
            parts.append(np.minimum(counts, 255).astype(np.uint8))
        self._counts = np.concatenate(parts)  # (R, P): how often each problem was drawn

    def blocks(self) -> Iterator[Floats]:
        """The counts, some resamples at a time."""
        block = max(1, BLOCK_CELLS // max(self.problems, 1))
        for first in range(0, self.resamples, block):
            yield self._counts[first : first + block].astype(np.float64)

    def means(self, values: Floats, *, share: bool = False) -> list[Interval]:
        """The means over problems of M figures, (P, M); `share` says that they lie in 0..1."""
        intervals = intervals_of(*self.resampled(values), (~np.isnan(values)).sum(0).tolist())
        return [_widened(i) if share and i.value in (0.0, 1.0) else i for i in intervals]

    def resampled(self, values: Floats) -> tuple[Floats, Floats]:
        """The means over problems of M figures, (P, M): as they are, (M,), and in each resample, (R, M)."""
        known = ~np.isnan(values)
        filled, weight = np.where(known, values, 0.0), known.astype(np.float64)
        every = bool(known.all())
        parts = []
        for counts in self.blocks():
            below = np.full((len(counts), 1), float(self.problems)) if every else counts @ weight
            parts.append(_ratio(counts @ filled, np.broadcast_to(below, (len(counts), values.shape[1]))))
        drawn = np.concatenate(parts) if parts else np.empty((0, values.shape[1]))
        return _ratio(filled.sum(0), weight.sum(0)), drawn

    def ratios(self, above: Floats, below: Floats) -> list[Interval]:
        """Σ above / Σ below, shares, over problems where both are known, for M figures, (P, M) each."""
        known = ~np.isnan(above) & ~np.isnan(below)
        a, b = np.where(known, above, 0.0), np.where(known, below, 0.0)
        drawn = np.concatenate([_ratio(counts @ a, counts @ b) for counts in self.blocks()])
        used = (known & (b > 0)).sum(0)
        intervals = intervals_of(_ratio(a.sum(0), b.sum(0)), drawn, used.tolist())
        return [_widened(i) if i.value in (0.0, 1.0) else i for i in intervals]

    def statistics(
        self,
        points: Sequence[float],
        resampled: Callable[[Floats], Sequence[Floats]],
        problems: int,
        *,
        centred: bool = False,
    ) -> list[Interval]:
        """Figures whose values in resamples `resampled` gives, (R, P) -> M times (R,).

        They may be computed in bins there: an interval is moved by what the bins change in the point itself. `centred`
        moves it by what resampling adds on the average: a sum of sizes of errors, such as the ECE, only grows by noise.
        """
        drawn = np.concatenate([np.stack(resampled(counts), axis=1) for counts in self.blocks()])  # (R, M)
        binned = np.stack(resampled(np.ones((1, self.problems))), axis=1)
        exact = np.array(points)
        if centred and not np.isnan(drawn).all(0).any():
            binned = np.nanmean(drawn, axis=0, keepdims=True)
        return intervals_of(exact, drawn + (exact - binned), [problems] * len(points))


def intervals_of(points: Floats, drawn: Floats, problems: Sequence[int]) -> list[Interval]:
    """M figures, (M,), with intervals from their values in resamples, (R, M)."""
    low = high = np.full(len(points), np.nan)
    if len(drawn):
        with np.errstate(all="ignore"):
            defined = ~np.isnan(drawn).all(0)
            edges = np.full((2, len(points)), np.nan)
            some = np.nan_to_num(drawn[:, defined], nan=0.0) if not np.isnan(drawn[:, defined]).any() else None
            tail = (1 - LEVEL) / 2
            take = np.quantile if some is not None else np.nanquantile
            edges[:, defined] = take(drawn[:, defined], [tail, 1 - tail], axis=0)
        low, high = edges
    flat = _same(drawn) if len(drawn) else np.ones(len(points), dtype=np.bool_)
    low, high = (np.where(np.isnan(points) | flat, np.nan, edge) for edge in (low, high))
    return [
        Interval(float(p), float(a), float(b), int(n)) for p, a, b, n in zip(points, low, high, problems, strict=True)
    ]


def _same(drawn: Floats) -> NDArray[np.bool_]:
    """Which figures are the same in every resample, (R, M) -> (M,)."""
    known = ~np.isnan(drawn)
    most = np.where(known, drawn, -np.inf).max(0)
    least = np.where(known, drawn, np.inf).min(0)
    flat: NDArray[np.bool_] = ~(most - least > 1e-12 * np.maximum(1.0, np.abs(most)))
    return flat


def wilson(right: float, n: int) -> tuple[float, float]:
    """The Wilson interval of a share of `n` independent samples; NaN without one."""
    if n < 1:
        return float("nan"), float("nan")
    centre = (right + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * float(np.sqrt(right * (1 - right) / n + Z * Z / (4 * n * n)))
    return 0.0 if right == 0.0 else max(0.0, centre - half), 1.0 if right == 1.0 else min(1.0, centre + half)


def _widened(interval: Interval) -> Interval:
    low, high = wilson(interval.value, interval.problems)
    return Interval(interval.value, low, high, interval.problems)


def _ratio(above: Floats, below: Floats) -> Floats:
    out: Floats = np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)
    return out
