"""What searching over steps is worth on nano, at the tokens of effort medium: every strategy on the same problems.

    python recipes/nano/search.py --problems 600 --output runs/nano/search

Solves test problems of nano's families with each strategy at effort medium, and prints a table: accuracy with its 95 %
interval, tokens written per problem, and the difference to best of n, paired over the problems. All answers are
written, so that the same trajectories show the best score and the votes. Ends in one JSON line.
Stopped and started again it goes on where it was. `--only` names what is run; `--split validation` is for tuning.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reflective import Reflective, read_records
from reflective.cli import exit_code
from reflective.evaluate.bootstrap import Bootstrap
from reflective.evaluate.paired import compare
from reflective.evaluate.run import Plan, run_benchmark
from reflective.evaluate.table import Floats
from reflective.records import Record, TrajectoryRecord, finite
from reflective.records.manifest import versions
from reflective.search import Settings, get_strategy, resolve_effort
from reflective.selection import best_closed, vote
from reflective.settings import check_least
from reflective.tasks import mixture

MAX_TOKENS = 512  # of the reasoning
BASELINE, SINGLE = "best of n", "single sample"
WAYS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "best of n": ("best_of_n", {"answers": "all"}),
    "beam": ("beam", {"select": "weighted"}),
    "DVTS": ("dvts", {"select": "weighted"}),
    "particles": ("particles", {"select": "weighted"}),
    "particles, annealed": ("particles", {"select": "weighted", "annealing": True}),
    "MCTS": ("mcts", {"select": "weighted"}),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--problems", type=int, default=600)
    parser.add_argument("--levels", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    parser.add_argument("--effort", default="medium")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=list(WAYS), default=list(WAYS), metavar="WAY")
    parser.add_argument(
        "--set", nargs=3, action="append", default=[], metavar=("WAY", "NAME", "VALUE"), help="another option of a way"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", required=True, help="where the records are kept")
    args = parser.parse_args()
    check_least(1, problems=args.problems)

    effort = resolve_effort(args.effort)
    problems = list(mixture(args.split, args.problems, args.levels, seed=args.seed))
    model = Reflective.from_pretrained(args.model, device=args.device)
    rows: dict[str, dict[str, Any]] = {}
    baseline: Floats | None = None
    for way in dict.fromkeys([BASELINE, *args.only]):
        name, options = WAYS[way]
        options = {**options, **{option: value for of, option, value in args.set if of == way}}
        strategy = get_strategy(name, options=options)
        plan = Plan(
            effort,
            strategy,
            Settings(seed=args.seed + 1, max_tokens=MAX_TOKENS),
            {"name": "nano's families", "split": args.split, "levels": args.levels, "seed": args.seed},
            texts=False,
        )
        options = [f"{option}-{value}" for option, value in strategy.options.items()]
        folder = Path(args.output) / "_".join([name, *options])
        try:
            path = run_benchmark(model.engine, problems, plan, folder)
        except KeyboardInterrupt:
            print("stopped; the same command goes on from here.", file=sys.stderr)
            return 130
        records = sorted(read_records(path), key=lambda record: record.key)
        tokens = np.array([record.usage.completion_tokens for record in records], dtype=np.float64)
        for choice, right in choices(records, of_samples=way == BASELINE).items():
            baseline = right if baseline is None else baseline
            label = choice if way == BASELINE else f"{way}, {choice}"
            of_first = np.array([record.trajectories[0].tokens for record in records], dtype=np.float64)
            rows[label] = figures(right, of_first if choice == SINGLE else tokens, baseline)
            print(line(label, rows[label]), file=sys.stderr, flush=True)
    print("| strategy | accuracy (95 %) | tokens per problem | against best of n (95 %) |\n|---|---|---|---|")
    for label, row in rows.items():
        print(line(label, row))
    print(json.dumps(finite({"effort": effort, "problems": len(problems), "rows": rows, "versions": dict(versions())})))
    return 0


def choices(records: Sequence[Record], *, of_samples: bool) -> dict[str, Floats]:
    """Whether each way to choose among the written trajectories chose a right answer, (P,) each, 0 or 1."""
    best, weighted, majority, first = [], [], [], []
    for record in records:
        groups = [t.group for t in record.trajectories]
        best.append(_right(best_closed(record.trajectories)[0]))
        for votes, weigh in ((weighted, True), (majority, False)):
            found = vote(record.trajectories, groups, weighted=weigh)
            votes.append(_right(found.winner if found else None))
        first.append(_right(record.trajectories[0]))
    if of_samples:
        named = {BASELINE: best, "weighted vote": weighted, "majority vote": majority, SINGLE: first}
    else:
        named = {"best": best, "weighted vote": weighted}
    return {name: np.array(values) for name, values in named.items()}


def _right(t: TrajectoryRecord | None) -> float:
    return float(t is not None and t.verdict is not None and t.verdict.right is True)


def figures(right: Floats, tokens: Floats, baseline: Floats) -> dict[str, Any]:
    """Accuracy, tokens a problem, and the paired difference to the baseline, each with its interval."""
    accuracy, written = Bootstrap(len(right)).means(np.stack([right, tokens], axis=1))
    return {
        "accuracy": accuracy.to_json(),
        "tokens": written.to_json(),
        "difference": compare(right, baseline).to_json(),
    }


def line(label: str, row: Mapping[str, Any]) -> str:
    """A row of the table."""
    accuracy, difference = row["accuracy"], row["difference"]
    low, value, high = (100 * accuracy[key] for key in ("low", "value", "high"))
    change = " to ".join(f"{100 * difference[key]:+.1f}" for key in ("low", "high"))
    against = "" if label == BASELINE else f"{100 * difference['difference']:+.1f} ({change})"
    return f"| {label} | {value:.1f} % ({low:.1f} to {high:.1f}) | {row['tokens']['value']:,.0f} | {against} |"


if __name__ == "__main__":
    sys.exit(exit_code(main))
