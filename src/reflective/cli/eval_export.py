"""`reflective eval export`: a run in the formats of other tools."""

from __future__ import annotations

import argparse
from pathlib import Path

from reflective.cli import DONE
from reflective.cli.common import print_json, say

DESCRIPTION = """\
Write a run as JSON lines that other tools read: lm-eval is a samples file of lm-evaluation-harness, reference what the
reference's compute_metric.py reads."""
EXAMPLES = """\
examples:
  reflective eval export runs/nano --format lm-eval --output samples_nano.jsonl
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("folder", metavar="RUN", help="a run folder")
    parser.add_argument("--format", required=True, choices=("lm-eval", "reference"), help="whose format")
    parser.add_argument("--output", required=True, metavar="FILE.jsonl", help="the file to write")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Export and say where."""
    from reflective.evaluate.exchange import export_run

    count = export_run(Path(args.folder), Path(args.output), args.format)
    if args.json:
        print_json({"output": args.output, "problems": count})
    else:
        print(args.output)
        say(f"{count:,} problems")
    return DONE
