"""`reflective calibrate`: fit when effort auto stops, on the records of a run, under a stated risk."""

from __future__ import annotations

import argparse
from pathlib import Path

from reflective.cli import DONE
from reflective.cli.common import print_json, say

DESCRIPTION = """\
Fit the schedule of --effort auto on the records of a run that reflective eval wrote with all answers, and keep it with
the head, in sprm/config.json. It says how much accuracy against all k trajectories is at risk, with 95 % confidence,
and how many tokens that saves; a smaller risk than the records certify is refused. See docs/spending.md."""
EXAMPLES = """\
examples:
  reflective eval mixture --split validation --limit 1000 --effort high --output runs/validation --model path/to/model
  reflective calibrate runs/validation --model path/to/model
  reflective calibrate runs/validation --model path/to/model --risk 0.02 --json
  reflective calibrate runs/validation --learn runs/others --model path/to/model
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders of validation problems, sampled alike")
    parser.add_argument(
        "--learn", nargs="+", default=[], metavar="RUN", help="learn from these instead of a third of the problems"
    )
    parser.add_argument("--model", metavar="NAME", help="the model whose head it is (default: the run's)")
    parser.add_argument("--head", metavar="PATH", help="the folder of a head that lies elsewhere")
    parser.add_argument("--risk", type=float, metavar="R", help="certify this risk, too, such as 0.02")
    parser.add_argument("--output", metavar="FOLDER", help="write the head with its schedule here")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="which problems are learnt on")
    parser.add_argument("--json", action="store_true", help="print the schedule as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Fit, write, tell."""
    from reflective.evaluate.schedules import calibrate_run

    found = calibrate_run(
        [Path(folder) for folder in args.runs],
        model=args.model,
        head=args.head,
        risk=args.risk,
        output=Path(args.output) if args.output else None,
        seed=args.seed,
        learn=[Path(folder) for folder in args.learn],
        note=say,
    )
    schedule = found.schedule
    if args.json:
        print_json({"folder": found.folder, **schedule.to_json()})
        return DONE
    print(f"certified by {schedule.problems:,} problems, with {schedule.confidence:.0%} confidence".replace("%", " %"))
    print(f"smallest risk  {schedule.smallest_risk:g}")
    for limit in schedule.limits:
        print(f"risk {limit.risk:<8g}  tokens {limit.tokens:.3f} of {schedule.k} trajectories  loss {limit.loss:+.4f}")
    say(f"saved: {found.folder}")
    return DONE
