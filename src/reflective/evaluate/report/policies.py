"""Accuracy against tokens of every policy, as a table and as a figure."""

from __future__ import annotations

from collections.abc import Sequence

from reflective.evaluate.bootstrap import Interval
from reflective.evaluate.policies import Row
from reflective.evaluate.report.figures import Figure, Series

HEAD = ("policy", "accuracy", "lost against effort high", "tokens", "trajectories")


def policies_markdown(rows: Sequence[Row]) -> str:
    """A Markdown table, the policies in their families."""
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    for row in rows:
        cells = (row.name, _share(row.accuracy), _share(row.loss, sign="+"), _share(row.tokens), f"{row.started:.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def policies_figure(rows: Sequence[Row]) -> Figure:
    """A line a family, by rising tokens."""
    families = list(dict.fromkeys(row.family for row in rows))
    series = []
    for family in families:
        points = sorted((row for row in rows if row.family == family), key=lambda row: row.tokens.value)
        series.append(
            Series(
                family,
                family,
                tuple(row.tokens.value for row in points),
                tuple(row.accuracy.value for row in points),
                tuple(row.accuracy.low for row in points),
                tuple(row.accuracy.high for row in points),
                main=family == "auto",
            )
        )
    return Figure(
        id="policies",
        run="",
        title="Accuracy against tokens",
        caption="Every policy on the same trajectories; tokens as a share of those of all k written to their ends.",
        kind="line",
        x_label="share of the tokens of effort high",
        y_label="accuracy",
        series=tuple(series),
        log_x=True,
        unit_y=False,
    )


def _share(interval: Interval, sign: str = "") -> str:
    if interval.low != interval.low:
        return f"{interval.value:{sign}.3f}"
    return f"{interval.value:{sign}.3f} ({interval.low:{sign}.3f} to {interval.high:{sign}.3f})"
