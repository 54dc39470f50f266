"""Kind "expression": countdown, 24 and their like: an expression of given numbers that reaches a target.

The metadata say what is asked for: {"numbers": [4, 7, 8, 8], "target": 24, "use_all": True}. With `use_all` (the
default) each number is used exactly once, without it at most once. The gold answer is one of many solutions and is
not looked at. Allowed: whole numbers, + - * / (also × · ÷ and their LaTeX names, \\frac{a}{b}), unary minus, brackets;
"expression = target" is tolerated, any other equation is not. Values are exact fractions. Python reads the text
and never evaluates it: only the nodes of this arithmetic are walked.
"""

from __future__ import annotations

import ast
import operator
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from reflective.types import Problem, Verdict
from reflective.verify.text import strip_delimiters, to_latex

MAX_CHARS = 400
MAX_NUMBER_DIGITS = 12

_SIGNS = {"\\times": "*", "\\cdot": "*", "\\ast": "*", "\\div": "/", "\\frac": " frac"}
_COMMAND = re.compile(r"\\[A-Za-z]+")
_BRACKETS = str.maketrans("[]{}", "()()", "\\")
_ARITHMETIC = re.compile(r"(?:[\d\s+\-*/()]|(?<![A-Za-z])frac(?=\s*\())+")
_STATED = re.compile(r"\s*-?\s*\d{1,12}\s*")
_OPERATIONS: Mapping[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


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
    text = _COMMAND.sub(lambda m: _SIGNS.get(m[0], m[0]), to_latex(strip_delimiters(text))).translate(_BRACKETS)
    formula, equals, stated = text.partition("=")
    formula = re.sub(r"(?<!\d)0+(?=\d)", "", " ".join(formula.split()))
    if not _ARITHMETIC.fullmatch(formula) or (equals and not _STATED.fullmatch(stated)):
        raise NotAnExpression("other signs than those of arithmetic")
    numbers: list[int] = []
    try:
        value = _value(ast.parse(formula.strip(), mode="eval").body, numbers)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise NotAnExpression(str(error).splitlines()[0][:60]) from error
    return Expression(value, tuple(numbers), Fraction(stated.replace(" ", "")) if equals else None)


def _value(node: ast.expr, numbers: list[int]) -> Fraction:
    match node:
        case ast.Constant(int(number)) if len(str(number)) <= MAX_NUMBER_DIGITS:
            numbers.append(number)
            return Fraction(number)
        case ast.UnaryOp(ast.USub() | ast.UAdd() as sign, operand):
            return -_value(operand, numbers) if isinstance(sign, ast.USub) else _value(operand, numbers)
        case ast.BinOp(left, operation, right) if type(operation) in _OPERATIONS:
            return _OPERATIONS[type(operation)](_value(left, numbers), _value(right, numbers))
        case ast.Call(ast.Call(ast.Name("frac"), [above], []), [below], []):
            return _value(above, numbers) / _value(below, numbers)
    raise NotAnExpression("beyond whole numbers, + - * / and brackets")


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
