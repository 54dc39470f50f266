"""Least common multiples of two numbers.

The trace finds the greatest common divisor by divisions with rest, divides one number by it and multiplies by the
other:

    84 / 36 = 2 rest 12, 2 * 36 + 12 = 84, right
    36 / 12 = 3, 3 * 12 = 36, right
    84 / 12 = 7, 7 * 12 = 84, right
    7 * 36 = 252, 252 / 7 = 36, right
    So 252, checked
"""

from __future__ import annotations

import random
from typing import Any, ClassVar

from reflective.tasks.base import Trace
from reflective.tasks.families.gcd import GCD, euclid
from reflective.tasks.families.scribe import Scribe, checked_trace, write_product
from reflective.types import Problem

VALUES = {1: (2, 30), 2: (4, 60), 3: (10, 150)}  # level: values from, to


class LCM(GCD):
    name = "lcm"
    description = "find the least common multiple of two numbers"
    levels: ClassVar = {level: f"numbers from {least} to {most}" for level, (least, most) in VALUES.items()}
    gym = "arithmetic.lcm", "LCM"
    test_share = 0.25  # level 1 has some 400 pairs

    def config(self, level: int) -> dict[str, Any]:
        least, most = VALUES[level]
        return {"min_value": least, "max_value": most}

    def trace(self, problem: Problem, rng: random.Random) -> Trace:
        a, b = problem.metadata["numbers"]
        return checked_trace(lambda scribe: _attempt(scribe, a, b), rng)


def _attempt(scribe: Scribe, a: int, b: int) -> str:
    divisor = euclid(scribe, a, b)
    factor = scribe.operation(max(a, b), "/", divisor)
    return str(write_product(scribe, factor, min(a, b)))
