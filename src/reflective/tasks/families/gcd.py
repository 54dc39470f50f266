"""Greatest common divisors of two numbers.

The trace divides with rest until nothing is left:

    84 / 36 = 2 rest 12, 2 * 36 + 12 = 84, right
    36 / 12 = 3, 3 * 12 = 36, right
    So 12, checked

A slip is a wrong rest.
"""

from __future__ import annotations

import random
from functools import cache
from typing import Any, ClassVar

from reflective.tasks.base import Task, Trace, gym_item, gym_module
from reflective.tasks.families.scribe import Result, Scribe, checked_trace, slip
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
        return checked_trace(lambda scribe: str(euclid(scribe, a, b)), rng)


def euclid(scribe: Scribe, a: int, b: int) -> int:
    """Writes the divisions with rest, a step each; the last rest that was not 0."""
    larger, smaller = max(a, b), min(a, b)
    while smaller:
        _, rest = scribe.division(larger, smaller, _rest_slips)
        # A slip may leave a rest that is no smaller than the divisor; the next division puts the two in order.
        larger, smaller = max(smaller, rest), min(smaller, rest)
    return larger


def _rest_slips(true: Result, rng: random.Random) -> Result:
    times, rest = true
    return times, slip(rest, rng)


@cache
def _dataset(level: int) -> Any:
    least, most = VALUES[level]
    module = gym_module("arithmetic.gcd")
    return module.GCDDataset(module.GCDConfig(min_value=least, max_value=most, seed=0))
