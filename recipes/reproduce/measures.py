"""Figures of a run problem by problem, over seeds, and with intervals over problems.

A figure is a list of arrays, one a seed, (P,) each, of the same problems. Its value is the mean over seeds of the means
over problems, its spread the standard deviation of the latter. Its interval resamples problems and, independently,
seeds: both a new problem and a new training would have been different. S seeds drawn from S vary too little by the
factor (S - 1)/S in variance, so their deviations are stretched by its inverse.

Letters: P problems, S seeds, R resamples, K budgets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from reflective.errors import InputError
from reflective.evaluate.bootstrap import Bootstrap, Interval, intervals_of
from reflective.evaluate.metrics.ranking import within_problems
from reflective.evaluate.metrics.subsets import best_of_k, pass_at_k
from reflective.evaluate.paired import Comparison, compare
from reflective.evaluate.selectors import SELECTORS, order_keys
from reflective.evaluate.table import Floats, Table
from reflective.records import read_records
from reflective.records.manifest import RECORDS
from reflective.types import EFFORTS

Seeds = Sequence[Floats]
Cell = dict[str, Any]


def table_of(folder: Path) -> Table:
    """The columns of a folder's records."""
    return Table.of(read_records(folder / RECORDS))


def amounts(**parts: tuple[int, int]) -> str:
    """`test 500 × 32 (problems × trajectories)`."""
    told = ", ".join(f"{name} {problems:,} × {each}" for name, (problems, each) in parts.items())
    return f"{told} (problems × trajectories)"


def shared_amounts(data: Mapping[str, Any], **fewer: int) -> str:
    """Of the shared trajectories, of each split all problems or the first so many."""
    splits = ("train", "validation", "test")
    return amounts(
        **{
            split: (min(data[f"{split}_problems"], fewer.get(split, 10**9)), data[f"{split}_trajectories"])
            for split in splits
        }
    )


def efforts_shown(budget: int) -> list[int]:
    """The efforts that a budget allows, and the budget itself."""
    return sorted({k for k in EFFORTS.values() if k <= budget} | {budget})


def effort_name(k: int) -> str:
    """`effort high (32)`, or `best of 4` where the number has no name."""
    names = {count: name for name, count in EFFORTS.items()}
    return f"effort {names[k]} ({k})" if k in names else f"best of {k}"


def selection(table: Table, ks: Sequence[int], selector: str = "best_of_n") -> dict[str, Floats]:
    """What matters of a judge, problem by problem: `auc` within the problem, `single`, and `best` of k (P, K)."""
    area, _ = within_problems(table, table.scores[SELECTORS[selector]])
    return {
        "auc": area,
        "single": pass_at_k(table, [1])[:, 0],
        "best": best_of_k(table, order_keys(table, selector), ks),
    }


def same_problems(tables: Sequence[Table]) -> None:
    """Refuse to average over seeds what is not of the same problems."""
    if any(table.keys != tables[0].keys for table in tables):
        raise InputError("records of different problems can't be compared. Remove the study's folder and run it again.")


def cell(values: Seeds, *, unit: str = "share") -> Cell:
    """A figure with its interval, for a table. `unit` is share, points, seconds or number."""
    return of_interval(interval(values, share=unit == "share"), unit=unit, spread=spread(values))


def interval(values: Seeds, *, share: bool = False) -> Interval:
    """The mean over seeds of the means over problems; `share` says that values lie in 0..1."""
    if _alike(values):  # nothing was trained
        return Bootstrap(len(values[0])).means(values[0][:, None], share=share)[0]
    found = combined(*resampled(values), problems=_known(values))
    # the stretched deviations of seeds can lead beyond what a share can be
    return replace(found, low=max(found.low, 0.0), high=min(found.high, 1.0)) if share else found


def resampled(values: Seeds) -> tuple[Floats, Floats]:
    """Each seed's mean over the problems that it knows: as it is, (S,), and in resamples of problems, (R, S)."""
    return Bootstrap(len(values[0])).resampled(np.stack(list(values), axis=1))


