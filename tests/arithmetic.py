"""Reads the arithmetic of a trace by means of the tests alone: an evaluator, and what a checked step claims."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from fractions import Fraction

from reflective.tasks import Segment

EQUATION = re.compile(r"(?<![\d.])(-?\d+(?: [-+*/] -?\d+)+) = (-?\d+)(?: rest (\d+))?")
CHECKED = re.compile(
    r"(-?\d+) ([-+*/]) (-?\d+) = (-?\d+)(?: rest (\d+))?(?: [a-z]+)?, "  # the operation, perhaps with a noun
    r"(-?\d+ [-+*/] -?\d+(?: \+ \d+)?) = (-?\d+(?: rest \d+)?), (right|wrong)$"
)
USES = re.compile(r"^uses ([\d ]+) for ([\d ]+), (right|wrong)$")


def value(expression: str) -> Fraction:
    """A small independent evaluator: whole numbers, + - * / and brackets."""

    def walk(node: ast.expr) -> Fraction:
        match node:
            case ast.BinOp(left, operator, right):
                a, b = walk(left), walk(right)
                return (
                    {ast.Add: a + b, ast.Sub: a - b, ast.Mult: a * b}.get(type(operator))
                    if not isinstance(operator, ast.Div)
                    else a / b
                )
            case ast.UnaryOp(ast.USub(), operand):
                return -walk(operand)
            case ast.Constant(int(number)):
                return Fraction(number)
        raise ValueError(ast.dump(node))

    return walk(ast.parse(expression.strip(), mode="eval").body)


def is_true(equation: re.Match[str]) -> bool:
    """Whether what `EQUATION` found is so."""
    left, right, rest = equation[1], Fraction(equation[2]), int(equation[3] or 0)
    return value(left) == right + (Fraction(rest, int(left.split()[-1])) if rest else 0)


def verdict_agrees(text: str) -> bool:
    """Whether a step that ends in a verdict compares beside it, and says what the numbers say."""
    if uses := USES.match(text):
        return (uses[1] == uses[2]) == (uses[3] == "right")
    step = CHECKED.search(text)
    assert step is not None, text
    left, sign, right, result, rest, back, again, verdict = step.groups()
    operand = back.split()[2]
    origin = left if operand == right else right  # a product may give back either factor
    inverse = {
        "+": f"{result} - {operand}",
        "-": f"{result} + {operand}",
        "*": f"{result} / {operand}",
        "/": f"{result} * {operand}" + (f" + {rest}" if rest else ""),
    }[sign]
    true = value(f"{left} {sign} {right}") == int(result) + (Fraction(int(rest), int(right)) if rest else 0)
    assert back == inverse, text
    return (again == origin) == (verdict == "right") == true


def assert_learned_is_true(step: Sequence[Segment]) -> None:
    """A false equation must hold a piece that is not learned."""
    text, unlearned = "", []
    for segment in step:
        if not segment.learn:
            unlearned.append((len(text), len(text) + len(segment.text)))
        text += segment.text
    for equation in EQUATION.finditer(text):
        start, end = equation.span()
        assert is_true(equation) or any(start < b and a < end for a, b in unlearned), text
