"""Prime factorizations.

The trace tries the primes in turn (2 and 5 only where the last digit says so) until what is left has no divisor up to
its root. The check multiplies the factors, then does the divisions that left a rest the other way round:

    58 / 2 = 29
    29 / 3 = 9 rest 2, 29 prime
    Check 2 * 29 = 58, 9 * 3 + 2 = 29, right
    So 2 x 29, checked                            (with the sign of the question for x)

A slip is a wrong quotient or a divisor seen where there is none, which the product shows, or a divisor missed.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from reflective.tasks.base import Task, Trace, gym_item, gym_module
from reflective.tasks.writing import Outcome, Scribe, checked_trace, slip, verdict
from reflective.types import Problem

VALUES = {1: (4, 500), 2: (50, 900), 3: (300, 1360)}  # level: values from, to
PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)  # enough for numbers below 37 * 37
SEEN_AT_ONCE = (2, 5)  # primes that are tried only where they divide


class PrimeFactorization(Task):
    name = "prime_factorization"
    description = "write a number as a product of primes"
    levels: ClassVar = {level: f"numbers from {least} to {most}" for level, (least, most) in VALUES.items()}
    test_share = 0.3  # of some 1350 numbers

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


@dataclass(frozen=True, slots=True)
class _Trial:
    """`number / prime = times rest rest`, as it was written."""

    number: int
    prime: int
    times: int
    rest: int


def _attempt(scribe: Scribe, number: int) -> Outcome:
    factors: list[int] = []
    rests: list[_Trial] = []
    left, place = number, 0
    while left > 1:
        place, trials = _try_primes(scribe, left, place)
        rests += [trial for trial in trials if trial.rest]
        if not trials or trials[-1].rest:
            scribe.step(f"{', ' if trials else ''}{left} prime")
            factors.append(left)
            break
        scribe.end_step()
        factors.append(PRIMES[place])
        if trials[-1].times * PRIMES[place] != left:  # a slip may leave a number with smaller divisors
            place = 0
        left = trials[-1].times
    right = _check(scribe, number, factors, rests)
    return Outcome(" × ".join(map(str, factors)), right)


def _try_primes(scribe: Scribe, left: int, place: int) -> tuple[int, list[_Trial]]:
    """Writes the trials from the prime at `place` on, up to the root or to a divisor; and the place of the last."""
    trials: list[_Trial] = []
    while PRIMES[place] ** 2 <= left:
        prime = PRIMES[place]
        if left % prime and prime in SEEN_AT_ONCE:
            place += 1
            continue
        scribe.write(f"{', ' if trials else ''}{left} / {prime} = ")
        times, rest, learn = *divmod(left, prime), True
        if scribe.slips():
            learn, (times, rest) = False, _slipped(left, prime, scribe.rng)
        scribe.write(f"{times} rest {rest}" if rest else str(times), learn)
        trials.append(_Trial(left, prime, times, rest))
        if not rest:
            break
        place += 1
    return place, trials


def _slipped(left: int, prime: int, rng: random.Random) -> tuple[int, int]:
    """A wrong division: a divisor missed, one seen where there is none, or a wrong quotient."""
    times, rest = divmod(left, prime)
    if rest:
        return times, 0
    if prime not in SEEN_AT_ONCE and rng.random() < 0.5:
        return times, rng.randrange(1, prime)
    return slip(times, rng), 0


def _check(scribe: Scribe, number: int, factors: list[int], rests: list[_Trial]) -> bool:
    """The product of the factors, then the divisions with a rest the other way round; stops where one is wrong."""
    scribe.write("Check ")
    product = factors[0]
    for factor in factors[1:]:
        scribe.write(f"{product} * {factor} = {product * factor}, ")
        product *= factor
    right = product == number
    for trial in reversed(rests if right else []):
        back = trial.times * trial.prime + trial.rest
        scribe.write(f"{trial.times} * {trial.prime} + {trial.rest} = {back}, ")
        right = back == trial.number
        if not right:
            break
    scribe.step(verdict(right))
    return right


@cache
def _dataset(level: int) -> Any:
    least, most = VALUES[level]
    module = gym_module("arithmetic.prime_factorization")
    return module.PrimeFactorizationDataset(module.PrimeFactorizationConfig(min_value=least, max_value=most, seed=0))
