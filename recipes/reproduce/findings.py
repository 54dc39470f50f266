"""What a study found, as plain data: tables of figures with intervals, sentences, plots. JSON and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reflective.evaluate.bootstrap import Interval
from reflective.evaluate.report.figures import Figure, Series
from reflective.records import finite

Row = list[Any]  # of texts and of cells


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table. A cell is a text, or a mapping with value, low, high, problems, unit and perhaps spread."""

    title: str
    head: Sequence[str]
    rows: Sequence[Row]

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {"title": self.title, "head": list(self.head), "rows": [list(row) for row in self.rows]}


@dataclass(frozen=True, slots=True)
class Findings:
    """Of one study. `sentences` stand above the tables; `sources` are the records, under the output folder."""

    sheets: Sequence[Sheet]
    sentences: Sequence[str]
    plots: Sequence[Figure]
    sources: Sequence[str]
    remarks: Sequence[str] = field(default_factory=tuple)
    amounts: str = ""  # of data, in words

    def to_json(self) -> dict[str, Any]:
        """A JSON object; what is undefined is null."""
        found: dict[str, Any] = finite(
            {
                "sheets": [sheet.to_json() for sheet in self.sheets],
                "sentences": list(self.sentences),
                "remarks": list(self.remarks),
                "amounts": self.amounts,
                "plots": [plot.to_json() for plot in self.plots],
                "sources": list(self.sources),
            }
        )
        return found


def line(
    id: str, name: str, x: Sequence[float], points: Sequence[Interval | Mapping[str, Any]], *, main: bool = True
) -> Series:
    """A line of figures with their intervals, which are drawn where it is a `main` one."""
    rows = [p.to_json() if isinstance(p, Interval) else p for p in points]
    columns = (tuple(float(row[key]) for row in rows) for key in ("value", "low", "high"))
    return Series(id, name, tuple(map(float, x)), *columns, main=main)


def plot(
    id: str,
    title: str,
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    *,
    caption: str = "",
    log_x: bool = False,
    unit_y: bool = True,
    categories: Sequence[str] = (),
) -> Figure:
    """A line plot, or bars where there are categories."""
    kind: Any = "bars" if categories else "line"
    return Figure(
        id,
        "",
        title,
        caption,
        kind,
        x_label,
        y_label,
        tuple(series),
        log_x=log_x,
        unit_y=unit_y,
        categories=tuple(categories),
    )


def figure_of(data: Mapping[str, Any]) -> Figure:
    """A plot from `Figure.to_json`'s object."""

    def numbers(values: Sequence[float | None]) -> tuple[float, ...]:
        return tuple(float("nan") if value is None else value for value in values)

    series = tuple(
        Series(s["id"], s["name"], *(numbers(s[key]) for key in ("x", "y", "low", "high")), main=s["main"])
        for s in data["series"]
    )
    return Figure(**{**data, "series": series, "categories": tuple(data["categories"])})
