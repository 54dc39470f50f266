"""Kind "expression": countdown, 24 and their like: an expression of given numbers that reaches a target.

The metadata say what is asked for: {"numbers": [4, 7, 8, 8], "target": 24, "use_all": True}. With `use_all` (the
default) each number is used exactly once, without it at most once. The gold answer is one of many solutions and is
not looked at. Allowed: whole numbers, + - * / (also × · ÷ and their LaTeX names, \\frac{a}{b}), unary minus, brackets;
"expression = target" is tolerated, any other equation is not. Values are exact fractions. There is no eval.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from reflective.types import Problem, Verdict
from reflective.verify.text import strip_delimiters, to_latex

MAX_CHARS = 400
MAX_DEPTH = 40
MAX_NUMBER_DIGITS = 12

_TOKEN = re.compile(r"\s*(?:\d+|[-+*/(){}\[\]=]|\\(?:times|cdot|ast|div|frac)(?![A-Za-z])|\\[{}])\s*")
_SIGNS = {"\\times": "*", "\\cdot": "*", "\\ast": "*", "\\div": "/", "\\{": "{", "\\}": "}"}
_CLOSING = {"(": ")", "[": "]", "{": "}"}


class NotAnExpression(ValueError):
    """The text is not arithmetic of whole numbers."""


@dataclass(frozen=True, slots=True)
class Expression:
    """The exact value of an expression and the numbers that it is made of."""

    value: Fraction
    numbers: tuple[int, ...]
    stated: Fraction | None = None  # the value behind "=", where there is one


def read_expression(text: str) -> Expression:
    """Read and evaluate arithmetic; raises NotAnExpression or ZeroDivisionError."""
    if len(text) > MAX_CHARS:
        raise NotAnExpression(f"longer than {MAX_CHARS} characters")
    parser = _Parser(_tokens(to_latex(strip_delimiters(text))))
    value = parser.sum()
    numbers = tuple(parser.numbers)
    stated = None
    if parser.accept("="):
        stated = parser.number_alone()
    if parser.next:
        raise NotAnExpression(f"unexpected {parser.next!r}")
    return Expression(value, numbers, stated)


def grade_expression(problem: Problem, answer: str, *, time_limit_s: float) -> Verdict:
    """Right when the expression has the target's value and is made of the given numbers."""
    try:
        given, target, use_all = _task(problem.metadata)
    except (KeyError, TypeError, ValueError) as error:
        return Verdict("ungradable", f"the metadata have no usable numbers and target: {error!r}")
    try:
        expression = read_expression(answer)
    except NotAnExpression as error:
        return Verdict("wrong", f"no expression: {error}")
    except ZeroDivisionError:
        return Verdict("wrong", "division by zero")
    used = Counter(expression.numbers)
    if not used <= given:
        return Verdict("wrong", f"uses {min((used - given).elements())}, which is not given that often")
    if use_all and used != given:
        return Verdict("wrong", f"leaves out {min((given - used).elements())}")
    if expression.stated is not None and expression.stated != target:
        return Verdict("wrong", f"claims {expression.stated}, not {target}")
    if expression.value != target:
        return Verdict("wrong", f"makes {expression.value}, not {target}")
    return Verdict("right", f"makes {target}")


def _task(metadata: Mapping[str, Any]) -> tuple[Counter[int], Fraction, bool]:
    numbers = [Fraction(n) for n in metadata["numbers"]]
    if not numbers or any(n.denominator != 1 for n in numbers):
        raise ValueError("numbers must be whole")
    return Counter(int(n) for n in numbers), Fraction(metadata["target"]), bool(metadata.get("use_all", True))


def _tokens(text: str) -> list[str]:
    tokens, position = [], 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise NotAnExpression(f"{text[position : position + 10]!r}")
        tokens.append(_SIGNS.get(match[0].strip(), match[0].strip()))
        position = match.end()
    return tokens


@dataclass(slots=True)
class _Parser:
    tokens: list[str]
    position: int = 0
    depth: int = 0
    numbers: list[int] = field(default_factory=list)

    @property
    def next(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def accept(self, *signs: str) -> str:
        if self.next not in signs:
            return ""
        self.position += 1
        return self.tokens[self.position - 1]

    # sum := product ([+-] product)*
    def sum(self) -> Fraction:
        value = self.product()
        while sign := self.accept("+", "-"):
            value = value + self.product() if sign == "+" else value - self.product()
        return value

    # product := signed ([*/] signed)*
    def product(self) -> Fraction:
        value = self.signed()
        while sign := self.accept("*", "/"):
            value = value * self.signed() if sign == "*" else value / self.signed()
        return value

    # signed := [+-] signed | \frac group group | group | number
    def signed(self) -> Fraction:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise NotAnExpression(f"nested deeper than {MAX_DEPTH}")
        if sign := self.accept("+", "-"):
            value = self.signed() if sign == "+" else -self.signed()
        elif self.accept("\\frac"):
            value = self.group() / self.group()
        elif self.next in _CLOSING:
            value = self.group()
        else:
            value = self.number()
            self.numbers.append(int(value))
        self.depth -= 1
        return value

    def group(self) -> Fraction:
        closing = _CLOSING.get(self.accept(*_CLOSING))
        if closing is None:
            raise NotAnExpression(f"a bracket expected, got {self.next or 'the end'!r}")
        value = self.sum()
        if not self.accept(closing):
            raise NotAnExpression(f"{closing!r} expected, got {self.next or 'the end'!r}")
        return value

    def number(self) -> Fraction:
        token = self.next
        if not token.isdigit() or len(token) > MAX_NUMBER_DIGITS:
            raise NotAnExpression(f"a number expected, got {token[:20] or 'the end'!r}")
        self.position += 1
        return Fraction(int(token))

    def number_alone(self) -> Fraction:
        return -self.number() if self.accept("-") else self.number()
