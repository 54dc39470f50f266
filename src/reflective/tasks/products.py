"""Products of two numbers.

The trace multiplies by the parts of one factor, adds up, and casts out nines, which looks at the product from another
side (a number and its digit sum leave the same rest when divided by
9):

    47 * 30 = 1410
    47 * 6 = 282
    1410 + 282 = 1692
    Check by nines 47 is 11 is 2, 36 is 9 is 0, 2 * 0 = 0, 1692 is 18 is 9 is 0, right
    So 1692, checked
"""

from __future__ import annotations

import random
from functools import cache
from typing import Any, ClassVar

from reflective.tasks.base import Task, Trace, gym_item, gym_module
from reflective.tasks.writing import Outcome, Scribe, checked_trace, parts, verdict
from reflective.types import Problem

DIGITS = {1: (2, 1), 2: (2, 2), 3: (3, 2)}  # level: digits of the factors


class Products(Task):
    name = "products"
    description = "multiply two numbers"
    levels: ClassVar = {1: "2 digits times 1 digit", 2: "2 digits times 2 digits", 3: "3 digits times 2 digits"}
    test_share = 0.2  # level 1 has 720 products

    def draw(self, rng: random.Random, level: int) -> Problem:
        item = gym_item(_dataset(level), rng)
        return Problem(
            text=item["question"],
            answer=item["answer"],
            family=self.name,
            metadata={"factors": [int(word) for word in item["metadata"]["expression"].split(" * ")]},
        )

    def key(self, problem: Problem) -> str:
        return "*".join(map(str, sorted(problem.metadata["factors"])))

    def trace(self, problem: Problem, rng: random.Random) -> Trace:
        left, right = problem.metadata["factors"]
        return checked_trace(lambda scribe: _attempt(scribe, left, right), rng)


def _attempt(scribe: Scribe, left: int, right: int) -> Outcome:
    whole, split = (left, right) if left >= right else (right, left)
    if split < 10 or (whole < 100 and scribe.rng.random() < 0.3):
        whole, split = split, whole
    total: int | None = None
    for part in parts(split):
        scribe.write(f"{whole} * {part} = ")
        product = scribe.result(whole * part)
        scribe.end_step()
        if total is None:
            total = product
        else:
            scribe.write(f"{total} + {product} = ")
            total = scribe.result(total + product)
            scribe.end_step()
    assert total is not None  # two factors have at least one part

    (left_text, left_rest), (right_text, right_rest), (total_text, total_rest) = _rest(left), _rest(right), _rest(total)
    product_text, product_rest = _rest(left_rest * right_rest)
    passed = product_rest == total_rest
    scribe.step(
        f"Check by nines {left_text}, {right_text}, {left_rest} * {right_rest} = {product_text}, "
        f"{total_text}, {verdict(passed)}"
    )
    return Outcome(str(total), passed)


def _rest(number: int) -> tuple[str, int]:
    """How a number comes down to its rest: `543 is 12 is 3`."""
    text, rest = str(number), number
    while rest > 9:
        rest = sum(map(int, str(rest)))
        text += f" is {rest}"
    return (text, rest) if rest < 9 else (f"{text} is 0", 0)


@cache
def _dataset(level: int) -> Any:
    """The package draws both factors with as many digits; ours differ, so the drawing (not the wording) is replaced."""
    module = gym_module("arithmetic.products")
    dataset = module.ProductsDataset(module.ProductsConfig(seed=0))

    def generate(rng: random.Random, *_: Any) -> tuple[str, int]:
        factors = [rng.randint(2 if digits == 1 else 10 ** (digits - 1), 10**digits - 1) for digits in DIGITS[level]]
        rng.shuffle(factors)
        return f"{factors[0]} * {factors[1]}", factors[0] * factors[1]

    dataset._generate_task = generate
    return dataset
