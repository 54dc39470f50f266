"""`reflective eval regrade`: new verdicts for old answers, without generating again."""

from __future__ import annotations

import argparse
from pathlib import Path

from reflective.cli import DONE
from reflective.cli.common import print_json, say

DESCRIPTION = "Grade the answers of a run again, with the graders as they are now, into a new run folder."
EXAMPLES = """\
examples:
  reflective eval regrade runs/old --output runs/regraded
  reflective eval regrade runs/old --kind exact --output runs/exact
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("folder", metavar="RUN", help="a run folder")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="the new run folder")
    parser.add_argument("--kind", metavar="K", help="grade every problem as this kind, for example math or exact")
    parser.add_argument("--extract", action="store_true", help="look for the final answers in the texts again, too")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Grade and say what changed."""
    from reflective.evaluate.revision import regrade

    count, changed = regrade(Path(args.folder), Path(args.output), kind=args.kind, extract=args.extract)
    if args.json:
        print_json({"output": args.output, "trajectories": count, "changed": changed})
    else:
        print(args.output)
        say(f"{changed:,} of {count:,} verdicts changed")
    return DONE
