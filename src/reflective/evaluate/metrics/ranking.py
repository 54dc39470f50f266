"""How well a figure tells right trajectories from wrong ones: AUC, average precision, the ROC curve. Vectorised.

P problems, N trajectories. The AUC is that of `reflective.judge.metrics` (a test compares them): ties count half, an
unknown figure ranks below every known one, trajectories without a verdict are left out. Average precision is
Σ (R_i - R_{i-1}) · P_i over the distinct thresholds, best first, R recall and P precision.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reflective.evaluate.table import Bools, Floats, Table

BINS = 512  # of figures, for resampling; the point estimates are exact


def within_problems(table: Table, figure: Floats) -> tuple[Floats, Floats]:
    """AUC and average precision among the trajectories of each problem, (P,) each; NaN without right and wrong ones."""
    known = table.present & ~np.isnan(table.right)
    value = np.where(np.isnan(figure), -np.inf, figure)
    is_right, is_wrong = known & (table.right == 1.0), known & (table.right == 0.0)
    both = is_right.any(1) & is_wrong.any(1)
    areas, precisions = np.full(table.problems, np.nan), np.full(table.problems, np.nan)
    block = max(1, 4_000_000 // max(1, value.shape[1] ** 2))
    rows_with_both = np.flatnonzero(both)
    for first in range(0, len(rows_with_both), block):
        rows = rows_with_both[first : first + block]
        areas[rows], precisions[rows] = _pairs(value[rows], is_right[rows], is_wrong[rows])
    return areas, precisions


def _pairs(value: Floats, is_right: Bools, is_wrong: Bools) -> tuple[Floats, Floats]:
    """From all pairs of trajectories, (R, N, N)."""
    above = value[:, None, :] > value[:, :, None]  # [r, i, j]: j stands above i
    level = value[:, None, :] == value[:, :, None]
    rights, wrongs = is_right.sum(1), is_wrong.sum(1)
    # AUC = P(right above wrong) + P(level) / 2
    wins = (is_wrong[:, :, None] & is_right[:, None, :]) * (above + 0.5 * level)
    area = wins.sum((1, 2)) / (rights * wrongs)
    # a right one at threshold i adds 1/R times the precision among all that stand at or above i
    at_or_above = above | level
    hits = (at_or_above & is_right[:, None, :]).sum(2)
    shown = hits + (at_or_above & is_wrong[:, None, :]).sum(2)
    precision = np.where(is_right, hits / np.maximum(shown, 1), 0.0).sum(1) / rights
    return area, precision


class Pooled:
    """All trajectories together, in bins of their figure, one row per problem: so that problems can be resampled."""

    def __init__(self, table: Table, figure: Floats) -> None:
        known = table.present & ~np.isnan(table.right)
        row = np.nonzero(known)[0]
        value = np.where(np.isnan(figure), -np.inf, figure)[known]
        label = table.right[known] == 1.0
        self.thresholds, level = np.unique(value, return_inverse=True)  # ascending
        self._exact = self._counts(level, label, None, len(self.thresholds), 1)
        bins = min(BINS, len(self.thresholds))
        # equally full bins of distinct values
        place = (level * bins) // max(len(self.thresholds), 1)
        self.right, self.wrong = self._counts(place, label, row, bins, table.problems)  # (P, bins) each

    @staticmethod
    def _counts(place: NDArray[Any], label: Bools, row: object, bins: int, problems: int) -> tuple[Floats, Floats]:
        base = 0 if row is None else np.asarray(row) * bins
        cell, size = place + base, bins * problems
        right = np.bincount(cell[label], minlength=size).reshape(problems, bins).astype(np.float64)
        wrong = np.bincount(cell[~label], minlength=size).reshape(problems, bins).astype(np.float64)
        return right, wrong

    @property
    def area(self) -> float:
        """The AUC over all trajectories; NaN without right and wrong ones."""
        return float(areas(*self._exact)[0])

    @property
    def precision(self) -> float:
        """The average precision over all trajectories; NaN without right and wrong ones."""
        return float(average_precisions(*self._exact)[0])

    def resampled(self, counts: Floats) -> tuple[Floats, Floats]:
        """AUC and average precision where problem p is taken counts[r, p] times; (R, P) -> (R,) each."""
        right, wrong = counts @ self.right, counts @ self.wrong  # (R, bins)
        return areas(right, wrong), average_precisions(right, wrong)

    def curve(self) -> tuple[Floats, Floats]:
        """The ROC curve: share of the wrong and share of the right ones at or above each threshold, from (0, 0) on."""
        right, wrong = self._exact[0][0][::-1], self._exact[1][0][::-1]
        hit, alarm = np.cumsum(right) / max(right.sum(), 1), np.cumsum(wrong) / max(wrong.sum(), 1)
        return np.concatenate([[0.0], alarm]), np.concatenate([[0.0], hit])


def areas(right: Floats, wrong: Floats) -> Floats:
    """AUC from counts at ascending thresholds; (R, T) each -> (R,)."""
    below = np.cumsum(wrong, axis=1) - wrong
    wins = (right * (below + wrong / 2)).sum(1)
    pairs = right.sum(1) * wrong.sum(1)
    out: Floats = np.divide(wins, pairs, out=np.full(len(right), np.nan), where=pairs > 0)
    return out


def average_precisions(right: Floats, wrong: Floats) -> Floats:
    """Average precision from counts at ascending thresholds; (R, T) each -> (R,)."""
    hits = np.cumsum(right[:, ::-1], axis=1)
    shown = hits + np.cumsum(wrong[:, ::-1], axis=1)
    total = right.sum(1)
    sums = (right[:, ::-1] * hits / np.maximum(shown, 1e-12)).sum(1)
    defined = (total > 0) & (wrong.sum(1) > 0)
    out: Floats = np.divide(sums, total, out=np.full(len(right), np.nan), where=defined)
    return out
