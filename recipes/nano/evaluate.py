"""What nano is worth on problems that it has never seen, with 95 % intervals over problems.

    python recipes/nano/evaluate.py --model nano --problems 200 --output runs/nano/test

Samples 32 trajectories at temperature 1 of each test problem of each family and tells, per family and together:
a single sample, best of 32 by the head's score (effort high), by mean token log-probability, majority of 32, oracle of
32, and the AUC of the score within problems. Stopped and started again it goes on where it was. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from reflective.checkpoint import load_checkpoint
from reflective.engines.base import Sampling
from reflective.engines.torch import TorchEngine
from reflective.sprm.calibrate import ece
from reflective.sprm.metrics import auc
from reflective.tasks import TASKS, mixture
from reflective.train.head import candidates_of
from reflective.train.progress import print_note, stop_on_signals
from reflective.train.rollouts import load_rollouts, sample_rollouts
from reflective.train.selection import Candidate, best_by_logprob, best_by_score, vote

RESAMPLES = 2000
Group = Sequence[Candidate]


def _right(chosen: Candidate | None) -> float:
    return float(chosen is not None and chosen.right is True)


def _within_auc(group: Group) -> float:
    value = auc([c.score for c in group], [c.right for c in group])
    return math.nan if value is None else value


METRICS: dict[str, Callable[[Group], float]] = {
    "single": lambda group: float(np.mean([_right(c) for c in group])),
    "best_of_n": lambda group: _right(best_by_score(group)),
    "majority": lambda group: _right(vote(group, weighted=False)[0]),
    "weighted": lambda group: _right(vote(group, weighted=True)[0]),
    "logprob": lambda group: _right(best_by_logprob(group)),
    "oracle": lambda group: float(any(c.right for c in group)),
    "gain": lambda group: _right(best_by_score(group)) - float(np.mean([_right(c) for c in group])),
    "within_problem_auc": _within_auc,
    "closed": lambda group: float(np.mean([c.closed for c in group])),
}


def interval(values: Sequence[float], rng: np.random.Generator) -> dict[str, float]:
    """Mean over problems (those where it is defined) and its 95 % bootstrap interval."""
    known = np.array([v for v in values if not math.isnan(v)])
    if len(known) == 0:
        return {"mean": math.nan, "low": math.nan, "high": math.nan, "problems": 0}
    means = known[rng.integers(0, len(known), (RESAMPLES, len(known)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return {
        "mean": round(float(known.mean()), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
        "problems": len(known),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--problems", type=int, default=200, help="test problems a family")
    parser.add_argument("--trajectories", type=int, default=32)
    parser.add_argument("--families", nargs="*", default=list(TASKS))
    parser.add_argument("--levels", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-rows", type=int, default=128)
    parser.add_argument("--output", required=True, help="where the trajectories are kept")
    args = parser.parse_args()

    checkpoint = load_checkpoint(args.model)
    config = checkpoint.config
    assert config is not None and checkpoint.head is not None
    engine = TorchEngine(
        checkpoint.model,
        checkpoint.tokenizer,
        None,
        config.rule,
        name=checkpoint.name,
        layer=config.layer,
        max_rows=args.max_rows,
        catch_features=True,
    )
    rng = np.random.default_rng(args.seed)
    per_family: dict[str, list[list[Candidate]]] = {}
    tokens: list[int] = []
    with stop_on_signals() as stop:
        for family in args.families:
            folder = Path(args.output) / family
            problems = list(mixture("test", args.problems, args.levels, [family], args.seed))
            print_note(f"{family}: {len(problems)} problems")
            whole = sample_rollouts(
                engine,
                problems,
                args.trajectories,
                folder,
                sampling=Sampling(),
                max_tokens=512,
                seed=args.seed + 1,
                note=print_note,
                stop=stop,
            )
            if not whole:
                print_note("stopped; the same command goes on from here.")
                return 130
            rollouts = load_rollouts(folder)
            tokens += rollouts.tokens
            per_family[family] = candidates_of(checkpoint.head, rollouts, config.aggregation)
    per_family["all"] = [group for groups in per_family.values() for group in groups]
    result: dict[str, object] = {
        family: {name: interval([metric(group) for group in groups], rng) for name, metric in METRICS.items()}
        for family, groups in per_family.items()
    }
    if config.calibration is not None:
        chosen = [best_by_score(group) for group in per_family["all"]]
        known = [c for c in chosen if c.closed and c.right is not None]
        confidence = [config.calibration.confidence("best_of_n", c.score, args.trajectories) or 0.0 for c in known]
        result["ece"] = round(ece(confidence, [bool(c.right) for c in known]) or 0.0, 4)
    result["tokens_per_trajectory"] = round(float(np.mean(tokens)), 1)
    for family, row in result.items():
        if isinstance(row, dict):
            print_note(f"{family:20} " + "  ".join(f"{name} {cell['mean']:.3f}" for name, cell in row.items()))
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
