"""Practice for a small model before it meets problems: single operations and what a check makes of them, line by line.

A trace spends most of its tokens on a problem's wording; a drill spends them on arithmetic alone, some ten times as
densely. Its lines are worded as in the traces. Half of the lines go back by the inverse operation, and half of these
start from a result that is wrong: so what comes out of a check can't be guessed from what should come out.

    75 - 34 = 41
    386 + 47 = 423, check 423 - 47 = 376, 376 for 386, wrong
    589 = 3 * 180 + 49

Numbers that are given, and results that are wrong on purpose, are kept out of the loss.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from reflective.tasks.base import STEP_END, Segment
from reflective.tasks.writing import quotient, slip, verdict

NAME: Final = "drills"
PROMPT: Final = "Practise."
LINES: Final = 14
CHECKED_SHARE: Final = 0.5  # of the lines that have an inverse
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
        return _checked(rng, left, "+", right, left + right, "-")
    if left < right and rng.random() < 0.8:
        left, right = right, left
    return _checked(rng, left, "-", right, left - right, "+")


def _product(rng: random.Random) -> list[Segment]:
    left, right = _number(rng, 3), rng.randint(2, 9)
    if rng.random() < 0.2:
        left, right = rng.randint(2, 20), rng.randint(2, 20)
    if rng.random() < 0.3:
        right *= 10 ** rng.randint(1, 2)
    if rng.random() < 0.3:
        left, right = right, left
    return _checked(rng, left, "*", right, left * right, "/")


def _checked(rng: random.Random, left: int, sign: str, right: int, value: int, inverse: str) -> list[Segment]:
    """`left sign right = value`, and for some the way back with its verdict."""
    given = Segment(f"{left} {sign} {right}", learn=False)
    if rng.random() >= CHECKED_SHARE or (inverse == "/" and right == 0):
        return [given, Segment(f" = {value}")]
    slipped = rng.random() < SLIP_SHARE and abs(value) > 1
    written = slip(value, rng) if slipped else value
    if inverse == "/":
        back, agrees = quotient(written, right), written == value
    else:
        again = written + right if inverse == "+" else written - right
        back, agrees = f"{written} {inverse} {right} = {again}, {again} for {left}", again == left
    return [
        given,
        Segment(" = "),
        Segment(str(written), learn=not slipped),
        Segment(f", check {back}, {verdict(agrees)}"),
    ]


def _quotient(rng: random.Random) -> list[Segment]:
    divisor = rng.randint(2, 31)
    dividend = divisor * rng.randint(1, 60) + (rng.randrange(divisor) if rng.random() < 0.5 else 0)
    given = f"{dividend} / {divisor}"
    return [Segment(given, learn=False), Segment(quotient(dividend, divisor).removeprefix(given))]


def _division_with_rest(rng: random.Random) -> list[Segment]:
    divisor = rng.randint(2, 99)
    dividend = divisor * rng.randint(1, 12) + rng.randrange(divisor)
    times, rest = divmod(dividend, divisor)
    return [Segment(f"{dividend} = ", learn=False), Segment(f"{times} * "), Segment(str(divisor), learn=False),
            Segment(f" + {rest}")]  # fmt: skip


def _comparison(rng: random.Random) -> list[Segment]:
    value = _number(rng, 4)
    other = slip(value, rng) if value > 1 and rng.random() < 0.5 else value
    return [Segment(f"{other} for {value}", learn=False), Segment(f", {verdict(other == value)}")]


KINDS: Final[tuple[Callable[[random.Random], list[Segment]], ...]] = (
    _sum, _product, _quotient, _division_with_rest, _comparison,
)  # fmt: skip
WEIGHTS: Final = (6, 4, 2, 1.5, 1)
