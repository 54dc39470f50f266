"""Products of two numbers.

The trace multiplies by the parts of one factor and adds up:

    47 * 30 = 1410, 1410 / 30 = 47, right
    47 * 6 = 282, 282 / 6 = 47, right
    1410 + 282 = 1692, 1692 - 282 = 1410, right
    So 1692, checked
"""

from __future__ import annotations

import random
from typing import Any, ClassVar

from reflective.tasks.base import GymTask, Trace
from reflective.tasks.families.scribe import Scribe, checked_trace, write_parts
from reflective.types import Problem

DIGITS = {1: (2, 1), 2: (2, 2), 3: (3, 2)}  # level: digits of the factors


class Products(GymTask):
    name = "products"
    description = "multiply two numbers"
    gym = "arithmetic.products", "Products"
    levels: ClassVar = {1: "2 digits times 1 digit", 2: "2 digits times 2 digits", 3: "3 digits times 2 digits"}
    test_share = 0.2  # level 1 has 720 products

    def config(self, level: int) -> dict[str, Any]:
        return {}

    def metadata(self, item: dict[str, Any]) -> dict[str, Any]:
        return {"factors": [int(word) for word in item["expression"].split(" * ")]}

    def dataset(self, level: int) -> Any:
        """The package draws both factors with as many digits; ours differ, so the drawing is replaced."""
        dataset = super().dataset(level)

        def generate(rng: random.Random, *_: Any) -> tuple[str, int]:
            factors = [
                rng.randint(2 if digits == 1 else 10 ** (digits - 1), 10**digits - 1) for digits in DIGITS[level]
            ]
            rng.shuffle(factors)
            return f"{factors[0]} * {factors[1]}", factors[0] * factors[1]

        dataset._generate_task = generate
        return dataset

    def key(self, problem: Problem) -> str:
        return "*".join(map(str, sorted(problem.metadata["factors"])))

    def trace(self, problem: Problem, rng: random.Random) -> Trace:
        left, right = problem.metadata["factors"]
        return checked_trace(lambda scribe: _attempt(scribe, left, right), rng)


def _attempt(scribe: Scribe, left: int, right: int) -> str:
    whole, split = (left, right) if left >= right else (right, left)
    if split < 10 or (whole < 100 and scribe.rng.random() < 0.3):
        whole, split = split, whole
    return str(write_parts(scribe, whole, split))
