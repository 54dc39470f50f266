"""`reflective train`: a small model from traces (sft), or a head for a model that exists (head)."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from reflective.cli import DONE, INTERRUPTED
from reflective.cli.common import print_json, say

DESCRIPTION = "Train a small model from solution traces, or a score head for a model of your own."
EXAMPLES = """\
examples:
  reflective train sft recipes/nano/sft.toml --output runs/nano
"""
SFT_DESCRIPTION = """\
Train a model on solution traces, from scratch or from a checkpoint, as a TOML file says. Ctrl-C saves and stops; the
same command goes on where it was. Losses go to stderr and to TensorBoard (logs/ in the output folder)."""
SFT_EXAMPLES = """\
examples:
  reflective train sft recipes/nano/sft.toml --output runs/nano
  reflective train sft recipes/nano/sft.toml --output runs/short --max-minutes 5
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    sft = actions.add_parser("sft", help="traces to a model", description=SFT_DESCRIPTION, epilog=SFT_EXAMPLES)
    sft.add_argument("config", metavar="CONFIG.toml", help="what to train, on what, and how")
    sft.add_argument("--output", metavar="FOLDER", help="where the run and the model go")
    sft.add_argument("--max-minutes", type=float, metavar="M", help="end the run, decayed, after so many minutes")
    sft.add_argument("--max-tokens", type=int, metavar="N", help="end the run after so many tokens")
    sft.add_argument("--seed", type=int, metavar="N")
    sft.add_argument("--device", help="auto, cpu, cuda or cuda:N")
    sft.add_argument("--json", action="store_true", help="print how the run ended as one JSON object")
    sft.set_defaults(action_run=_sft)


def run(args: argparse.Namespace) -> int:
    """The action that is asked for."""
    code: int = args.action_run(args)
    return code


def _sft(args: argparse.Namespace) -> int:
    from reflective.train.config import read_config
    from reflective.train.sft import train_sft

    names = ("output", "max_minutes", "max_tokens", "seed", "device")
    result = train_sft(read_config(args.config, **{name: getattr(args, name) for name in names}))
    if args.json:
        print_json(asdict(result) | {"folder": str(result.folder)})
    else:
        print(result.folder)
    if result.interrupted:
        say("stopped; the same command goes on from here")
    return INTERRUPTED if result.interrupted else DONE
