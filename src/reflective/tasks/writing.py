"""How traces are written: a scribe that may slip, and the frame of work, check, and (if it failed) repair.

A slip is one wrong result in the work. Its digits are kept out of the loss; whatever follows builds on them truthfully,
so that the check comes out wrong by honest computation. That is what teaches a model to notice.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from reflective.tasks.base import Segment, Trace

SLIP_SHARE = 0.2  # of traces that hold one wrong result
REPAIR_SHARE = 0.5  # of traces with a slip that start again and get it right
LONGEST = 600  # characters of a thinking beyond which it does not start again


@dataclass
class Scribe:
    """Writes steps. The result number `slip_at` (counted from 0) is written wrong."""

    rng: random.Random
    slip_at: int | None = None
    steps: list[tuple[Segment, ...]] = field(default_factory=list)
    results: int = 0
    _step: list[Segment] = field(default_factory=list)

    def write(self, text: str, learn: bool = True) -> Scribe:
        """Adds text to the present step."""
        self._step.append(Segment(text, learn))
        return self

    def slips(self) -> bool:
        """Whether the next result, which the caller writes itself, is to be wrong."""
        self.results += 1
        return self.results - 1 == self.slip_at

    def result(self, value: int, sure: bool = False) -> int:
        """Writes a computed value, or (unless `sure`) a plausible wrong one; returns what was written."""
        slipped = not sure and self.slips()
        if slipped:
            value = slip(value, self.rng)
        self._step.append(Segment(str(value), learn=not slipped))
        return value

    def end_step(self) -> None:
        """Closes the present step."""
        self.steps.append(tuple(self._step))
        self._step = []

    def step(self, text: str) -> None:
        """Writes a whole step."""
        self.write(text).end_step()


@dataclass(frozen=True, slots=True)
class Operation:
    """`left sign right = value`, whole numbers all of them (a division drops its rest)."""

    left: int
    sign: str
    right: int
    value: int


@dataclass(frozen=True)
class Outcome:
    """What an attempt came to, whether its check passed, and whether all that follows a slip builds on it."""

    answer: str
    right: bool
    consistent: bool = True


Attempt = Callable[[Scribe], Outcome]


def checked_trace(attempt: Attempt, rng: random.Random, slip_share: float = SLIP_SHARE) -> Trace:
    """A trace of `attempt`, sometimes with a slip; `attempt` writes the work and a check that ends in its verdict."""
    seed = rng.getrandbits(32)
    scribe = Scribe(random.Random(seed))
    outcome = attempt(scribe)
    if not outcome.right:
        raise AssertionError(f"a flawless attempt failed its own check: {scribe.steps}")
    if rng.random() >= slip_share:
        scribe.step(f"So {outcome.answer}, checked")
        return Trace(tuple(scribe.steps), outcome.answer)

    failed = _detected_slip(attempt, scribe.results, outcome.answer, seed, rng)
    if failed is None:
        scribe.step(f"So {outcome.answer}, checked")
        return Trace(tuple(scribe.steps), outcome.answer)
    wrong, wrong_outcome = failed
    if rng.random() < REPAIR_SHARE:
        again = Scribe(random.Random(rng.getrandbits(32)), steps=[*wrong.steps, (Segment("Again"),)])
        outcome = attempt(again)
        again.step(f"So {outcome.answer}, checked")
        repaired = Trace(tuple(again.steps), outcome.answer)
        if len(repaired.thinking) <= LONGEST:
            return repaired
    wrong.step(f"So {wrong_outcome.answer}, doubtful")
    return Trace(tuple(wrong.steps), wrong_outcome.answer, learn_answer=False)


def _detected_slip(
    attempt: Attempt, results: int, answer: str, seed: int, rng: random.Random
) -> tuple[Scribe, Outcome] | None:
    """The attempt with a slip that spoils the answer and that its check notices; None where four tries find none."""
    for _ in range(4 if results else 0):
        scribe = Scribe(random.Random(seed), slip_at=rng.randrange(results))
        outcome = attempt(scribe)
        if not outcome.right and outcome.consistent and outcome.answer != answer:
            return scribe, outcome
    return None


def slip(value: int, rng: random.Random) -> int:
    """A wrong value that a hasty writer might put for `value`: of the same sign, a digit or a carry away."""
    sign, size = (-1, -value) if value < 0 else (1, value)
    digits = len(str(size))
    while True:
        kind = rng.random()
        if kind < 0.5:  # a carry forgotten or taken twice
            place = int(10 ** rng.randrange(digits))
            wrong = size + rng.choice((-1, 1)) * place
        elif kind < 0.9 or digits == 1:  # one digit misread
            place = int(10 ** rng.randrange(digits))
            wrong = size + (rng.randrange(10) - size // place % 10) * place
        else:  # two neighbours swapped
            text = str(size)
            i = rng.randrange(digits - 1)
            wrong = int(text[:i] + text[i + 1] + text[i] + text[i + 2 :])
        if wrong != size and (wrong > 0 or (wrong == 0 and digits == 1 and size > 1)):
            return sign * wrong


def parts(number: int) -> list[int]:
    """347 -> [300, 40, 7]; zeros are left out."""
    digits = str(number)
    values = [int(digit) * 10 ** (len(digits) - place - 1) for place, digit in enumerate(digits)]
    return [value for value in values if value] or [0]


def write_product(scribe: Scribe, left: int, right: int, sure: bool = False) -> list[Operation]:
    """Writes a product, in parts where it is too much for one go: `47 * 30 = 1410, 47 * 6 = 282, 1410 + 282 = 1692`."""
    if min(_significant(left), _significant(right)) < 2:
        scribe.write(f"{left} * {right} = ")
        return [Operation(left, "*", right, scribe.result(left * right, sure))]
    whole, split = (left, right) if _significant(left) >= _significant(right) else (right, left)
    operations: list[Operation] = []
    total = 0
    for part in parts(split):
        scribe.write(f"{', ' if operations else ''}{whole} * {part} = ")
        product = scribe.result(whole * part, sure)
        operations.append(Operation(whole, "*", part, product))
        if total:
            scribe.write(f", {total} + {product} = ")
            operations.append(Operation(total, "+", product, scribe.result(total + product, sure)))
        total = operations[-1].value
    return operations


def _significant(number: int) -> int:
    """How many digits a number has before its trailing zeros."""
    return len(str(abs(number)).rstrip("0"))


def verdict(right: bool) -> str:
    """The word that ends a check."""
    return "right" if right else "wrong"


def quotient(dividend: int, divisor: int) -> str:
    """The division written out with its outcome: `84 / 12 = 7`, or `85 / 12 = 7 rest 1`."""
    if divisor == 0:
        return f"{dividend} / 0 = none"
    whole, rest = divmod(dividend, divisor)
    return f"{dividend} / {divisor} = {whole}" + (f" rest {rest}" if rest else "")
