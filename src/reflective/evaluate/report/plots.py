"""Every figure as PNG and as CSV. PNG needs matplotlib (extra `eval`); CSV needs nothing."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reflective.errors import DependencyError, InputError
from reflective.evaluate.report.figures import Figure, Series
from reflective.files import disk_errors, whole_file

SIZE_INCHES = (7.2, 4.5)
DPI = 144
COLORS = {
    "oracle": "#8a8f98",
    "single": "#5b616b",
    "best_of_n": "#2563eb",
    "majority": "#d97706",
    "weighted": "#059669",
    "logprob": "#9333ea",
    "right": "#0d9488",
    "wrong": "#dc2626",
}
OTHERS = ("#2563eb", "#d97706", "#059669", "#9333ea", "#db2777", "#0891b2", "#65a30d", "#b45309")


def write_plots(figures: Sequence[Figure], folder: Path) -> dict[str, str]:
    """Write all into a folder; titles and names of the images. Raises `DependencyError` without matplotlib."""
    try:
        import matplotlib
    except ImportError as error:
        raise DependencyError(
            'plots need matplotlib. Install it in the checkout: pip install ".[eval]", or leave --plots out.'
        ) from error
    matplotlib.use("Agg")
    with disk_errors(folder, InputError):
        folder.mkdir(parents=True, exist_ok=True)
        written = {}
        for figure in figures:
            name = _file_name(figure)
            _write_csv(figure, folder / f"{name}.csv")
            _draw(figure, folder / f"{name}.png")
            written[f"{figure.title} ({figure.run})" if figure.run else figure.title] = f"{folder.name}/{name}.png"
        return written


def _file_name(figure: Figure) -> str:
    run = re.sub(r"[^\w.-]+", "-", figure.run).strip("-.")
    return f"{run}_{figure.id}" if run else figure.id


def _write_csv(figure: Figure, path: Path) -> None:
    with whole_file(path) as place, place.open("w", encoding="utf-8", newline="", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, ["series", "x", "y", "low", "high"])
        writer.writeheader()
        writer.writerows(figure.rows())


def _draw(figure: Figure, path: Path) -> None:
    import matplotlib.pyplot as plt

    canvas, axes = plt.subplots(figsize=SIZE_INCHES, layout="constrained")
    try:
        draw = {"line": _lines, "bars": _bars, "histogram": _histogram}[figure.kind]
        draw(axes, figure)
        axes.set_title(_safe(figure.title), loc="left", fontsize=11)
        axes.set_xlabel(figure.x_label)
        axes.set_ylabel(figure.y_label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25)
        if figure.unit_y:
            axes.set_ylim(0, 1)
        if len(figure.series) > 1:
            axes.legend(frameon=False, fontsize=8)
        with whole_file(path) as place:
            canvas.savefig(place, dpi=DPI, format="png")
    finally:
        plt.close(canvas)


def _lines(axes: Any, figure: Figure) -> None:
    for i, s in enumerate(figure.series):
        color = _color(s, i)
        style = "--" if s.id == "oracle" else "-"
        marker = "o" if len(s.x) < 20 and figure.diagonal else None
        axes.plot(s.x, s.y, style, color=color, label=_safe(s.name), linewidth=1.8, marker=marker, markersize=4)
        if s.low and s.main:
            axes.fill_between(s.x, s.low, s.high, color=color, alpha=0.12, linewidth=0)
    if figure.log_x:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    if figure.diagonal:
        axes.plot([0, 1], [0, 1], color="#8a8f98", linewidth=1, linestyle=":")
    if figure.unit_x:
        axes.set_xlim(0, 1)


def _bars(axes: Any, figure: Figure) -> None:
    width = 0.8 / len(figure.series)
    for i, s in enumerate(figure.series):
        x = [v - 0.4 + width * (i + 0.5) for v in s.x]
        errors = [
            [max(0.0, y - low) if low == low else 0.0 for y, low in zip(s.y, s.low, strict=True)],
            [max(0.0, high - y) if high == high else 0.0 for y, high in zip(s.y, s.high, strict=True)],
        ]
        axes.bar(x, s.y, width * 0.9, color=_color(s, i), label=_safe(s.name), yerr=errors, error_kw={"alpha": 0.5})
    names = [_safe(name) for name in figure.categories]
    axes.set_xticks(
        range(len(names)), names, rotation=30 if len(names) > 4 else 0, ha="right" if len(names) > 4 else "center"
    )


def _histogram(axes: Any, figure: Figure) -> None:
    for i, s in enumerate(figure.series):
        width = s.x[1] - s.x[0] if len(s.x) > 1 else 1.0
        axes.bar(s.x, s.y, width, align="edge", color=_color(s, i), alpha=0.55, label=_safe(s.name))
    if figure.unit_x:
        axes.set_xlim(0, 1)


def _color(s: Series, i: int) -> str:
    return COLORS.get(s.id) or OTHERS[i % len(OTHERS)]


def _safe(text: str) -> str:
    """Without matplotlib's own mathematics."""
    return text.replace("$", r"\$")
