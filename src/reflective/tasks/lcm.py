"""Least common multiples of two numbers.

The trace finds the greatest common divisor by divisions with rest, divides one number by it, multiplies by the other,
and checks that the other way round leads to the same and that the two factors share nothing:

    84 = 2 * 36 + 12
    36 = 3 * 12 + 0
    84 / 12 = 7
    7 * 36 = 252
    Check 36 / 12 = 3, 3 * 84 = 252, 3 and 7 share 1, right
    So 252, checked
"""

from __future__ import annotations

import math
import random
from functools import cache
from typing import Any, ClassVar

from reflective.tasks.base import Task, Trace, gym_item, gym_module
from reflective.tasks.gcd import euclid
from reflective.tasks.writing import Outcome, Scribe, checked_trace, quotient, verdict, write_product
from reflective.types import Problem

VALUES = {1: (2, 30), 2: (4, 60), 3: (10, 150)}  # level: values from, to


class LCM(Task):
    name = "lcm"
    description = "find the least common multiple of two numbers"
    levels: ClassVar = {level: f"numbers from {least} to {most}" for level, (least, most) in VALUES.items()}
    test_share = 0.25  # level 1 has some 400 pairs

    def draw(self, rng: random.Random, level: int) -> Problem:
        item = gym_item(_dataset(level), rng)
        return Problem(
            text=item["question"],
            answer=item["answer"],
            family=self.name,
            metadata={"numbers": list(item["metadata"]["numbers"])},
        )

    def key(self, problem: Problem) -> str:
        return ",".join(map(str, sorted(problem.metadata["numbers"])))

    def trace(self, problem: Problem, rng: random.Random) -> Trace:
        a, b = problem.metadata["numbers"]
        return checked_trace(lambda scribe: _attempt(scribe, a, b), rng)


def _attempt(scribe: Scribe, a: int, b: int) -> Outcome:
    divisor, _ = euclid(scribe, a, b)
    larger, smaller = max(a, b), min(a, b)
    scribe.write(f"{larger} / {divisor} = ")
    factor = scribe.result(larger // divisor)
    if larger % divisor:  # a slip above: say what is left, and go on
        scribe.write(f" rest {larger % divisor}")
    scribe.end_step()
    multiple = write_product(scribe, factor, smaller)[-1].value
    scribe.end_step()
    scribe.write("Check ")
    right = _check(scribe, larger, smaller, divisor, multiple)
    scribe.step(f", {verdict(right)}")
    return Outcome(str(multiple), right)


def _check(scribe: Scribe, larger: int, smaller: int, divisor: int, multiple: int) -> bool:
    """The same multiple from the other number, and nothing left to share; stops at the first disagreement."""
    factor = smaller // divisor
    scribe.write(quotient(smaller, divisor))
    if smaller % divisor:
        return False
    scribe.write(", ")
    if write_product(scribe, factor, larger, sure=True)[-1].value != multiple:
        return False
    shared = math.gcd(factor, multiple // smaller)
    scribe.write(f", {factor} and {multiple // smaller} share {shared}")
    return shared == 1


@cache
def _dataset(level: int) -> Any:
    least, most = VALUES[level]
    module = gym_module("arithmetic.lcm")
    return module.LCMDataset(module.LCMConfig(min_value=least, max_value=most, seed=0))
