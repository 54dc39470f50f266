"""`reflective import`: a checkpoint of the reference (score_module.pt beside the weights) becomes one of ours."""

from __future__ import annotations

import argparse

from reflective.cli import DONE
from reflective.cli.common import print_json, say

DESCRIPTION = """\
Turn a checkpoint of the reference (a Hugging Face folder with score_module.pt) into one of ours. Without OUT, sprm/ is
written into the folder itself. The .pt file is read with unpickling restricted to tensors: no code in it runs."""
EXAMPLES = """\
examples:
  reflective import path/to/reference-model path/to/new-model
  reflective import path/to/reference-model
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("source", help="the reference's folder, or a hub id")
    parser.add_argument("out", nargs="?", help="the folder to write (default: sprm/ inside the source folder)")
    parser.add_argument(
        "--rule", default="reference", choices=("reference", "paper", "chinese"), help="which tokens end a step"
    )
    parser.add_argument("--json", action="store_true", help="print the head's config as JSON")


def run(args: argparse.Namespace) -> int:
    """Import and say where."""
    from reflective.models import describe, import_reference

    import_reference(args.source, args.out, rule=args.rule)
    target = args.out or args.source
    if args.json:
        print_json(describe(target))
    else:
        print(target)
        say(f"try: reflective solve 'What is 2 + 3?' --model {target}")
    return DONE
