"""Prime factorizations.

The trace tries the primes from 2 on until what is left has no divisor up to its root. The check multiplies the factors
and tries the last one again, from the largest possible divisor down to 3, by the nearest multiple below it:

    84 / 2 = 42
    42 / 2 = 21
    21 / 2 rest 1, 21 / 3 = 7
    7 / 2 rest 1, 7 prime
    Check 2 * 2 = 4, 4 * 3 = 12, 12 * 7 = 84, 7 prime, right
    So 2 x 2 x 3 x 7, checked                                (with the sign of the question for x)

A slip is a wrong quotient, which the product shows, or a divisor missed, which the second trial shows.
"""

from __future__ import annotations

import random
from functools import cache
from typing import Any, ClassVar

from reflective.tasks.base import Task, Trace, gym_item, gym_module
from reflective.tasks.writing import Outcome, Scribe, checked_trace, slip, verdict
from reflective.types import Problem

VALUES = {1: (4, 200), 2: (50, 500), 3: (150, 999)}  # level: values from, to
PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)  # enough for numbers below 37 * 37


class PrimeFactorization(Task):
    name = "prime_factorization"
    description = "write a number as a product of primes"
    levels: ClassVar = {level: f"numbers from {least} to {most}" for level, (least, most) in VALUES.items()}
    test_share = 0.3  # of some 1000 numbers

    def draw(self, rng: random.Random, level: int) -> Problem:
        item = gym_item(_dataset(level), rng)
        return Problem(
            text=item["question"],
            answer=item["answer"],
            family=self.name,
            kind="exact",
            metadata={"number": item["metadata"]["number"]},
        )

    def key(self, problem: Problem) -> str:
        return str(problem.metadata["number"])

    def trace(self, problem: Problem, rng: random.Random) -> Trace:
        number = int(problem.metadata["number"])
        return checked_trace(lambda scribe: _attempt(scribe, number), rng)


def _attempt(scribe: Scribe, number: int) -> Outcome:
    factors: list[int] = []
    left, place = number, 0
    while left > 1:
        place, quotient = _try_primes(scribe, left, place)
        if not quotient:
            scribe.step(f"{left} prime")
            factors.append(left)
            break
        factors.append(PRIMES[place])
        if quotient * PRIMES[place] != left:  # a slip may leave a number with smaller divisors
            place = 0
        left = quotient
        scribe.end_step()
    text, right = _check(number, factors)
    scribe.step(f"Check {text}, {verdict(right)}")
    return Outcome(" × ".join(map(str, factors)), right)


def _try_primes(scribe: Scribe, left: int, place: int) -> tuple[int, int]:
    """Tries the primes from `place` on, up to the root: the place of a divisor and the quotient, or 0 for none."""
    while PRIMES[place] ** 2 <= left:
        prime = PRIMES[place]
        quotient, rest = divmod(left, prime)
        scribe.write(f"{left} / {prime}")
        slips = scribe.slips()
        if slips and (rest == 0 and scribe.rng.random() < 0.5):  # a divisor missed
            scribe.write(f" rest {scribe.rng.randrange(1, prime)}", learn=False).write(", ")
        elif slips:  # a wrong quotient, or one where there is a rest
            quotient = slip(quotient, scribe.rng) if rest == 0 else quotient
            scribe.write(f" = {quotient}", learn=False)
            return place, quotient
        elif rest:
            scribe.write(f" rest {rest}, ")
        else:
            scribe.write(f" = {quotient}")
            return place, quotient
        place += 1
    return place, 0


def _check(number: int, factors: list[int]) -> tuple[str, bool]:
    product, lines = factors[0], []
    for factor in factors[1:]:
        lines.append(f"{product} * {factor} = {product * factor}")
        product *= factor
    if product != number:
        return ", ".join(lines or [f"{product} alone"]), False
    last = factors[-1]
    for prime in reversed([prime for prime in PRIMES if prime**2 <= last and (prime > 2 or last % 2 == 0)]):
        whole, rest = divmod(last, prime)
        lines.append(f"{last} = {whole} * {prime} + {rest}")
        if not rest:
            return ", ".join(lines), False
    return ", ".join([*lines, f"{last} prime"]), True


@cache
def _dataset(level: int) -> Any:
    least, most = VALUES[level]
    module = gym_module("arithmetic.prime_factorization")
    return module.PrimeFactorizationDataset(module.PrimeFactorizationConfig(min_value=least, max_value=most, seed=0))
