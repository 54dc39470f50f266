"""How figures are called and written, the same on the page, in Markdown and in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from reflective.evaluate.bootstrap import Interval
from reflective.evaluate.summary import Summary

MAIN = ("single", "best_of_n", "majority", "weighted", "logprob", "oracle")
"""The strategies that are shown first, and by family and level."""

ROWS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "chosen": ("answers given, right", "share"),
        "single": ("single sample, right", "share"),
        "gain": ("gain of best of k over one", "points"),
        "unfinished": ("unfinished reasoning", "share"),
        "ungradable": ("ungradable answers", "share"),
        "pruned": ("trajectories let go: pruned", "share"),
        "stopped_early": ("trajectories let go: stopped early", "share"),
        "over_budget": ("trajectories let go: over budget", "share"),
        "ece_confidence": ("calibration error of the confidence", "share"),
        "ece_score": ("calibration error of the score", "share"),
        "tokens_per_trajectory": ("tokens per trajectory", "count"),
        "tokens_per_problem": ("written tokens a problem", "count"),
        "seconds_per_problem": ("seconds until a problem's answer", "seconds"),
    }
)
"""Figures of a run: what they are called, and their unit."""


def label(name: str) -> str:
    """What a human reads."""
    return ROWS[name][0]


def plain(value: float) -> str:
    """Three places; a dash where it is undefined."""
    return "—" if value != value else f"{value:.3f}"


def cell(name: str, interval: Interval) -> str:
    """A figure with its interval, in its unit."""
    if interval.value != interval.value:
        return "—"
    unit = ROWS[name][1]
    value, low, high = (_in(unit, v) for v in (interval.value, interval.low, interval.high))
    return value if low == "—" else f"{value} ({low} to {high})"


def bracketed(interval: Interval) -> str:
    """A share with its interval; a dash where it is undefined."""
    if interval.low != interval.low:
        return plain(interval.value)
    return f"{plain(interval.value)} ({plain(interval.low)} to {plain(interval.high)})"


def points_between(low: float, high: float) -> str:
    """An interval of differences, in points."""
    return "—" if low != low else f"{100 * low:+.1f} to {100 * high:+.1f}"


def _in(unit: str, value: float) -> str:
    if value != value:
        return "—"
    if unit == "points":
        return f"{100 * value:+.1f}"
    if unit == "count":
        return f"{value:,.1f}"
    return f"{value:.2f}" if unit == "seconds" else f"{value:.3f}"


def budgets_shown(summary: Summary) -> list[int]:
    """Powers of two and the largest: what fits into a table."""
    ks = next(iter(summary.curves.values())).ks if summary.curves else ()
    return [k for k in ks if k & (k - 1) == 0 or k == summary.budget]
