"""Everything that is known of a run, from its table: each figure with its 95 % interval over problems.

Strategies and selectors are judged at every budget k from the same trajectories: best-of-k exactly, votes from a fixed
number of draws. An ungradable answer counts neither as right nor as wrong; how many there are is a figure of its own.
Of a run that wrote only the chosen answers, only these are judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reflective.evaluate.bootstrap import RESAMPLES, Bootstrap, Interval
from reflective.evaluate.metrics.calibration import BINS, Reliability
from reflective.evaluate.metrics.ranking import Pooled, within_problems
from reflective.evaluate.metrics.subsets import best_of_k, budgets, pass_at_k
from reflective.evaluate.metrics.voting import DRAWS, votes_at_k
from reflective.evaluate.selectors import SELECTORS, can_weigh, known_selectors, order_keys
from reflective.evaluate.table import Floats, Table
from reflective.types import LET_GO

NAN = Interval(float("nan"), float("nan"), float("nan"))
Named = Mapping[str, Interval]


@dataclass(frozen=True, slots=True)
class Curve:
    """A share at every budget."""

    ks: tuple[int, ...]
    points: tuple[Interval, ...]

    @property
    def last(self) -> Interval:
        """At the largest budget."""
        return self.points[-1] if self.points else NAN

    def to_json(self) -> dict[str, Any]:
        """A JSON object of lists."""
        points = {name: [getattr(p, name) for p in self.points] for name in ("value", "low", "high")}
        return {"k": list(self.ks), **points}


@dataclass(frozen=True, slots=True)
class Bin:
    """A bar of the reliability diagram: what was stated on the average, and the share that was right."""

    stated: float
    right: Interval
    samples: int


@dataclass(frozen=True, slots=True, eq=False)
class Summary:
    """The figures of a run.

    `figures`: of the run as a whole. `curves`: the share of right answers of each strategy at each k, `oracle` being
    pass@k. `selection`: the same, given that a right one is among the k. `ranking`: AUC and average precision of each
    selector, over all trajectories and within problems. `families` and `levels`: the strategies at the largest budget.
    `values` are the last points of the curves and a single sample, problem by problem, (P,) each.
    """

    problems: int
    trajectories: int
    budget: int
    figures: Named
    curves: Mapping[str, Curve]
    selection: Mapping[str, Curve]
    ranking: Mapping[str, Named]
    reliability: Mapping[str, tuple[Bin, ...]]
    families: Mapping[str, Named]
    levels: Mapping[str, Named]
    values: Mapping[str, Floats]

    def to_json(self) -> dict[str, Any]:
        """A JSON object, without the values of single problems."""

        def named(intervals: Named) -> dict[str, Any]:
            return {name: interval.to_json() for name, interval in intervals.items()}

        return {
            "problems": self.problems,
            "trajectories": self.trajectories,
            "budget": self.budget,
            "figures": named(self.figures),
            "accuracy": {name: curve.to_json() for name, curve in self.curves.items()},
            "selection": {name: curve.to_json() for name, curve in self.selection.items()},
            "ranking": {name: named(row) for name, row in self.ranking.items()},
            "reliability": {
                name: [{"stated": b.stated, "samples": b.samples, **b.right.to_json()} for b in bins]
                for name, bins in self.reliability.items()
            },
            "families": {name: named(row) for name, row in self.families.items()},
            "levels": {name: named(row) for name, row in self.levels.items()},
        }


def summarise(table: Table, *, seed: int = 0, resamples: int = RESAMPLES, draws: int = DRAWS) -> Summary:
    """All figures of a table. The same table and seed give the same figures."""
    bootstrap = Bootstrap(table.problems, resamples=resamples, seed=seed)
    ks = budgets(table.budget) if table.complete else []
    by_problem, possible = _accuracy(table, ks, seed, draws)
    values = {name: value[:, -1] for name, value in by_problem.items()}
    if values:
        values = {"single": by_problem["oracle"][:, 0], **values}
    return Summary(
        problems=table.problems,
        trajectories=table.trajectories,
        budget=table.budget,
        figures=_figures(table, by_problem, bootstrap),
        curves=_curves(by_problem, ks, bootstrap),
        selection=_selection(table, by_problem, possible, ks, bootstrap),
        ranking=_ranking(table, bootstrap) if table.complete else {},
        reliability={name: _bins(rows, bootstrap) for name, rows in _reliabilities(table).items()},
        families=_by_group(table.families, values, resamples, seed),
        levels=_by_group(table.levels, values, resamples, seed),
        values=values | {"chosen": table.chosen_right},
    )


def accuracy_by_problem(table: Table, ks: Sequence[int], *, seed: int = 0, draws: int = DRAWS) -> dict[str, Floats]:
    """The probability of a right answer of every strategy, (P, K) each; "oracle" is pass@k."""
    return _accuracy(table, ks, seed, draws)[0]


def _accuracy(table: Table, ks: Sequence[int], seed: int, draws: int) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """The probability of a right answer of every strategy, and that of a right one among the same trajectories."""
    if not ks:
        return {}, {}
    by_problem = {"oracle": pass_at_k(table, ks)}
    selectors, votes, possible = known_selectors(table), dict[str, Floats](), by_problem["oracle"]
    if "best_of_n" in selectors:
        by_problem["best_of_n"] = best_of_k(table, order_keys(table, "best_of_n"), ks)
    if (table.group >= 0).any():
        votes = dict(votes_at_k(table, ks, seed=seed, draws=draws))
        possible = votes.pop("possible")
        if not can_weigh(table):
            del votes["weighted"]
        by_problem |= votes
    for name in selectors:
        if name != "best_of_n":
            by_problem[name] = best_of_k(table, order_keys(table, name), ks)
    return by_problem, {name: possible if name in votes else by_problem["oracle"] for name in by_problem}


def _curves(by_problem: Mapping[str, Floats], ks: Sequence[int], bootstrap: Bootstrap) -> dict[str, Curve]:
    if not by_problem:
        return {}
    points = bootstrap.means(np.concatenate(list(by_problem.values()), axis=1), share=True)
    cut = len(ks)
    return {name: Curve(tuple(ks), tuple(points[i * cut : (i + 1) * cut])) for i, name in enumerate(by_problem)}


def _selection(
    table: Table,
    by_problem: Mapping[str, Floats],
    possible: Mapping[str, Floats],
    ks: Sequence[int],
    bootstrap: Bootstrap,
) -> dict[str, Curve]:
    """P(the chosen one is right | a right one is there) = Σ_p P(chosen right) / Σ_p P(one is there).

    Both are of the same trajectories: exact where the choice is, else of the same draws. Problems with a trajectory
    that has no verdict are left out: of their choices those that can be judged are no fair sample.
    """
    names = [name for name in by_problem if name != "oracle"]
    if not names:
        return {}
    judged = ~(table.present & np.isnan(table.right)).any(1, keepdims=True)
    there = np.concatenate([possible[name] for name in names], axis=1)
    chosen = np.concatenate([by_problem[name] for name in names], axis=1)
    # chosen right is a part of right one there: above it is rounding alone
    points = bootstrap.ratios(np.where(judged, np.minimum(chosen, there), np.nan), there)
    cut = len(ks)
    return {name: Curve(tuple(ks), tuple(points[i * cut : (i + 1) * cut])) for i, name in enumerate(names)}


def _figures(table: Table, by_problem: Mapping[str, Floats], bootstrap: Bootstrap) -> dict[str, Interval]:
    """Accuracy of the run's own answers, gain over a single sample, cost, what is unfinished and ungradable."""
    count = table.present.sum(1)
    some = np.maximum(count, 1)

    def per_trajectory(what: Floats) -> Floats:
        return np.where(count > 0, np.where(table.present, what, 0.0).sum(1) / some, np.nan)

    blank = np.full(table.problems, np.nan)
    oracle = by_problem.get("oracle", blank[:, None])
    best = by_problem.get("best_of_n", blank[:, None])
    answered = table.present & (table.group >= 0)
    shares = {
        "chosen": table.chosen_right,
        "single": oracle[:, 0],
        "unfinished": per_trajectory((~table.finished & (table.let_go < 0)).astype(np.float64)),
        "ungradable": np.where(
            answered.any(1), (answered & np.isnan(table.right)).sum(1) / np.maximum(answered.sum(1), 1), np.nan
        ),
    }
    for number, kind in enumerate(LET_GO):
        if (gone := table.let_go == number).any():
            shares[kind.replace(" ", "_")] = per_trajectory(gone.astype(np.float64))
    others = {
        "gain": best[:, -1] - oracle[:, 0],
        "tokens_per_trajectory": per_trajectory(table.tokens),
        "tokens_per_problem": table.written_tokens,
        "seconds_per_problem": np.where(table.seconds > 0, table.seconds, np.nan),
    }
    figures = dict(zip(shares, bootstrap.means(np.stack(list(shares.values()), axis=1), share=True), strict=True))
    figures |= dict(zip(others, bootstrap.means(np.stack(list(others.values()), axis=1)), strict=True))
    for name, reliability in _reliabilities(table).items():
        samples = int((reliability.count.sum(1) > 0).sum())
        figures[f"ece_{name}"] = bootstrap.statistics(
            [reliability.error], reliability.resampled, samples, centred=True
        )[0]
    return figures


