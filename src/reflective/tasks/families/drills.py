"""Practice for a small model before it meets problems: single operations and what a check makes of them, line by line.

A trace spends most of its tokens on a problem's wording; a drill spends them on arithmetic alone, some ten times as
densely. Its lines are written by the writers of the traces. Most go back by the inverse operation, and half of these
start from a result that is wrong: so what comes out of a check can't be guessed from what should come out.

    75 - 34 = 41
    386 + 47 = 423, 423 - 47 = 376, wrong
    589 / 180 = 3 rest 49, 3 * 180 + 49 = 589, right
    30 - 6 = 24 for 26, no
    uses 5 6 8 10 for 5 6 8 10, right

Numbers that are given, and results that are wrong on purpose, are kept out of the loss.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from reflective.tasks.base import STEP_END, Segment
from reflective.tasks.families.chains import compared, uses
from reflective.tasks.families.scribe import Result, compute, outcome, slip

NAME: Final = "drills"
PROMPT: Final = "Practise."
LINES: Final = 12
CHECKED_SHARE: Final = 0.8  # of the lines that have an inverse; the tries of a search go without
SLIP_SHARE: Final = 0.5  # of those that are checked


def drill(rng: random.Random) -> list[Segment]:
    """What stands behind `<think>`: `LINES` lines of practice and an empty end."""
    pieces = [Segment("\n")]
    for _ in range(LINES):
        pieces += [*rng.choices(KINDS, WEIGHTS)[0](rng), Segment(STEP_END)]
    return [*pieces, Segment("</think>\n\n\\boxed{"), Segment("0", learn=False), Segment("}")]


def _number(rng: random.Random, digits: int) -> int:
    """A number of at most so many digits, every length alike."""
    length = rng.randint(1, digits)
    return rng.randrange(10 ** (length - 1) if length > 1 else 0, 10**length)


def _sum(rng: random.Random) -> list[Segment]:
    left, right = _number(rng, 4), _number(rng, 4)
    if rng.random() < 0.5:
        return _operation(rng, left, "+", right)
    if left < right and rng.random() < 0.8:
        left, right = right, left
    return _operation(rng, left, "-", right)


def _product(rng: random.Random) -> list[Segment]:
    left, right = _number(rng, 3), rng.randint(2, 9)
    if rng.random() < 0.2:
        left, right = rng.randint(2, 20), rng.randint(2, 20)
    if rng.random() < 0.3:
        right *= 10 ** rng.randint(1, 2)
    if rng.random() < 0.3:
        left, right = right, left
    return _operation(rng, left, "*", right)


def _quotient(rng: random.Random) -> list[Segment]:
    divisor, most = rng.choice(((rng.randint(2, 31), 60), (rng.randint(2, 200), 9)))
    return _operation(rng, divisor * rng.randint(1, most) + rng.choice((0, rng.randrange(divisor))), "/", divisor)


def _operation(rng: random.Random, left: int, sign: str, right: int) -> list[Segment]:
    """`left sign right = value`, and for most the way back with its verdict."""
    given = Segment(f"{left} {sign} {right}", learn=False)
    value, rest = compute(left, sign, right)
    if sign != "/" and rng.random() >= CHECKED_SHARE:
        return [given, Segment(f" = {value}")]
    slips = rng.random() < SLIP_SHARE
    return [given, *outcome(left, sign, right, _slipped(rng, sign, value, rest) if slips else (value, rest), not slips)]


def _slipped(rng: random.Random, sign: str, value: int, rest: int) -> Result:
    """A wrong value, or a wrong rest."""
    if sign != "/" or rng.random() < 0.5:
        return slip(value, rng), rest
    return value, 0 if rest and rng.random() < 0.5 else slip(rest, rng)


def _try(rng: random.Random) -> list[Segment]:
    """The last operation of a try among chains, and whether it hits."""
    left, right, sign = rng.randint(2, 150), rng.randint(1, 25), rng.choice("+-*/")
    if sign in "*/":
        left, right = rng.randint(2, 25), rng.randint(1, 10)
    if sign == "-" and left <= right:
        left, right = right + 1, left
    if sign == "/":
        left *= right
    value, _ = compute(left, sign, right)
    target = value if rng.random() < 0.5 else slip(value, rng)
    return [Segment(f"{left} {sign} {right}", learn=False), Segment(f" = {value}"), *compared(value, target, False)]


def _uses(rng: random.Random) -> list[Segment]:
    """The numbers that a chain uses and those that were given; half the time one is taken for another."""
    given = [rng.randint(1, 25) for _ in range(rng.choice((3, 4, 4)))]
    used = list(given)
    if rng.random() < 0.5:
        used[0] = rng.choice([*given[1:], slip(given[0], rng)])
    return uses(sorted(used), sorted(given), learn=False)


KINDS: Final[tuple[Callable[[random.Random], list[Segment]], ...]] = (_sum, _product, _quotient, _try, _uses)
WEIGHTS: Final = (6, 4, 4, 1.5, 1)
