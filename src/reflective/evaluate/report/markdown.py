"""A run as text: a short summary for the terminal and a Markdown report with every table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reflective.evaluate.bootstrap import Interval
from reflective.evaluate.report.content import Run, paired_tests
from reflective.evaluate.report.labels import MAIN, ROWS, bracketed, budgets_shown, cell, label, plain, points_between
from reflective.evaluate.selectors import LABELS
from reflective.evaluate.summary import Summary


def text_summary(summary: Summary) -> str:
    """A few lines for the terminal: every strategy at some budgets, with intervals at the last one."""
    ks = budgets_shown(summary)
    head = f"{summary.problems:,} problems · {summary.trajectories:,} trajectories"
    if not ks:
        return "\n".join([head, "", *(f"{label(name)}  {cell(name, value)}" for name, value in _told(summary))])
    width = max(len(LABELS[name]) for name in summary.curves)
    lines = [head, "", f"{'right at k =':<{width}}  " + "".join(f"{k:>7}" for k in ks) + "    95 % interval"]
    for name, curve in summary.curves.items():
        values = "".join(f"{plain(curve.points[curve.ks.index(k)].value):>7}" for k in ks)
        last = curve.last
        lines.append(f"{LABELS[name]:<{width}}  {values}    {plain(last.low)} to {plain(last.high)}")
    lines.append("")
    lines += [f"{label(name):<{width}}  {cell(name, value)}" for name, value in _told(summary)]
    return "\n".join(lines)


def markdown(runs: Sequence[Run], plots: Mapping[str, str] | None = None) -> str:
    """The report as Markdown; `plots` are titles and paths of images to show."""
    parts = ["# " + " and ".join(f"`{_code(run.name)}`" for run in runs), ""]
    for run in runs:
        parts += _run(run, several=len(runs) > 1)
    if len(runs) > 1:
        parts += _tests(runs)
    for title, path in (plots or {}).items():
        parts += [f"![{_text(title)}]({path})", ""]
    return "\n".join(parts)


def _run(run: Run, *, several: bool) -> list[str]:
    summary, m = run.summary, run.manifest
    lines = [f"## {_text(run.name)}", ""] if several else []
    lines += [
        f"{_text(m.name)} · model {_text(m.model)} · {m.strategy} · {m.effort} trajectories · seed {m.seed}",
        "",
        *(f"> {_text(note)}\n" for note in run.notes),
    ]
    lines += _table(["figure", "value (95 % interval)"], [[label(n), cell(n, v)] for n, v in _told(summary)])
    ks = budgets_shown(summary)
    if ks:
        rows = [
            [
                LABELS[name],
                *(plain(c.points[c.ks.index(k)].value) for k in ks),
                f"{plain(c.last.low)} to {plain(c.last.high)}",
            ]
            for name, c in summary.curves.items()
        ]
        lines += ["**Right answers at k**", ""]
        lines += _table(["strategy", *(f"k = {k}" for k in ks), f"95 % interval at {ks[-1]}"], rows)
        rows = [[LABELS[name], bracketed(c.last)] for name, c in summary.selection.items()]
        lines += [f"**Right, given that a right one is among {ks[-1]}**", ""]
        lines += _table(["strategy", "value (95 % interval)"], rows)
    if summary.ranking:
        rows = [
            [LABELS[name], *(bracketed(row[what]) for what in ("auc_within", "auc", "ap_within", "ap"))]
            for name, row in summary.ranking.items()
        ]
        lines += ["**Telling right from wrong trajectories**", ""]
        lines += _table(["figure", "AUC within problems", "AUC", "AP within problems", "AP"], rows)
    for title, groups in (("family", summary.families), ("level", summary.levels)):
        shown = [name for name in MAIN if groups and name in next(iter(groups.values()))]
        if len(groups) > 1:
            rows = [
                [_text(g), *(bracketed(row[name]) for name in shown), f"{row[shown[0]].problems:,}"]
                for g, row in groups.items()
            ]
            lines += [f"**By {title}, k = {summary.budget}**", ""]
            lines += _table([title, *(LABELS[name] for name in shown), "problems"], rows)
    return lines


def _tests(runs: Sequence[Run]) -> list[str]:
    lines = ["## Is one better?", ""]
    for i, a in enumerate(runs):
        for b in runs[i + 1 :]:
            tests = paired_tests(a, b)
            lines += [_text(tests["chosen"].sentence(a.name, b.name)), ""]
            rows = [
                [
                    "answers given" if name == "chosen" else LABELS[name],
                    f"{100 * t.difference:+.1f}",
                    points_between(t.low, t.high),
                    f"{t.p:.3g}",
                    t.outcome,
                ]
                for name, t in tests.items()
            ]
            lines += _table([f"{_text(a.name)} − {_text(b.name)}", "points", "95 % interval", "p", "outcome"], rows)
    return lines


def _told(summary: Summary) -> list[tuple[str, Interval]]:
    return [(name, summary.figures[name]) for name in ROWS if name in summary.figures]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return [*lines, ""]


def _text(value: str) -> str:
    """Text that Markdown and HTML leave as it is."""
    text = " ".join(value.split())
    for sign in "\\`*_[]|":
        text = text.replace(sign, "\\" + sign)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _code(value: str) -> str:
    return " ".join(value.split()).replace("`", "'").replace("<", "‹").replace(">", "›")
