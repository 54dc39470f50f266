"""`reflective report`: runs as a page, as Markdown, as plots, or as figures."""

from __future__ import annotations

import argparse
from pathlib import Path

from reflective.cli import DONE
from reflective.cli.common import print_json, say

DESCRIPTION = """\
Show what runs are worth. With --output FILE.html one page that needs nothing else: tables, curves, and the problems
with their trajectories; FILE.md is Markdown. Without it, Markdown goes to standard output. Several runs are shown side
by side, with paired tests over the problems that they share."""
EXAMPLES = """\
examples:
  reflective report runs/countdown --output report.html
  reflective report runs/before runs/after --output comparison.html --plots plots
  reflective report runs/countdown --json
  reflective report runs/countdown --policies --plots plots
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders that reflective eval wrote")
    parser.add_argument("--output", metavar="FILE", help="report.html or report.md (default: Markdown on stdout)")
    parser.add_argument("--plots", metavar="FOLDER", help="every plot as PNG and CSV (extra: eval)")
    parser.add_argument("--texts", type=float, default=12.0, metavar="MB", help="of problems to read on the page")
    parser.add_argument("--title", default="", metavar="TEXT", help="of the page")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the intervals' resamples")
    parser.add_argument(
        "--policies",
        action="store_true",
        help="accuracy against tokens of every way to stop early, played on the records of one run",
    )
    parser.add_argument("--model", metavar="NAME", help="of --policies: whose schedule is played (default: the run's)")
    parser.add_argument("--json", action="store_true", help="print all figures as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Gather, then write what is asked for."""
    from reflective.errors import InputError
    from reflective.evaluate.report import markdown, page, paired_tests, read_runs, write_plots
    from reflective.evaluate.report.figures import figures
    from reflective.settings import check_least

    if args.policies:
        return _policies(args)
    output = Path(args.output) if args.output else None
    if output is not None and output.suffix not in (".html", ".md"):
        raise InputError(f"--output is {args.output!r}; it must end in .html or .md.")
    check_least(0, **{"--texts": args.texts})
    runs = read_runs([Path(folder) for folder in args.runs], seed=args.seed)
    for item in runs:
        for note in item.notes:
            say(f"note: {item.name}: {note}")
    plots = write_plots(figures(runs), Path(args.plots)) if args.plots else {}
    if args.json:
        pairs = [(a, b) for i, a in enumerate(runs) for b in runs[i + 1 :]]
        tests = [
            {"a": a.name, "b": b.name, **{name: t.to_json() for name, t in paired_tests(a, b, seed=args.seed).items()}}
            for a, b in pairs
        ]
        print_json({"runs": {item.name: item.summary.to_json() for item in runs}, "tests": tests})
    if output is not None:
        html = output.suffix == ".html"
        text = page(runs, title=args.title, text_budget=args.texts * 1e6) if html else markdown(runs, plots)
        _write(output, text)
        say(str(output))
    elif not args.json:
        print(markdown(runs, plots))
    return DONE


def _policies(args: argparse.Namespace) -> int:
    """Every policy on one run: a table, and with --plots a figure."""
    from reflective.errors import InputError
    from reflective.evaluate.policies import report_policies
    from reflective.evaluate.report.plots import write_plots
    from reflective.evaluate.report.policies import policies_figure, policies_markdown

    if len(args.runs) != 1:
        raise InputError("--policies plays on one run; name one.")
    rows, notes = report_policies(Path(args.runs[0]), model=args.model, seed=args.seed)
    for note in notes:
        say(f"note: {note}")
    if args.plots:
        write_plots([policies_figure(rows)], Path(args.plots))
        say(args.plots)
    if args.json:
        print_json({"policies": [row.to_json() for row in rows]})
    elif args.output:
        _write(Path(args.output), policies_markdown(rows))
        say(args.output)
    else:
        print(policies_markdown(rows))
    return DONE


def _write(path: Path, text: str) -> None:
    from reflective.errors import InputError
    from reflective.files import disk_errors, write_text

    with disk_errors(path, InputError):
        write_text(path, text)
