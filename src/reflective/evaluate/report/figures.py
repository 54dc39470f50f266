"""The figures of a report as data. The page draws them, matplotlib draws them, CSV lists them: the same numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from reflective.evaluate.bootstrap import Interval
from reflective.evaluate.metrics.ranking import Pooled
from reflective.evaluate.report.content import Run
from reflective.evaluate.report.labels import MAIN
from reflective.evaluate.selectors import LABELS, SELECTORS, known_selectors
from reflective.evaluate.summary import Curve, Named

HISTOGRAM_BINS = 20
CURVE_POINTS = 200  # of a ROC curve that is drawn
FAMILIES_AT_MOST = 40  # bars beyond that are left out, the largest groups stay


@dataclass(frozen=True, slots=True)
class Series:
    """A line or a set of bars. `id` says what it is (a strategy, "right", a run), so that it has the same colour
    everywhere."""

    id: str
    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    main: bool = True

    def to_json(self) -> dict[str, Any]:
        """A JSON object; numbers rounded to what can be seen, undefined ones null."""
        columns = {name: [_short(v) for v in getattr(self, name)] for name in ("x", "y", "low", "high")}
        return {"id": self.id, "name": self.name, "main": self.main, **columns}


@dataclass(frozen=True, slots=True)
class Figure:
    """One plot. `categories` name the places of bars; `diagonal` draws what chance, or perfect honesty, would give."""

    id: str
    run: str
    title: str
    caption: str
    kind: Literal["line", "bars", "histogram"]
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    log_x: bool = False
    unit_y: bool = True
    unit_x: bool = False
    diagonal: bool = False
    categories: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A JSON object for the page."""
        plain = ("id", "run", "title", "caption", "kind", "x_label", "y_label", "log_x", "unit_y", "unit_x", "diagonal")
        return {
            **{name: getattr(self, name) for name in plain},
            "categories": list(self.categories),
            "series": [s.to_json() for s in self.series],
        }

    def rows(self) -> Iterator[dict[str, Any]]:
        """Rows for CSV: series, x, y, low, high."""
        for s in self.series:
            for i, (x, y) in enumerate(zip(s.x, s.y, strict=True)):
                place = self.categories[int(x)] if self.categories else x
                yield {
                    "series": s.name,
                    "x": place,
                    "y": _blank(y),
                    "low": _blank(s.low[i]) if s.low else "",
                    "high": _blank(s.high[i]) if s.high else "",
                }


def figures(runs: Sequence[Run]) -> list[Figure]:
    """Every figure of every run, and those that compare several runs; figures without data are left out."""
    found: list[Figure] = []
    if len(runs) > 1:
        found += _across(runs)
    for run in runs:
        found += [_accuracy(run), _selection(run), _scaling(run), _histogram(run), _roc(run)]
        found += [_reliability(run, "confidence"), _reliability(run, "score")]
        found += [_groups(run, "family", run.summary.families), _groups(run, "level", run.summary.levels)]
    return [figure for figure in found if any(y == y for series in figure.series for y in series.y)]


def _accuracy(run: Run) -> Figure:
    caption = (
        "What each strategy is worth with k trajectories, over all subsets of those sampled; bands are 95 % intervals "
        "over problems. The oracle knows which is right."
    )
    return _against_k("accuracy", run, "Right answers against k", caption, "right", run.summary.curves)


def _selection(run: Run) -> Figure:
    title = "Right, given that a right one is there"
    caption = "The same, among subsets that hold a right answer: what selection alone achieves."
    return _against_k("selection", run, title, caption, "right, where one is there", run.summary.selection)


def _against_k(id: str, run: Run, title: str, caption: str, y_label: str, curves: Mapping[str, Curve]) -> Figure:
    return Figure(
        id, run.name, title, caption, "line", "k, trajectories per problem", y_label, _curves(curves), log_x=True
    )


def _scaling(run: Run) -> Figure:
    tokens = run.summary.figures["tokens_per_trajectory"].value
    series = _curves(run.summary.curves, tokens) if tokens > 0 else ()  # unknown, or no scale of a logarithm
    caption = "The same accuracy against what it costs: k times the mean length of a trajectory."
    x_label = "written tokens a problem"
    return Figure(
        "scaling", run.name, "Right answers against tokens", caption, "line", x_label, "right", series, log_x=True
    )


def _curves(curves: Mapping[str, Curve], scale: float = 1.0) -> tuple[Series, ...]:
    return tuple(
        Series(
            name,
            LABELS[name],
            tuple(k * scale for k in curve.ks),
            *_columns(curve.points),
            main=name in MAIN,
        )
        for name, curve in curves.items()
    )


def _columns(points: Sequence[Interval]) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    return tuple(p.value for p in points), tuple(p.low for p in points), tuple(p.high for p in points)


