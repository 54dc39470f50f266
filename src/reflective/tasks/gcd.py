"""Greatest common divisors of two numbers.

The trace divides with rest until nothing is left, then builds the numbers up again from the last line to the first:

    84 = 2 * 36 + 12
    36 = 3 * 12 + 0
    Check 3 * 12 + 0 = 36, 2 * 36 + 12 = 84, right
    So 12, checked
"""

from __future__ import annotations

import random
from functools import cache
from typing import Any, ClassVar

from reflective.tasks.base import Task, Trace, gym_item, gym_module
from reflective.tasks.writing import Outcome, Scribe, checked_trace, verdict
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
    divisor, lines = euclid(scribe, a, b)
    scribe.write("Check ")
    right = False
    for larger, smaller, times, rest in reversed(lines):
        scribe.write(f"{times} * {smaller} + {rest} = {times * smaller + rest}, ")
        right = times * smaller + rest == larger
        if not right:
            break
    scribe.step(verdict(right))
    return Outcome(str(divisor), right)


def euclid(scribe: Scribe, a: int, b: int) -> tuple[int, list[tuple[int, int, int, int]]]:
    """Writes the divisions with rest, a step each: the last rest that was not 0, and (a, b, a // b, rest) of each."""
    larger, smaller = max(a, b), min(a, b)
    lines: list[tuple[int, int, int, int]] = []
    while smaller:
        times = larger // smaller
        scribe.write(f"{larger} = {times} * {smaller} + ")
        rest = scribe.result(larger % smaller)
        scribe.end_step()
        lines.append((larger, smaller, times, rest))
        # A slip may leave a rest that is no smaller than the divisor; the next division puts the two in order.
        larger, smaller = max(smaller, rest), min(smaller, rest)
    return larger, lines


@cache
def _dataset(level: int) -> Any:
    least, most = VALUES[level]
    module = gym_module("arithmetic.gcd")
    return module.GCDDataset(module.GCDConfig(min_value=least, max_value=most, seed=0))
