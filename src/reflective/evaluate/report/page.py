"""The report as one HTML file: style, script and data are in it, and nothing is fetched from anywhere.

What came from a model, a problem or a file name reaches the page as data alone: as text that the template escapes, or
as JSON in which no `<` is left, and the script puts it in place as text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

import jinja2

from reflective.evaluate.paired import Comparison
from reflective.evaluate.report.browse import problems_to_show
from reflective.evaluate.report.content import Run, paired_tests
from reflective.evaluate.report.figures import figures
from reflective.evaluate.report.labels import MAIN, ROWS, bracketed, budgets_shown, cell, label, plain, points_between
from reflective.evaluate.selectors import LABELS
from reflective.records import finite
from reflective.records.manifest import versions
from reflective.render import GREEN, RED, YELLOW

TEXT_BUDGET_BYTES = 12_000_000  # of problems and trajectories that can be opened on a page, all runs together


def page(runs: Sequence[Run], *, title: str = "", text_budget: float = TEXT_BUDGET_BYTES) -> str:
    """The whole page."""
    drawn = figures(runs)
    shown = [problems_to_show(run, text_budget / len(runs)) for run in runs]
    data = {
        "figures": [figure.to_json() for figure in drawn],
        "runs": [
            {"name": run.name, "problems": problems, "total": run.table.problems}
            for run, problems in zip(runs, shown, strict=True)
        ],
        "colors": {"low": RED, "middle": YELLOW, "high": GREEN},
    }
    return _template().render(
        title=title or " · ".join(run.name for run in runs),
        runs=[_run(run) for run in runs],
        tests=[_tests(a, b) for i, a in enumerate(runs) for b in runs[i + 1 :]],
        style=_part("page.css"),
        script=_part("page.js"),
        data=embedded(data),
        version=versions().get("reflective", ""),
    )


def embedded(data: Any) -> str:
    """JSON that can stand in a script element: nothing in it can end the element or begin another."""
    text = json.dumps(finite(data), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _part(name: str) -> str:
    return (resources.files("reflective.evaluate.report") / name).read_text(encoding="utf-8")


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(_part("page.html"))


def _run(run: Run) -> dict[str, Any]:
    """What the template says of a run; words only."""
    summary, m = run.summary, run.manifest
    ks = budgets_shown(summary)
    return {
        "name": run.name,
        "about": [
            ("benchmark", m.name),
            ("model", m.model),
            ("strategy", f"{m.strategy}, {m.effort} trajectories"),
            ("problems", f"{summary.problems:,}"),
            ("trajectories", f"{summary.trajectories:,}"),
            ("seed", str(m.seed)),
        ],
        "notes": [*run.notes, *m.history],
        "tiles": _tiles(run),
        "figures": [(label(n), cell(n, summary.figures[n])) for n in ROWS if n in summary.figures],
        "ks": ks,
        "strategies": [
            {
                "name": LABELS[name],
                "main": name in MAIN,
                "values": [plain(curve.points[curve.ks.index(k)].value) for k in ks],
                "interval": f"{plain(curve.last.low)} to {plain(curve.last.high)}",
                "selection": bracketed(summary.selection[name].last) if name in summary.selection else "",
            }
            for name, curve in summary.curves.items()
        ],
        "ranking": [
            {
                "name": LABELS[name],
                "values": [bracketed(row[what]) for what in ("auc_within", "auc", "ap_within", "ap")],
            }
            for name, row in summary.ranking.items()
        ],
        "settings": [(name, str(value)) for name, value in {**m.settings, **m.versions}.items() if value is not None],
    }


def _tiles(run: Run) -> list[dict[str, str]]:
    """The figures to see first."""
    s = run.summary
    best = s.curves.get("best_of_n")
    tiles = [("answers right", s.figures["chosen"], 100, " %", "what the run itself answered")]
    tiles.append(("single sample", s.figures["single"], 100, " %", "right, one trajectory alone"))
    if best is not None:
        tiles.append((f"best of {s.budget}", best.last, 100, " %", "right, selected by score"))
    if "oracle" in s.curves:
        tiles.append((f"oracle of {s.budget}", s.curves["oracle"].last, 100, " %", "a right one is there"))
    if "best_of_n" in s.ranking:
        tiles.append(("AUC within problems", s.ranking["best_of_n"]["auc_within"], 1, "", "0.5 is chance"))
    tiles.append(("tokens a problem", s.figures["tokens_per_problem"], 1, "", "written, all trajectories"))
    return [
        {
            "name": name,
            "value": _scaled(i.value, scale) + unit,
            "range": f"{_scaled(i.low, scale)} to {_scaled(i.high, scale)}" if i.low == i.low else "",
            "what": what,
        }
        for name, i, scale, unit, what in tiles
        if i.value == i.value
    ]


def _scaled(value: float, scale: float) -> str:
    if value != value:
        return "—"
    value *= scale
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if scale == 100 or value >= 10 else f"{value:.3f}"


def _tests(a: Run, b: Run) -> dict[str, Any]:
    tests = paired_tests(a, b)
    return {
        "sentence": tests["chosen"].sentence(a.name, b.name),
        "outcome": tests["chosen"].outcome,
        "pair": f"{a.name} − {b.name}",
        "rows": [_test(name, comparison) for name, comparison in tests.items()],
    }


def _test(name: str, t: Comparison) -> dict[str, str]:
    return {
        "name": "answers given" if name == "chosen" else LABELS[name],
        "points": f"{100 * t.difference:+.1f}",
        "interval": points_between(t.low, t.high),
        "p": f"{t.p:.3g}",
        "outcome": t.outcome,
    }