def combined(points: Floats, drawn: Floats, *, problems: int) -> Interval:
    """A statistic over seeds from each seed's, (S,), and its values in the same resamples of problems, (R, S)."""
    point = float(np.nanmean(points)) if (~np.isnan(points)).any() else float("nan")
    values = over_resampled_seeds(points, drawn)
    return intervals_of(np.array([point]), values[:, None], [problems])[0]


def over_resampled_seeds(points: Floats, drawn: Floats) -> Floats:
    """(R,): the mean over seeds drawn anew for each resample; seeds that know nothing are left out."""
    drawn = drawn[:, ~np.isnan(points)]
    seeds = drawn.shape[1]
    if seeds == 0:
        return np.full(len(drawn), np.nan)
    counts = np.random.default_rng(0).multinomial(seeds, np.full(seeds, 1 / seeds), len(drawn))  # (R, S)
    stretch = np.sqrt(seeds / (seeds - 1)) if seeds > 1 else 0.0
    out: Floats = (drawn * (1 + (counts - 1) * stretch) / seeds).sum(1)
    return out


def _alike(values: Seeds) -> bool:
    return all(np.array_equal(values[0], other, equal_nan=True) for other in values[1:])


def _known(values: Seeds) -> int:
    """Problems that a seed knows."""
    return int((~np.isnan(values)).any(0).sum())


def of_interval(interval: Interval, *, unit: str = "share", spread: float | None = None) -> Cell:
    """An interval as a cell of a table."""
    return {**interval.to_json(), "unit": unit, **({} if spread is None else {"spread": spread})}


def spread(values: Seeds) -> float | None:
    """The standard deviation of the seeds' means; None of one seed."""
    if len(values) < 2:
        return None
    means = resampled(values)[0]
    return float(np.std(means, ddof=1))


def difference(a: Seeds, b: Seeds) -> Comparison:
    """A minus B, seed by seed on the problems that both know. One of a single seed is the same for every seed.

    The p-value is that of the resampled differences' share beyond zero, two-sided; without seeds the sign-flip test's.
    """
    seeds = max(len(a), len(b))
    apart = [x - y for x, y in zip(_repeated(a, seeds), _repeated(b, seeds), strict=True)]
    if _alike(apart):
        return compare(apart[0], 0.0 * apart[0])
    points, drawn = resampled(apart)
    found = combined(points, drawn, problems=_known(apart))
    values = over_resampled_seeds(points, drawn)
    values = values[~np.isnan(values)]
    beyond = min((values <= 0).sum(), (values >= 0).sum())
    p = min(1.0, 2 * (float(beyond) + 1) / (len(values) + 1)) if found.problems else float("nan")
    return Comparison(found.value, found.low, found.high, p, found.problems)


def _repeated(values: Seeds, seeds: int) -> Seeds:
    return list(values) * seeds if len(values) == 1 else values


def difference_cell(a: Seeds, b: Seeds) -> Cell:
    """The same for a table, in points."""
    c = difference(a, b)
    return {"value": c.difference, "low": c.low, "high": c.high, "problems": c.problems, "unit": "points"}


def excludes_zero(interval: Mapping[str, Any]) -> bool:
    """Whether an interval lies on one side of zero; an undefined one does not."""
    return bool(interval["low"] > 0 or interval["high"] < 0)


def sentence(what: str, interval: Mapping[str, Any], form: str = "{:+.3f}") -> str:
    """A difference in words: its value, its interval, and what can be said of it."""
    value, low, high = (form.format(interval[name]) for name in ("value", "low", "high"))
    if interval["value"] != interval["value"]:
        return f"{what}: undefined, there are no data for it."
    if interval["low"] != interval["low"]:
        return f"{what}: {value}, without an interval: nothing in it varies over problems."
    verdict = "beyond noise" if excludes_zero(interval) else "within noise"
    return f"{what}: {value} ({low} to {high}), {verdict}."
