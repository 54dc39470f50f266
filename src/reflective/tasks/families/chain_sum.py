"""Sums and differences of several numbers.

The trace adds up from left to right, or takes the added numbers before the subtracted ones:

    47 + 386 = 433, 433 - 386 = 47, right
    433 - 129 = 304, 304 + 129 = 433, right
    So 304, checked
"""

from __future__ import annotations

import random
from typing import Any, ClassVar

from reflective.tasks.base import GymTask, Trace
from reflective.tasks.families.scribe import Scribe, checked_trace
from reflective.types import Problem

LIMITS = {1: (2, 3, 2, 2), 2: (3, 4, 2, 3), 3: (4, 5, 3, 4)}  # level: terms from, to, digits from, to


class ChainSum(GymTask):
    name = "chain_sum"
    description = "add and subtract several numbers"
    gym = "arithmetic.chain_sum", "ChainSum"
    levels: ClassVar = {
        1: "2 to 3 numbers of 2 digits",
        2: "3 to 4 numbers of 2 to 3 digits",
        3: "4 to 5 numbers of 3 to 4 digits",
    }

    def config(self, level: int) -> dict[str, Any]:
        names = ("min_terms", "max_terms", "min_digits", "max_digits")
        return dict(zip(names, LIMITS[level], strict=True))

    def metadata(self, item: dict[str, Any]) -> dict[str, Any]:
        return {"expression": item["expression"]}

    def key(self, problem: Problem) -> str:
        return str(problem.metadata["expression"])

    def trace(self, problem: Problem, rng: random.Random) -> Trace:
        words = str(problem.metadata["expression"]).split()
        terms = [(1, int(words[0]))]
        terms += [(1 if sign == "+" else -1, int(word)) for sign, word in zip(words[1::2], words[2::2], strict=True)]
        return checked_trace(lambda scribe: _attempt(scribe, terms), rng)


def _attempt(scribe: Scribe, terms: list[tuple[int, int]]) -> str:
    """Left to right, the other terms sometimes in another order."""
    (_, total), rest = terms[0], terms[1:]
    if len(rest) > 1 and scribe.rng.random() < 0.3:
        rest = sorted(rest, key=lambda term: -term[0])  # additions first: fewer negative values on the way
    for sign, value in rest:
        total = scribe.operation(total, "+" if sign > 0 else "-", value)
    return str(total)
