"""Sample a real model on a benchmark: what a head for it is fitted on, and what its figures are computed from.

    python recipes/real/sample.py --model path/to/Qwen2.5-Coder-0.5B-Instruct --output runs/real/0.5b

The folder gets three parts: `train` and `validation` (the benchmark's training problems, 8 and 16 responses each) and
`test` (16 each), every record with its tokens, verdicts and hidden states. The parts grow in turns, so that a run that
is stopped early can be used; Ctrl-C stops, and the same command goes on. `fit.py` and `figures.py` read what is there.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reflective.files import folder_lock
from reflective.tasks import load_problems
from reflective.train.head.config import HeadConfig
from reflective.train.head.data import read_data
from reflective.train.head.run import sampling_engine, sampling_options
from reflective.train.progress import print_note, stop_on_signals
from reflective.train.rollouts import sample_rollouts
from reflective.types import Problem

BENCHMARK = "gsm8k"
TEST_RESPONSES = 16
SEED = 0
SAMPLING: Mapping[str, Any] = {
    "trajectories": 8,
    "validation_trajectories": 16,
    "temperature": 0.8,
    "max_tokens": 512,
    "max_rows": 32,
}
# of GSM8K's test problems, those that the choice of layers was developed on; no figure uses them
DEVELOPED_ON = {*range(32), *range(100, 180)}
# problems of each part in the end, and what part of them is there after each turn
SIZES = {"train": 2560, "validation": 300, "test": 1200}
TURNS = (0.025, 0.0625, 0.125, 0.25, 0.5, 1.0)


def settings(model: str, output: str, dtype: str, data: str = BENCHMARK) -> HeadConfig:
    """What all parts are sampled with. `data` is the benchmark, or a file of its training problems."""
    return HeadConfig(
        model=model,
        output=output,
        data=data,
        like=None if data == BENCHMARK else BENCHMARK,
        problems=SIZES["train"],
        validation_problems=SIZES["validation"],
        layer="auto",
        keep_means=True,
        dtype=dtype,
        **SAMPLING,
        work=output,
    )


def held_out_problems(data: str | None) -> list[Problem]:
    """The test problems without those of the development, in an order of the seed; `data` is a file of them."""
    problems = load_problems(data, like=BENCHMARK) if data else load_problems(BENCHMARK, split="test")
    kept = [problem for row, problem in enumerate(problems) if row not in DEVELOPED_ON]
    random.Random(SEED).shuffle(kept)
    return kept[: SIZES["test"]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Sample until all is there, or Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder or a hub id")
    parser.add_argument("--output", required=True, help="where the samples go")
    parser.add_argument("--dtype", default="int8", help="int8 (default), int4, bfloat16, float32")
    parser.add_argument("--train", default=BENCHMARK, metavar="FILE", help="training problems, where not from the hub")
    parser.add_argument("--test", metavar="FILE", help="test problems, where not from the hub")
    args = parser.parse_args(arguments)

    config = settings(args.model, args.output, args.dtype, args.train)
    train, validation = read_data(config, print_note)
    parts = {"train": train, "validation": validation, "test": held_out_problems(args.test)}
    counts = {"train": config.trajectories, "validation": config.validation_trajectories, "test": TEST_RESPONSES}
    with folder_lock(Path(args.output)), stop_on_signals() as stop:
        engine, checkpoint = sampling_engine(config)
        options = sampling_options(config, engine, checkpoint)
        for turn in TURNS:
            for part, problems in parts.items():
                first = round(len(problems) * turn)
                print_note(f"{part}: {first} of {len(problems)} problems × {counts[part]}")
                folder = Path(args.output) / part
                if not sample_rollouts(
                    engine, problems, counts[part], folder, first=first, note=print_note, stop=stop, **options
                ):
                    print_note("stopped; the same command goes on from here")
                    return
    print_note("all samples are there")


if __name__ == "__main__":
    main()