def _histogram(run: Run) -> Figure:
    score, right = run.table.scores["score"], run.table.right
    if not run.table.complete:
        right = np.full_like(right, np.nan)
    known = score[~np.isnan(score)]
    share = not len(known) or bool(known.min() >= 0.0 and known.max() <= 1.0)  # scores of others may be anything
    low, high = (0.0, 1.0) if share else (float(known.min()), float(known.max()))
    edges = np.linspace(low, high, HISTOGRAM_BINS + 1)
    series = []
    for id, value in (("right", 1.0), ("wrong", 0.0)):
        chosen = score[(right == value) & ~np.isnan(score)]
        if len(chosen):
            count, _ = np.histogram(chosen, edges)
            heights = tuple(float(c) / len(chosen) for c in count)
            series.append(Series(id, f"{id} ({len(chosen):,})", tuple(float(e) for e in edges[:-1]), heights))
    return Figure(
        "histogram",
        run.name,
        "Scores of right and of wrong trajectories",
        "Each adds up to one. The further apart, the better selection works.",
        "histogram",
        "score S",
        "share",
        tuple(series),
        unit_y=False,
        unit_x=share,
    )


def _roc(run: Run) -> Figure:
    series = []
    for name in known_selectors(run.table) if run.table.complete else ():
        alarm, hit = Pooled(run.table, run.table.scores[SELECTORS[name]]).curve()
        if hit[-1] > 0 and alarm[-1] > 0:
            places = np.unique(np.linspace(0, len(alarm) - 1, min(CURVE_POINTS, len(alarm))).astype(int))
            x, y = (tuple(float(v) for v in column[places]) for column in (alarm, hit))
            series.append(Series(name, LABELS[name], x, y, main=name in MAIN))
    return Figure(
        "roc",
        run.name,
        "ROC over all trajectories",
        "What a threshold keeps of the right ones, and what of the wrong ones. Over all problems this also "
        "tells easy from hard ones; see the AUC within problems.",
        "line",
        "wrong ones kept",
        "right ones kept",
        tuple(series),
        unit_x=True,
        diagonal=True,
    )


def _reliability(run: Run, what: str) -> Figure:
    bins = run.summary.reliability.get(what, ())
    of = "the given answers" if what == "confidence" else "the trajectories"
    points = [b.right for b in bins]
    series = Series(what, what, tuple(b.stated for b in bins), *_columns(points))
    return Figure(
        f"reliability_{what}",
        run.name,
        f"Reliability of the {what}",
        f"The share of right ones among {of} whose {what} is about that high; on the diagonal it can be believed.",
        "line",
        what,
        "right",
        (series,) if bins else (),
        unit_x=True,
        diagonal=True,
    )


def _groups(run: Run, what: str, groups: Any) -> Figure:
    names = sorted(groups, key=lambda g: -next(iter(groups[g].values())).problems)[:FAMILIES_AT_MOST]
    names = [name for name in groups if name in set(names)]
    shown = [s for s in MAIN if names and s in groups[names[0]]]
    series = tuple(_bars(s, [groups[name] for name in names]) for s in shown) if len(names) > 1 else ()
    return Figure(
        f"by_{what}",
        run.name,
        f"Right answers by {what}",
        f"At k = {run.summary.budget}, with 95 % intervals.",
        "bars",
        what,
        "right",
        series,
        categories=tuple(names),
    )


def _bars(strategy: str, rows: Sequence[Named]) -> Series:
    points = [row[strategy] for row in rows]
    places = tuple(float(i) for i in range(len(rows)))
    return Series(strategy, LABELS[strategy], places, *_columns(points))


def _across(runs: Sequence[Run]) -> list[Figure]:
    """Best of k by score of every run, against k and against tokens."""
    accuracy, scaling = [], []
    for i, run in enumerate(runs):
        curve = run.summary.curves.get("best_of_n") or run.summary.curves.get("majority")
        if curve is None:
            continue
        columns = _columns(curve.points)
        accuracy.append(Series(f"run{i}", run.name, tuple(float(k) for k in curve.ks), *columns))
        tokens = run.summary.figures["tokens_per_trajectory"].value
        if tokens > 0:
            scaling.append(Series(f"run{i}", run.name, tuple(k * tokens for k in curve.ks), *columns))
    caption = "Best of k by score (majority where there are no scores) in every run; bands are 95 % intervals."
    return [
        Figure(
            "runs_accuracy",
            "",
            "Runs against k",
            caption,
            "line",
            "k, trajectories per problem",
            "right",
            tuple(accuracy),
            log_x=True,
        ),
        Figure(
            "runs_scaling",
            "",
            "Runs against tokens",
            caption,
            "line",
            "written tokens a problem",
            "right",
            tuple(scaling),
            log_x=True,
        ),
    ]


def _short(value: float) -> float | None:
    return None if math.isnan(value) else float(f"{value:.5g}")


def _blank(value: float) -> float | str:
    return "" if math.isnan(value) else value
