"""What nano is worth on problems that it has never seen, with 95 % intervals over problems.

    python recipes/nano/evaluate.py --model nano --problems 200 --output runs/nano/test

Samples 32 trajectories at temperature 1 of each test problem of each family and tells, per family and together, what
every strategy is worth; a longer `reflective eval`, with as many problems of every family. Stopped and started again it
goes on where it was. Prints one JSON line; `reflective report` makes a page of the output folder.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from reflective import Problem, Reflective, read_records
from reflective.cli import INTERRUPTED, exit_code
from reflective.cli.eval import progress_line
from reflective.evaluate.run import Plan, Progress, run_benchmark
from reflective.evaluate.summary import summarise
from reflective.evaluate.table import Table
from reflective.records import finite
from reflective.search import BestOfN, Settings
from reflective.settings import check_least
from reflective.tasks import TASKS, mixture

MAX_TOKENS = 512  # of the reasoning


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--dtype", default="auto", help="weights: auto (default), float32, bfloat16, int8, int4")
    parser.add_argument("--problems", type=int, default=200, help="test problems a family")
    parser.add_argument("--trajectories", type=int, default=32)
    parser.add_argument("--families", nargs="*", default=list(TASKS))
    parser.add_argument("--levels", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", required=True, help="where the trajectories are kept")
    args = parser.parse_args()
    check_least(1, problems=args.problems, trajectories=args.trajectories)

    problems: list[Problem] = []
    for family in args.families:
        problems += mixture("test", args.problems, args.levels, [family], args.seed)
    plan = Plan(
        args.trajectories,
        BestOfN("all"),
        Settings(seed=args.seed + 1, max_tokens=MAX_TOKENS),
        {"name": "nano's families", "levels": args.levels, "problems": args.problems, "seed": args.seed},
    )
    path = sampled(args.model, problems, plan, args.output, dtype=args.dtype)
    if path is None:
        return INTERRUPTED
    summary = summarise(Table.of(read_records(path)), seed=args.seed)
    for family, row in summary.families.items():
        values = "  ".join(f"{name} {cell.value:.3f}" for name, cell in row.items())
        print(f"{family:20} {values}", file=sys.stderr)
    print(json.dumps(finite(summary.to_json())))
    return 0


def sampled(model: str, problems: Sequence[Problem], plan: Plan, output: str, dtype: str = "auto") -> Path | None:
    """The records of the plan's trajectories; None where Ctrl-C came before the last."""
    loaded = Reflective.from_pretrained(model, dtype=dtype, **plan.engine_options)
    try:
        return run_benchmark(loaded.engine, problems, plan, Path(output), calibration=loaded.calibration, tell=_tell)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here.", file=sys.stderr)
        return None


def _tell(progress: Progress) -> None:
    if progress.done % 10 == 0 or progress.done == progress.total:
        print(progress_line(progress), file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(exit_code(main))
