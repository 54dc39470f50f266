"""How traces are written: one operation per step, each with its check beside it, by a scribe that may slip.

    47 + 386 = 433, 433 - 386 = 47, right
    433 - 129 = 314, 314 + 129 = 443, wrong
    So 314, doubtful

A check goes back by the inverse operation (a division: by multiplying and adding the rest) and its verdict says whether
that leads to where the step began. It stands right behind what it checks, because there a small model learns to compute
it; of a check at the end of the trace it learns what should come out, and writes that.

A slip is one wrong result. Its digits are kept out of the loss; whatever follows builds on them truthfully, so that its
check comes out wrong by honest computation. Then either the step is written anew, behind "Again", or the work goes on
with what it has and ends in doubt.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from reflective.tasks.base import Segment, Trace

SLIP_SHARE = 0.4  # of traces that hold one wrong result: so many that a verdict can't be guessed from what is usual
REPAIR_SHARE = 0.1  # of traces with a slip that notice, write the step anew and get it right
INVERSE = {"+": "-", "-": "+", "*": "/", "/": "*"}

Result = tuple[int, int]  # a value and, of a division, its rest; otherwise 0
Slips = Callable[[Result, random.Random], Result]  # from the true result to a wrong one


@dataclass(frozen=True, slots=True)
class Operation:
    """`left sign right = value`, whole numbers all of them (a division drops its rest)."""

    left: int
    sign: str
    right: int
    value: int


@dataclass
class Scribe:
    """Writes steps. The operation number `slip_at` (counted from 0) comes out wrong; if it `repairs`, it is redone."""

    rng: random.Random
    slip_at: int | None = None
    repairs: bool = False
    steps: list[tuple[Segment, ...]] = field(default_factory=list)
    operations: int = 0
    failed: bool = False  # whether a check has come out wrong and its step was not written anew

    def step(self, text: str, learn: bool = True) -> None:
        """Writes a step that computes nothing."""
        self.steps.append((Segment(text, learn),))

    def operation(self, left: int, sign: str, right: int, before: str = "", after: str = "") -> int:
        """A step with one operation and its check; returns the value that was written.

        `before` stands before the operation, `after` behind its value: `dog 3 * 4 = 12`, `3 * 4 = 12 legs`.
        """
        return self._write(Segment(f"{before}{left} {sign} {right}"), left, sign, right, after, _value_slips)[0]

    def division(self, left: int, right: int, slips: Slips) -> Result:
        """A step with one division and its check, which slips in a way of its own; returns what was written."""
        return self._write(Segment(f"{left} / {right}"), left, "/", right, "", slips)

    def _write(self, head: Segment, left: int, sign: str, right: int, after: str, slips: Slips) -> Result:
        true = compute(left, sign, right)
        slipped = self.operations == self.slip_at
        self.operations += 1
        written = slips(true, self.rng) if slipped else true
        self.steps.append((head, *outcome(left, sign, right, written, learn=not slipped, after=after)))
        if not slipped:
            return true
        if self.repairs:
            self.steps.append((Segment("Again "), head, *outcome(left, sign, right, true, after=after)))
            return true
        self.failed = True
        return written


def _value_slips(true: Result, rng: random.Random) -> Result:
    value, rest = true
    return slip(value, rng), rest


Attempt = Callable[[Scribe], str | None]  # writes the work; the answer, or None where a slip has made nonsense of it


def checked_trace(attempt: Attempt, rng: random.Random, slip_share: float = SLIP_SHARE) -> Trace:
    """A trace of `attempt`, sometimes with a slip, and at its end what the checks have said."""
    seed = rng.getrandbits(32)
    scribe = Scribe(random.Random(seed))
    answer = attempt(scribe)
    if answer is None or scribe.failed:
        raise AssertionError(f"a flawless attempt failed: {scribe.steps}")
    if scribe.operations and rng.random() < slip_share:
        slipped = _slipped(attempt, scribe.operations, answer, seed, rng)
        if slipped is not None:
            return slipped
    return _ended(scribe, answer)


def _slipped(attempt: Attempt, operations: int, answer: str, seed: int, rng: random.Random) -> Trace | None:
    """The attempt with a slip that is repaired or that spoils the answer; None where four tries find none."""
    repairs = rng.random() < REPAIR_SHARE
    for _ in range(4):
        scribe = Scribe(random.Random(seed), rng.randrange(operations), repairs)
        found = attempt(scribe)
        if found is not None and (found == answer) == repairs:
            return _ended(scribe, found)
    return None


def _ended(scribe: Scribe, answer: str) -> Trace:
    scribe.step(f"So {answer}, {'doubtful' if scribe.failed else 'checked'}")
    return Trace(tuple(scribe.steps), answer, learn_answer=not scribe.failed)


def outcome(left: int, sign: str, right: int, result: Result, learn: bool = True, after: str = "") -> list[Segment]:
    """What stands behind `left sign right`: its result, the way back and the verdict. Only the result may be wrong."""
    back, agrees = way_back(left, sign, right, result)
    return [Segment(" = "), Segment(_text(result), learn), Segment(f"{after}, {back}, {verdict(agrees)}")]


def way_back(left: int, sign: str, right: int, result: Result) -> tuple[str, bool]:
    """The inverse of an operation, written out, and whether it leads to where the operation began.

    A product is divided by its plainer factor, the one with fewer digits before its zeros, which gives back the other.
    """
    value, rest = result
    if sign == "/":
        plus = f" + {rest}" if rest else ""
        return f"{value} * {right}{plus} = {value * right + rest}", value * right + rest == left
    if sign == "*":
        kept, divisor = (left, right) if _plainness(right) <= _plainness(left) else (right, left)
        if divisor == 0:
            raise ValueError("0 * 0 has no way back")
    else:
        kept, divisor = left, right
    back = compute(value, INVERSE[sign], divisor)
    return f"{value} {INVERSE[sign]} {divisor} = {_text(back)}", back == (kept, 0)


def compute(left: int, sign: str, right: int) -> Result:
    """The true result of an operation."""
    if sign == "/":
        return divmod(left, right)
    return (left + right if sign == "+" else left - right if sign == "-" else left * right), 0


def _text(result: Result) -> str:
    value, rest = result
    return f"{value} rest {rest}" if rest else str(value)


def slip(value: int, rng: random.Random) -> int:
    """A wrong value that a hasty writer might put for `value`: of the same sign and not 0, a digit or a carry away."""
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
        if wrong != size and wrong > 0:
            return sign * wrong


def parts(number: int) -> list[int]:
    """347 -> [300, 40, 7]; zeros are left out."""
    digits = str(number)
    values = [int(digit) * 10 ** (len(digits) - place - 1) for place, digit in enumerate(digits)]
    return [value for value in values if value] or [0]


def write_product(scribe: Scribe, left: int, right: int, after: str = "") -> int:
    """Writes a product, in parts where it is too much for one go: `47 * 30 = 1410`, `47 * 6 = 282`, and their sum.

    `after` stands behind the last value.
    """
    if 0 in (left, right) or min(_plainness(left), _plainness(right)) < 2:
        return scribe.operation(left, "*", right, after=after)
    whole, split = (left, right) if _plainness(left) >= _plainness(right) else (right, left)
    return write_parts(scribe, whole, split, after)


def write_parts(scribe: Scribe, whole: int, split: int, after: str = "") -> int:
    """Writes a product by the parts of `split`, each followed by the sum so far."""
    first, *others = parts(split)
    total = scribe.operation(whole, "*", first, after="" if others else after)
    for part in others:
        product = scribe.operation(whole, "*", part)
        total = scribe.operation(total, "+", product, after=after if part == others[-1] else "")
    return total


def _plainness(number: int) -> float:
    """How many digits a number has before its trailing zeros; 0 is the least plain, as nothing is divided by it."""
    return len(str(abs(number)).rstrip("0")) or math.inf


def verdict(right: bool) -> str:
    """The word that ends a check."""
    return "right" if right else "wrong"
