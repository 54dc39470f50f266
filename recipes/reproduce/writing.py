"""The page with what was found, and its pictures: from the findings alone, without a model."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from findings import figure_of

from reflective.errors import InputError
from reflective.evaluate.report.plots import write_plots
from reflective.files import disk_errors, write_text
from reflective.records.manifest import versions

PACKAGES = ("reflective", "torch", "transformers", "trl")


def write_page(path: Path, found: Mapping[str, Any]) -> None:
    """Write the page and, beside it in a folder of its name, the pictures with their numbers as CSV.

    `found` holds "run" (what was run, for the head) and "studies": number, name, title, question, seconds, findings.
    """
    pictures = path.with_suffix("")
    lines = _head(found)
    for study in found["studies"]:
        plots = [figure_of({**plot, "id": f"{study['number']}_{plot['id']}"}) for plot in study["findings"]["plots"]]
        drawn = [plot for plot in plots if any(y == y for series in plot.series for y in series.y)]
        images = write_plots(drawn, pictures)
        lines += _study(study, [(plot.title, images[plot.title], plot.caption) for plot in drawn])
    with disk_errors(path, InputError):
        write_text(path, "\n".join(lines).rstrip("\n") + "\n")


def hardware() -> str:
    """The machine, in a few words."""
    name = ""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((row.partition(":")[2].strip() for row in lines if row.startswith("model name")), "")
    except OSError:
        name = platform.processor()
    packages = ", ".join(f"{package} {version}" for package, version in versions(PACKAGES).items())
    return f"{os.cpu_count()} cores, {name or platform.machine()}; {packages}"


def _head(found: Mapping[str, Any]) -> list[str]:
    run = found["run"]
    shared = run["seconds"]["shared"]
    missing = f" Not in this run: {', '.join(run['missing'])}." if run["missing"] else ""
    times = [["shared trajectories", _minutes(shared)]]
    times += [[f"{s['number']}. {s['title']}", _minutes(s["seconds"])] for s in found["studies"]]
    times.append(["together", _minutes(shared + sum(s["seconds"] for s in found["studies"]))])
    seeds = f", seeds {', '.join(map(str, run['seeds']))}" if run["seeds"] else ""  # none where nothing is trained
    about = f"Model `{run['model']}` (weights {run['weights']}){seeds}; all is sampled at temperature 1.{missing}"
    how = (
        "Brackets are 95 % intervals over problems. Where something is trained, the value is the mean over seeds, ± "
        "the standard deviation of the seeds, and the interval is over problems and seeds; few seeds tell little of "
        "how seeds differ. Differences are paired by problem and seed; *noise* is what chance explains at 5 %. Nothing "
        "is corrected for the number of comparisons."
    )
    return [
        "# Results",
        "",
        "What the paper claims, examined again on a model that fits a laptop; all computed from records, by",
        "",
        "<!-- test: parse -->",
        "```bash",
        run["command"],
        "```",
        "",
        about,
        "",
        *([run["remark"].strip(), ""] if run["remark"] else []),
        how,
        "",
        f"Made on {' and on '.join(run['hardware'])}.",
        "",
        *_table(["", "minutes"], times),
    ]


def _study(study: Mapping[str, Any], images: Sequence[tuple[str, str, str]]) -> list[str]:
    found = study["findings"]
    lines = [f"## {study['number']}. {study['title']}", "", study["question"], ""]
    lines += [f"Data: {found['amounts']}.", ""] if found["amounts"] else []
    lines += [f"- {text[:1].upper()}{text[1:]}" for text in found["sentences"]]  # many begin with a name
    lines.append("")
    for sheet in found["sheets"]:
        lines += [
            f"**{sheet['title']}**",
            "",
            *_table(sheet["head"], [[_cell(c) for c in row] for row in sheet["rows"]]),
        ]
    for title, path, caption in images:
        lines += [f"![{title}]({path})", ""]
        lines += [caption, ""] if caption else []
    lines += [f"{remark}\n" for remark in found["remarks"]]
    lines += [f"Code: `recipes/reproduce/{study['name']}.py`; records: `{study['sources']}`.", ""]
    return lines


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def _cell(cell: Any) -> str:
    """`0.581 (0.565 to 0.597) ± 0.004`."""
    if isinstance(cell, str):
        return cell.replace("|", "\\|")
    unit = cell["unit"]
    if cell["value"] is None:
        return "—"
    text = _in(unit, cell["value"])
    if cell["low"] is not None:
        text += f" ({_in(unit, cell['low'])} to {_in(unit, cell['high'])})"
    if cell.get("spread") is not None:
        text += f" ± {_in(unit, cell['spread']).lstrip('+')}"
    return text


def _in(unit: str, value: float) -> str:
    if unit == "points":
        return f"{100 * value:+.1f}"
    return f"{value:.3f}"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f}"
