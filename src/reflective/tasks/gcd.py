"""Greatest common divisors of two numbers.

The trace divides with rest until nothing is left, then checks that the result divides both numbers and that the
quotients share nothing more:

    84 = 2 * 36 + 12
    36 = 3 * 12 + 0
    Check 84 / 12 = 7, 36 / 12 = 3, 7 and 3 share 1, right
    So 12, checked
"""

from __future__ import annotations

import math
import random
from functools import cache
from typing import Any, ClassVar

from reflective.tasks.base import Task, Trace, gym_item, gym_module
from reflective.tasks.writing import Outcome, Scribe, checked_trace, quotient, verdict
from reflective.types import Problem

VALUES = {1: (2, 60), 2: (10, 200), 3: (20, 999)}  # level: values from, to


class GCD(Task):
    name = "gcd"
    description = "find the greatest common divisor of two numbers"
    levels: ClassVar = {level: f"numbers from {least} to {most}" for level, (least, most) in VALUES.items()}

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
    divisor = euclid(scribe, a, b)
    text, right = share_check(a, b, divisor)
    scribe.step(f"Check {text}, {verdict(right)}")
    return Outcome(str(divisor), right)


def euclid(scribe: Scribe, a: int, b: int) -> int:
    """Writes the divisions with rest, a step each, and returns the last rest that was not 0."""
    larger, smaller = max(a, b), min(a, b)
    while smaller:
        scribe.write(f"{larger} = {larger // smaller} * {smaller} + ")
        rest = scribe.result(larger % smaller)
        scribe.end_step()
        # A slip may leave a rest that is no smaller than the divisor; the next division puts the two in order.
        larger, smaller = max(smaller, rest), min(smaller, rest)
    return larger


def share_check(a: int, b: int, divisor: int) -> tuple[str, bool]:
    """That `divisor` divides both and leaves nothing shared; stops where a division has a rest."""
    text = quotient(a, divisor)
    if a % divisor:
        return text, False
    text += f", {quotient(b, divisor)}"
    if b % divisor:
        return text, False
    shared = math.gcd(a // divisor, b // divisor)
    return f"{text}, {a // divisor} and {b // divisor} share {shared}", shared == 1


@cache
def _dataset(level: int) -> Any:
    least, most = VALUES[level]
    module = gym_module("arithmetic.gcd")
    return module.GCDDataset(module.GCDConfig(min_value=least, max_value=most, seed=0))