def _reliabilities(table: Table) -> dict[str, Reliability]:
    """Of the confidence in the given answers, and of the trajectories' scores, where there are any."""
    found = {"confidence": Reliability.of(table.confidence, table.chosen_right)}
    if table.complete:
        found["score"] = Reliability.of(table.scores["score"], table.right)
    return {name: reliability for name, reliability in found.items() if reliability.count.any()}


def _bins(reliability: Reliability, bootstrap: Bootstrap) -> tuple[Bin, ...]:
    points = bootstrap.ratios(reliability.right, np.where(reliability.count > 0, reliability.count, 0.0))
    count, stated = reliability.count.sum(0), reliability.stated.sum(0)
    return tuple(Bin(float(stated[i] / count[i]), points[i], int(count[i])) for i in range(BINS) if count[i] > 0)


def _ranking(table: Table, bootstrap: Bootstrap) -> dict[str, dict[str, Interval]]:
    rows = {}
    for name in known_selectors(table):
        figure = table.scores[SELECTORS[name]]
        area, precision = within_problems(table, figure)
        within = bootstrap.means(np.stack([area, precision], axis=1))
        pooled = Pooled(table, figure)
        used = int((table.present & ~np.isnan(table.right)).any(1).sum())
        overall = bootstrap.statistics([pooled.area, pooled.precision], pooled.resampled, used)
        rows[name] = {"auc_within": within[0], "auc": overall[0], "ap_within": within[1], "ap": overall[1]}
    return rows


def _by_group(
    groups: Sequence[str], values: Mapping[str, Floats], resamples: int, seed: int
) -> dict[str, dict[str, Interval]]:
    """Means of the problems of each group; nothing where there are no groups."""
    names = sorted({group for group in groups if group}, key=lambda g: (len(g) if g.isdigit() else 0, g))
    if not names or not values:
        return {}
    stacked, labels = np.stack(list(values.values()), axis=1), np.array(groups)
    found = {}
    for name in names:
        rows = np.flatnonzero(labels == name)
        intervals = Bootstrap(len(rows), resamples=resamples, seed=seed).means(stacked[rows], share=True)
        found[name] = dict(zip(values, intervals, strict=True))
    return found
