"""`reflective import`: makes a plain model folder of a GGUF file, or of a checkpoint of the reference."""

from __future__ import annotations

import argparse
from pathlib import Path

from reflective.cli import DONE
from reflective.cli.common import print_json, say
from reflective.errors import InputError

DESCRIPTION = """\
Make a model folder of a GGUF file, in bfloat16; or turn a checkpoint of the reference (a Hugging Face folder with
score_module.pt) into one of ours. Without OUT, the reference's head is written as sprm/ into its own folder. Its .pt
file is read with unpickling restricted to tensors: no code in it runs."""
EXAMPLES = """\
examples:
  reflective import path/to/model.gguf path/to/new-model
  reflective import path/to/reference-model path/to/new-model
  reflective import path/to/reference-model
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("source", help="a GGUF file, the reference's folder, or its hub id")
    parser.add_argument("out", nargs="?", help="the folder to write (for the reference, default: sprm/ in its folder)")
    parser.add_argument(
        "--rule", choices=("reference", "paper", "chinese"), help="which tokens end a step of the reference's head"
    )
    parser.add_argument("--json", action="store_true", help="print what was made as JSON")


def run(args: argparse.Namespace) -> int:
    """Import and say where."""
    from reflective.models import describe, import_reference
    from reflective.models.gguf import import_gguf, is_gguf

    file = Path(args.source).expanduser()
    if file.is_file() and is_gguf(file):
        if args.out is None or args.rule is not None:
            raise InputError(
                "a GGUF file has no head, so --rule means nothing for it. Leave it out."
                if args.rule is not None
                else f"name the folder to write to: reflective import {args.source} FOLDER"
            )
        import_gguf(file, args.out)
    else:
        import_reference(args.source, args.out, rule=args.rule or "reference")
    target = args.out or args.source
    if args.json:
        print_json(describe(target))
    else:
        print(target)
        say(f"try: reflective solve 'What is 2 + 3?' --model {target}")
    return DONE
