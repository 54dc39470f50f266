"""Linear equations with one unknown.

The trace undoes what stands around the unknown:

    7 * x = 34 + 15 = 49, 49 - 15 = 34, right
    x = 49 / 7 = 7, 7 * 7 = 49, right
    So 7, checked
"""

from __future__ import annotations

import random
import re
from typing import Any, ClassVar

from reflective.tasks.base import GymTask, Trace
from reflective.tasks.families.scribe import Scribe, checked_trace
from reflective.types import Problem

LIMITS = {1: (2, 2, 10), 2: (2, 3, 25), 3: (2, 4, 100)}  # level: terms from, terms to, largest value
MAX_SIDE = 10_000  # no number in an equation is larger
OPERATORS, WEIGHTS = ("+", "-", "*"), (0.4, 0.4, 0.2)  # reasoning_gym, SimpleEquationsConfig

_SIDE = re.compile(
    r"(?:(?P<first>\d+) (?P<minus>[+-]) )?(?P<coefficient>-?\d*)\*?(?P<unknown>[a-z])(?: (?P<sign>[+-]) (?P<last>\d+))?"
)


class SimpleEquations(GymTask):
    name = "simple_equations"
    description = "solve a linear equation with one unknown"
    gym = "algebra.simple_equations", "SimpleEquations"
    levels: ClassVar = {1: "2 terms, values up to 10", 2: "2 to 3 terms, up to 25", 3: "2 to 4 terms, up to 100"}

    def config(self, level: int) -> dict[str, Any]:
        return dict(zip(("min_terms", "max_terms", "max_value"), LIMITS[level], strict=True))

    def metadata(self, item: dict[str, Any]) -> dict[str, Any]:
        return {"equation": item["equation"], "variable": item["variable"]}

    def dataset(self, level: int) -> Any:
        """The package builds equations with sympy, at some 400 a second; this does the same with integers."""
        dataset = super().dataset(level)
        terms_from, terms_to, most = LIMITS[level]

        def generate(rng: random.Random, unknown: str) -> tuple[str, int]:
            while True:
                coefficient, constant = _left_side(rng, rng.randint(terms_from, terms_to), most)
                solution = rng.randint(1, most)
                right = coefficient * solution + constant
                told = coefficient == 0 or (abs(coefficient) == 1 and not constant)  # nothing to solve
                if not told and max(abs(coefficient), abs(constant), abs(right)) <= MAX_SIDE:
                    return render(coefficient, constant, unknown, right), solution

        dataset._generate_equation = generate
        return dataset

    def key(self, problem: Problem) -> str:
        coefficient, constant, _, right = parse(str(problem.metadata["equation"]))
        return f"{coefficient}*x + {constant} = {right}"  # whatever the unknown is called

    def trace(self, problem: Problem, rng: random.Random) -> Trace:
        equation = parse(str(problem.metadata["equation"]))
        return checked_trace(lambda scribe: _attempt(scribe, *equation), rng)


def _attempt(scribe: Scribe, coefficient: int, constant: int, unknown: str, right: int) -> str:
    # 15 - 4 * x = 3  ->  4 * x = 15 - 3: the unknown's term is kept positive
    times = abs(coefficient)
    value, moved = (constant, -right) if coefficient < 0 else (right, -constant)
    if moved or coefficient < 0:
        term = f"{times} * {unknown}" if times > 1 else unknown
        value = scribe.operation(value, "-" if moved < 0 else "+", abs(moved), before=f"{term} = ")
    if times > 1:
        value = scribe.operation(value, "/", times, before=f"{unknown} = ")
    return str(value)


def _signed(value: int) -> str:
    """The value as the right operand of a sum: `+ 15`, `- 4`."""
    return f"- {-value}" if value < 0 else f"+ {value}"


def parse(equation: str) -> tuple[int, int, str, int]:
    """`15 - 4*x = 3` -> (-4, 15, "x", 3): coefficient, constant, unknown, right side."""
    side, right = equation.split(" = ")
    match = _SIDE.fullmatch(side)
    if match is None:
        raise ValueError(f"not a linear equation as reasoning_gym prints it: {equation!r}")
    digits = match["coefficient"]
    coefficient = int(digits) if digits.strip("-") else int(f"{digits}1")
    constant = int(match["first"] or 0)
    if match["minus"] == "-":
        coefficient = -coefficient
    if match["last"]:
        constant = int(match["last"]) if match["sign"] == "+" else -int(match["last"])
    return coefficient, constant, match["unknown"], int(right)


def render(coefficient: int, constant: int, unknown: str, right: int) -> str:
    """The equation as sympy prints it: the unknown first, unless it alone is negative."""
    times = "" if abs(coefficient) == 1 else f"{abs(coefficient)}*"
    if coefficient < 0 and constant > 0:
        return f"{constant} - {times}{unknown} = {right}"
    sign = "-" if coefficient < 0 else ""
    return f"{sign}{times}{unknown}{f' {_signed(constant)}' if constant else ''} = {right}"


def _left_side(rng: random.Random, terms: int, most: int) -> tuple[int, int]:
    """Terms joined from left to right, one of them with the unknown: (its coefficient, the constant)."""
    place = rng.randrange(terms)
    coefficient = constant = 0
    for i in range(terms):
        term = (rng.randint(1, most), 0) if i == place else (0, rng.randint(1, most))
        sign = rng.choices(OPERATORS, WEIGHTS)[0] if i else "+"
        if sign == "*":  # at most one of the two sides of a product holds the unknown
            coefficient, constant = term[0] * constant + coefficient * term[1], constant * term[1]
        else:
            direction = 1 if sign == "+" else -1
            coefficient, constant = coefficient + direction * term[0], constant + direction * term[1]
    return coefficient, constant
