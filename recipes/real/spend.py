"""What effort auto saves on a real model: its schedule from validation problems, every policy on the test problems.

    python recipes/real/spend.py recipes/real/records/qwen2.5-coder-0.5b-gsm8k
    python recipes/real/spend.py runs/real/records --keep runs/real/heads/plain

The folder holds compact records that `fit.py` wrote: of the test problems `plain.jsonl.gz`, of the validation problems
`validation/plain.jsonl.gz`. No model is needed, and it takes a few seconds. The validation problems are training
problems of the benchmark that the head's weights were not fitted on; they chose its layer and its epoch. Markdown goes
to standard output. With --keep the head in a folder gets the schedule, so that `--effort auto` works with it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from compact import read_compact
from fit import read
from sample import SAMPLING

from reflective.cli import exit_code
from reflective.evaluate.policies import compare_policies, policies
from reflective.evaluate.report.policies import policies_markdown
from reflective.files import write_text
from reflective.judge.config import CONFIG_FILE, config_text
from reflective.judge.schedule import Leader, Schedule
from reflective.search.auto_fit import fit_auto
from reflective.search.certify import fit_schedule
from reflective.search.simulate import Trace, traces_of

HEAD = "plain"
TOLD = ("ESC, window 5", "adaptive consistency, 0.95", "prune, keep 0.5", "prune, keep 0.7", "auto, by agreement")
RISK = 0.15  # beside the usual ones: few problems certify little
HIGH: Leader = "vote"  # who answers at effort high, where the whole response is the reasoning
DRAWN = {"temperature": float(SAMPLING["temperature"])}


def problems_of(folder: Path) -> list[list[Trace]]:
    """The responses of a folder's problems, as the head scores them."""
    return [traces_of(record) for record in read_compact(folder / f"{HEAD}.jsonl.gz")]


def fitted(folder: Path, high: Leader = HIGH) -> Schedule:
    """The schedule that the validation problems give; `high` is who answers at effort high."""
    problems = problems_of(folder / "validation")
    return fit_schedule(problems, min(map(len, problems)), high=high, risk=RISK, sampling=DRAWN)


def report(folder: Path, high: Leader = HIGH) -> str:
    """Every policy on the test problems, as Markdown."""
    schedule, problems = fitted(folder, high), problems_of(folder)
    every = policies(schedule.k, scored=True, confident=False, schedule=schedule)
    whole = {f"{name}, {schedule.k}" for name in ("best of n", "weighted vote", "majority")}
    chosen = [policy for policy in every if policy.name in (*whole, *TOLD) or policy.family == "auto"]
    return (
        f"{len(problems)} test problems × {schedule.k} responses; schedule tested on {schedule.problems} validation "
        f"problems, smallest risk {schedule.smallest_risk:g}.\n\n"
        f"{policies_markdown(compare_policies(problems, chosen, high=high))}"
    )


def keep(folder: Path, head: Path) -> None:
    """Put the schedule into the config of a head, and what the confidence of its answers is computed from."""
    judge, _ = fit_auto(read(head), problems_of(folder / "validation"), sampling=DRAWN, risk=RISK)
    write_text(head / CONFIG_FILE, config_text(judge.config))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table; keep the schedule where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", help="a folder of compact records")
    parser.add_argument("--keep", metavar="FOLDER", help="the head that the records were scored by")
    args = parser.parse_args(arguments)
    print(report(Path(args.records)))
    if args.keep:
        keep(Path(args.records), Path(args.keep))


if __name__ == "__main__":
    sys.exit(exit_code(main))
