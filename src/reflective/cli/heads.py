"""`reflective heads`: the heads that the package ships, and whose they are."""

from __future__ import annotations

import argparse

from reflective.cli import DONE
from reflective.cli.common import print_json, say

DESCRIPTION = """\
List the heads that come with the package. A model that has no head of its own finds its one by its hub id or its
fingerprint; --head none leaves it out."""
EXAMPLES = """\
examples:
  reflective heads
  reflective heads --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("--json", action="store_true", help="print a list of JSON objects")


def run(args: argparse.Namespace) -> int:
    """List them."""
    from reflective.models.shipped import shipped_heads

    heads = shipped_heads()
    if args.json:
        print_json(
            [
                {
                    "name": head.name,
                    "folder": str(head.folder),
                    "models": list(head.hub_ids),
                    "size_bytes": head.size_bytes,
                    "summary": head.summary,
                }
                for head in heads
            ]
        )
        return DONE
    for head in heads:
        print(f"{head.name}  ({head.size_bytes / 1e6:.1f} MB)  for {', '.join(head.hub_ids)}")
        if head.summary:
            print(f"    {head.summary}")
        print(f"    {head.folder}")
    if not heads:
        say("no head comes with this version. Train one with: reflective train head --model MODEL --data FILE.jsonl")
    return DONE
