"""Greatest common divisors of two numbers.

The trace divides with rest until nothing is left:

    84 / 36 = 2 rest 12, 2 * 36 + 12 = 84, right
    36 / 12 = 3, 3 * 12 = 36, right
    So 12, checked

A slip is a wrong rest.
"""

from __future__ import annotations

import random
from typing import Any, ClassVar

from reflective.tasks.base import GymTask, Trace
from reflective.tasks.families.scribe import Result, Scribe, checked_trace, slip
from reflective.types import Problem

VALUES = {1: (2, 60), 2: (10, 200), 3: (20, 999)}  # level: values from, to


class GCD(GymTask):
    name = "gcd"
    description = "find the greatest common divisor of two numbers"
    gym = "arithmetic.gcd", "GCD"
    levels: ClassVar = {level: f"numbers from {least} to {most}" for level, (least, most) in VALUES.items()}

    def config(self, level: int) -> dict[str, Any]:
        least, most = VALUES[level]
        return {"min_value": least, "max_value": most}

    def metadata(self, item: dict[str, Any]) -> dict[str, Any]:
        return {"numbers": list(item["numbers"])}

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
