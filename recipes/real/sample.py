"""Sample a real model on a benchmark: what a head for it is fitted on, and what its figures are computed from.

    python recipes/real/sample.py --model path/to/Qwen2.5-Coder-0.5B-Instruct --output runs/real/0.5b
    python recipes/real/sample.py --model … --benchmark humaneval_plus --output runs/real/0.5b-humaneval
    python recipes/real/sample.py --model … --dtype float32 --only test --problems 300 --responses 8 --output runs/f32

The folder gets up to three parts: `train` and `validation` (training problems of the benchmark, 8 and 16 responses
each, where it has them) and `test` (16 each), every record with its tokens, verdicts and hidden states. The parts grow
in turns, so that a run that is stopped early can be used; Ctrl-C stops, and the same command goes on. `fit.py` and
`figures.py` read what is there.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reflective.cli import exit_code
from reflective.files import folder_lock
from reflective.settings import check_least
from reflective.tasks import load_problems
from reflective.train.head.config import HeadConfig
from reflective.train.head.data import read_data
from reflective.train.head.run import rollout_settings, sampling_engine
from reflective.train.progress import print_note, stop_on_signals
from reflective.train.rollouts import sample_rollouts
from reflective.types import Problem


@dataclass(frozen=True, slots=True)
class Plan:
    """How many problems of a benchmark there are in the end. `developed_on` are rows that no figure uses."""

    test: int
    train: int = 0
    validation: int = 0
    max_tokens: int = 512
    levels: tuple[int, ...] | None = None
    developed_on: frozenset[int] = frozenset()


PLANS: Mapping[str, Plan] = {
    # layers were compared on these rows first (docs/real-models.md)
    "gsm8k": Plan(1200, 2560, 300, developed_on=frozenset({*range(32), *range(100, 180)})),
    "humaneval_plus": Plan(164),
    "math500": Plan(238, max_tokens=1024, levels=(1, 2, 3)),
}
TURNS = (0.025, 0.0625, 0.125, 0.25, 1 / 3, 0.5, 1.0)  # what part of each is there after each turn
TEST_RESPONSES = 16
SEED = 0
SAMPLING: Mapping[str, Any] = {
    "trajectories": 8,
    "validation_trajectories": 16,
    "temperature": 0.8,
    "max_rows": 64,
}


def settings(
    model: str, output: str, dtype: str, benchmark: str = "gsm8k", data: str | None = None, **changes: Any
) -> HeadConfig:
    """What all parts are sampled with. `data` is a file of training problems, where they don't come from the hub."""
    plan = PLANS[benchmark]
    return HeadConfig(
        model=model,
        output=output,
        data=data or benchmark,
        like=benchmark if data else None,
        problems=max(plan.train, 1),
        validation_problems=max(plan.validation, 1),
        max_tokens=plan.max_tokens,
        layer="auto",
        position="auto",
        aggregation="auto",
        filter="none",  # the SPR loss's filter has lost on frozen models (LOG.md)
        keep_means=True,
        dtype=dtype,
        work=output,
        **{**SAMPLING, **changes},
    )


def held_out_problems(benchmark: str, data: str | None) -> list[Problem]:
    """The test problems without those of the development, in an order of the seed; `data` is a file of them."""
    plan = PLANS[benchmark]
    problems = load_problems(
        benchmark, file=data, split="test" if plan.train and not data else None, levels=plan.levels
    )
    kept = [problem for row, problem in enumerate(problems) if row not in plan.developed_on]
    random.Random(SEED).shuffle(kept)
    return kept[: plan.test]


def main(arguments: Sequence[str] | None = None) -> None:
    """Sample until all is there, or Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder or a hub id")
    parser.add_argument("--output", required=True, help="where the samples go")
    parser.add_argument("--benchmark", default="gsm8k", choices=sorted(PLANS))
    parser.add_argument("--dtype", default="int8", help="int8 (default), int4, bfloat16, float32")
    parser.add_argument("--train", metavar="FILE", help="training problems, where not from the hub")
    parser.add_argument("--test", metavar="FILE", help="test problems, where not from the hub")
    parser.add_argument("--only", choices=("test",), help="this part alone")
    parser.add_argument("--problems", type=int, metavar="N", help="test problems at most (default: all of the plan)")
    parser.add_argument("--responses", type=int, default=TEST_RESPONSES, metavar="K", help="of each test problem")
    args = parser.parse_args(arguments)

    config = settings(args.model, args.output, args.dtype, args.benchmark, args.train)
    check_least(1, problems=args.problems, responses=args.responses)
    parts = {"test": held_out_problems(args.benchmark, args.test)[: args.problems]}
    if PLANS[args.benchmark].train and args.only is None:
        train, validation = read_data(config, print_note)
        parts = {"train": train, "validation": validation, **parts}
    counts = {"train": config.trajectories, "validation": config.validation_trajectories, "test": args.responses}
    with folder_lock(Path(args.output)), stop_on_signals() as stop:
        engine, checkpoint = sampling_engine(config)
        how = rollout_settings(config, engine, checkpoint)
        for turn in TURNS:
            for part, problems in parts.items():
                first = round(len(problems) * turn)
                print_note(f"{part}: {first} of {len(problems)} problems × {counts[part]}")
                folder = Path(args.output) / part
                if not sample_rollouts(
                    engine, problems, counts[part], folder, how, first=first, note=print_note, stop=stop
                ):
                    print_note("stopped; the same command goes on from here")
                    return
    print_note("all samples are there")


if __name__ == "__main__":
    sys.exit(exit_code(main))
