"""Sample nano's trajectories for docs/spending.md: problems × 32 with scores, and where asked token confidences.

    python recipes/nano/spend.py --split validation --output runs/spend/validation
    python recipes/nano/spend.py --split validation --others --output runs/spend/learn
    python recipes/nano/spend.py --split test --confidences --output runs/spend/test

1,000 problems of nano's ten families, in the same proportions in both splits (two families have 72 validation problems
each); with `--others` as many again, where a family has them, to learn a schedule from. Every policy is then judged on
these records without a model; stopped and started again it goes on where it was.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
from collections.abc import Iterator
from typing import get_args

from evaluate import MAX_TOKENS, sampled
from reflective import Problem
from reflective.cli import INTERRUPTED, exit_code
from reflective.errors import InputError
from reflective.evaluate.run import Plan
from reflective.search import BestOfN, Settings
from reflective.tasks import TASKS, mixture
from reflective.tasks.base import Split

FEWER = {"puzzle24": 72, "prime_factorization": 72}  # all that their validation splits hold
EACH = 107


def problems_of(split: Split, families: list[str], seed: int) -> list[Problem]:
    """The problems of a split, shuffled: a run that is stopped early is a fair sample of the whole."""
    drawn: list[Problem] = []
    for family in families:
        drawn += mixture(split, FEWER.get(family, EACH), (1, 2), [family], seed)
    random.Random(seed).shuffle(drawn)
    return drawn


def others_of(split: Split, families: list[str], seed: int) -> list[Problem]:
    """As many of each family again that are not among `problems_of`, or as there are, shuffled."""
    known = {problem.text for problem in problems_of(split, families, seed)}
    drawn: list[Problem] = []
    for family in families:
        new = (problem for problem in all_of(split, family, seed + 1) if problem.text not in known)
        drawn += itertools.islice(new, EACH)
    random.Random(seed).shuffle(drawn)
    return drawn


def all_of(split: Split, family: str, seed: int) -> Iterator[Problem]:
    """Distinct problems of a family until there are no more."""
    try:
        yield from mixture(split, 10 * EACH, (1, 2), [family], seed)
    except InputError:
        return


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=get_args(Split), default="validation")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--trajectories", type=int, default=32)
    parser.add_argument("--families", nargs="+", default=list(TASKS))
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--others", action="store_true", help="further problems of the split")
    parser.add_argument("--confidences", action="store_true", help="keep what DeepConf reads (slower)")
    parser.add_argument("--output", required=True)
    args = parser.parse_args()

    problems = (others_of if args.others else problems_of)(args.split, args.families, args.seed)
    plan = Plan(
        args.trajectories,
        BestOfN("all"),
        Settings(seed=args.seed + 1, max_tokens=MAX_TOKENS),
        {"name": "nano's families", "levels": [1, 2], "split": args.split, "seed": args.seed, "others": args.others},
        texts=False,
        tokens=args.confidences,
        engine_options={"keep_confidences": True} if args.confidences else {},
    )
    return INTERRUPTED if sampled(args.model, problems, plan, args.output) is None else 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
