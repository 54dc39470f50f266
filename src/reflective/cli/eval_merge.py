"""`reflective eval merge`: the shards of one run become one run."""

from __future__ import annotations

import argparse
from pathlib import Path

from reflective.cli import DONE
from reflective.cli.common import print_json, say

DESCRIPTION = "Join the run folders of shards (reflective eval --shard I/N) in a new one."
EXAMPLES = """\
examples:
  reflective eval merge runs/shard-1 runs/shard-2 --output runs/whole
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders with the same settings")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="the new run folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Merge and say how much there is."""
    from reflective.evaluate.revision import merge

    there, wanted = merge([Path(folder) for folder in args.runs], Path(args.output))
    if args.json:
        print_json({"output": args.output, "problems": there, "of": wanted})
    else:
        print(args.output)
    if there < wanted:
        say(f"note: {there:,} of {wanted:,} problems are there; a shard is missing or unfinished")
    return DONE
