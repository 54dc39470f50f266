"""Countdown: an expression for a target that uses every given number exactly once.

For the trace see `chains`. The target 24 is left to the family puzzle24, so that neither trains on the other's tests.
"""

from __future__ import annotations

import random
from typing import Any, ClassVar

from reflective.tasks.base import GymTask, Trace
from reflective.tasks.families.chains import search_trace
from reflective.types import Problem

LIMITS = {1: (3, 15), 2: (4, 10), 3: (4, 25)}  # level: how many numbers, the largest
TARGETS = (10, 99)
MAX_VALUE = 200  # no value on the way to the gold solution is larger
SIGNS, WEIGHTS = ("+", "-", "*", "/"), (3, 3, 3, 1)


class Countdown(GymTask):
    name = "countdown"
    description = "find an expression for a target that uses every number once"
    gym = "games.countdown", "Countdown"
    kind = "expression"
    levels: ClassVar = {1: "3 numbers up to 15", 2: "4 numbers up to 10", 3: "4 numbers up to 25"}

    def config(self, level: int) -> dict[str, Any]:
        count, largest = LIMITS[level]
        numbers = {"min_numbers": count, "max_numbers": count, "max_value": largest}
        return {**numbers, "min_target": TARGETS[0], "max_target": TARGETS[1]}

    def metadata(self, item: dict[str, Any]) -> dict[str, Any]:
        return {"numbers": list(item["numbers"]), "target": int(item["target"]), "use_all": True}

    def dataset(self, level: int) -> Any:
        """The package draws with sympy, at some 40 a second, and lets values be negative; this keeps its questions."""
        dataset = super().dataset(level)
        count, largest = LIMITS[level]
        least, most = TARGETS

        def generate(rng: random.Random) -> tuple[str, list[int], int]:
            while True:
                numbers = [rng.randint(1, largest) for _ in range(count)]
                drawn = _left_to_right(numbers, rng)
                if drawn is not None and least <= drawn[1] <= most and drawn[1] != 24:
                    return drawn[0], numbers, drawn[1]

        dataset._generate_expression = generate
        return dataset

    def key(self, problem: Problem) -> str:
        return f"{sorted(problem.metadata['numbers'])} {problem.metadata['target']}"

    def trace(self, problem: Problem, rng: random.Random) -> Trace:
        return search_trace(problem.metadata["numbers"], int(problem.metadata["target"]), rng)


def _left_to_right(numbers: list[int], rng: random.Random) -> tuple[str, int] | None:
    """A random expression in the given order and its value; None where a value on the way is not positive and whole."""
    text, value, product = str(numbers[0]), numbers[0], True
    for number in numbers[1:]:
        sign = rng.choices(SIGNS, WEIGHTS)[0]
        if (sign == "/" and value % number) or (sign == "-" and value <= number):
            return None
        if sign in "*/" and not product:
            text = f"({text})"
        text, product = f"{text} {sign} {number}", sign in "*/"
        value = {"+": value + number, "-": value - number, "*": value * number, "/": value // number}[sign]
        if value > MAX_VALUE:
            return None
    return text, value
