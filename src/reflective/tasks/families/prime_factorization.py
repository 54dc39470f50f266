"""Prime factorizations.

The trace tries the primes in turn (2 and 5 only where the last digit says so) until what is left has no divisor up to
its root:

    58 / 2 = 29, 29 * 2 = 58, right
    29 / 3 = 9 rest 2, 9 * 3 + 2 = 29, right
    29 prime
    So 2 x 29, checked                            (with the sign of the question for x)

A slip is a wrong quotient, a divisor seen where there is none, or a divisor missed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar

from reflective.tasks.base import GymTask, Trace
from reflective.tasks.families.scribe import Result, Scribe, checked_trace, slip
from reflective.types import Problem

VALUES = {1: (4, 500), 2: (50, 900), 3: (300, 1360)}  # level: values from, to
PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)  # enough for numbers below 37 * 37
SEEN_AT_ONCE = (2, 5)  # primes that are tried only where they divide


class PrimeFactorization(GymTask):
    name = "prime_factorization"
    description = "write a number as a product of primes"
    gym = "arithmetic.prime_factorization", "PrimeFactorization"
    kind = "exact"
    levels: ClassVar = {level: f"numbers from {least} to {most}" for level, (least, most) in VALUES.items()}
    test_share = 0.3  # of some 1350 numbers

    def config(self, level: int) -> dict[str, Any]:
        least, most = VALUES[level]
        return {"min_value": least, "max_value": most}

    def metadata(self, item: dict[str, Any]) -> dict[str, Any]:
        return {"number": item["number"]}

    def key(self, problem: Problem) -> str:
        return str(problem.metadata["number"])

    def trace(self, problem: Problem, rng: random.Random) -> Trace:
        number = int(problem.metadata["number"])
        return checked_trace(lambda scribe: _attempt(scribe, number), rng)


def _attempt(scribe: Scribe, number: int) -> str:
    factors: list[int] = []
    left = number
    places = _places(left)
    while left > 1:
        place = next(places, None)
        if place is None:
            # where a slip has missed a divisor this is false, and nothing to learn
            scribe.step(f"{left} prime", learn=all(left % prime for prime in PRIMES if prime < left))
            factors.append(left)
            break
        prime = PRIMES[place]
        times, rest = scribe.division(left, prime, partial(_slips, prime))
        if not rest:
            factors.append(prime)
            # a slip may leave a number with smaller divisors
            places = _places(times, place if times * prime == left else 0)
            left = times
    return " × ".join(map(str, factors))


def _places(left: int, start: int = 0) -> Iterator[int]:
    """The places of the primes to try, up to the root."""
    for place, prime in enumerate(PRIMES[start:], start):
        if prime**2 <= left and not (left % prime and prime in SEEN_AT_ONCE):
            yield place


def _slips(prime: int, true: Result, rng: random.Random) -> Result:
    """A wrong division: a divisor missed, one seen where there is none, or a wrong quotient."""
    times, rest = true
    if rest:
        return times, 0
    if prime not in SEEN_AT_ONCE and rng.random() < 0.5:
        return times, rng.randrange(1, prime)
    return slip(times, rng), 0
