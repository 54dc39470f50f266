"""Figures of a run problem by problem, over seeds, and with intervals over problems.

A figure is a list of arrays, one a seed, (P,) each, of the same problems. Its value is the mean over problems of the
mean over seeds, its interval resamples problems, its spread is the standard deviation of the seeds' means.

Letters: P problems, K budgets.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reflective.errors import InputError
from reflective.evaluate.bootstrap import Bootstrap, Interval
from reflective.evaluate.manifest import RECORDS
from reflective.evaluate.metrics.ranking import within_problems
from reflective.evaluate.metrics.subsets import best_of_k, pass_at_k
from reflective.evaluate.paired import Comparison, compare
from reflective.evaluate.selectors import order_keys
from reflective.evaluate.table import Floats, Table
from reflective.records import read_records
from reflective.types import EFFORTS

Seeds = Sequence[Floats]
Cell = dict[str, Any]


def table_of(folder: Path) -> Table:
    """The columns of a folder's records."""
    return Table.of(read_records(folder / RECORDS))


def efforts_shown(budget: int) -> list[int]:
    """The efforts that a budget allows, and the budget itself."""
    return sorted({k for k in EFFORTS.values() if k <= budget} | {budget})


def effort_name(k: int) -> str:
    """`effort high (32)`, or `best of 4` where the number has no name."""
    names = {count: name for name, count in EFFORTS.items()}
    return f"effort {names[k]} ({k})" if k in names else f"best of {k}"


def selection(table: Table, ks: Sequence[int]) -> dict[str, Floats]:
    """What matters of a judge, problem by problem: `auc` within the problem, `single`, and `best` of k (P, K)."""
    area, _ = within_problems(table, table.scores["score"])
    return {
        "auc": area,
        "single": pass_at_k(table, [1])[:, 0],
        "best": best_of_k(table, order_keys(table, "best_of_n"), ks),
    }


def same_problems(tables: Sequence[Table]) -> None:
    """Refuse to average over seeds what is not of the same problems."""
    if any(table.keys != tables[0].keys for table in tables):
        raise InputError("records of different problems can't be compared. Remove the study's folder and run it again.")


def over_seeds(values: Seeds) -> Floats:
    """The mean of each problem over seeds where it is known, (P,)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a problem that is unknown in every seed stays unknown
        mean: Floats = np.nanmean(np.stack(list(values)), axis=0)
    return mean


def cell(values: Seeds, *, unit: str = "share") -> Cell:
    """A figure with its interval, for a table. `unit` is share, points, seconds or number."""
    interval = Bootstrap(len(values[0])).means(over_seeds(values)[:, None], share=unit == "share")[0]
    return of_interval(interval, unit=unit, spread=spread(values))


def of_interval(interval: Interval, *, unit: str = "share", spread: float | None = None) -> Cell:
    """An interval as a cell of a table."""
    return {**interval.to_json(), "unit": unit, **({} if spread is None else {"spread": spread})}


def spread(values: Seeds) -> float | None:
    """The standard deviation of the seeds' means; None of one seed."""
    if len(values) < 2:
        return None
    means = [over_seeds([one])[~np.isnan(one)].mean() if (~np.isnan(one)).any() else np.nan for one in values]
    return float(np.std(means, ddof=1))


def difference(a: Seeds, b: Seeds) -> Comparison:
    """A minus B over problems, each averaged over its seeds first."""
    return compare(over_seeds(a), over_seeds(b))


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
