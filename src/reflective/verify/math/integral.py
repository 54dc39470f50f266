"""Is this an antiderivative? Two are equal when their difference is a constant, so that of ∫ 2x dx both x² and x² + 7
are right.

    F is an antiderivative of f = G'   ⟺   F(x) − G(x) is the same at every x

The difference is computed with 50 digits at several points, as formulas are compared elsewhere. The notation is that of
SymPy, in which the problems are written: `log` is the natural logarithm, sin(x)**2 the square of the sine; C, c and K
are constants.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from reflective.types import Verdict
from reflective.verify.math import values
from reflective.verify.math.formula import Call, Malformed, Node, Number, Unsupported, Variable, parse, variables
from reflective.verify.text import MAX_ANSWER_CHARS, to_latex

AGREEING = 5  # points at which the difference is the same
CONSTANTS = ("C", "c", "K")
_POINTS = tuple(Fraction(n, 97) for n in (7, 13, 19, 24, 31, 44, 61, 83, 108, 145, 190, 251, -9, -17, -26, -40, -70))
_CALL = re.compile(r"(?<![A-Za-z])\\?(?:arc|a)?(?:sin|cos|tan|cot|sec|csc|sinh|cosh|tanh|exp|log|ln|sqrt)\s*(?=\()")
_LOG = re.compile(r"(?<![A-Za-z\\])\\?log(?![A-Za-z_])")


def grade_integral(gold: str, answer: str, variable: str) -> Verdict:
    """Right when `answer` differs from `gold`, a known antiderivative, by a constant."""
    try:
        known = _read(gold, variable)
    except (Malformed, Unsupported) as error:
        return Verdict("ungradable", f"the gold answer can't be read: {error}")
    try:
        stated = _read(answer, variable)
    except (Malformed, Unsupported) as error:
        return Verdict("wrong", f"no formula: {error}")
    if foreign := variables(stated) - {variable}:
        return Verdict("wrong", f"{min(foreign)} is no variable of the problem")
    found: list[Any] = []
    for difference in _differences(known, stated, variable):
        if found and not values.same_inexact(found[0], difference):
            return Verdict("wrong", "another derivative")
        found.append(difference)
        if len(found) == AGREEING:
            return Verdict("right", "the same derivative")
    return Verdict("ungradable", "too few points at which both antiderivatives have a real value")


def antiderivatives(gold: str, answer: str, variable: str) -> tuple[str, str]:
    """`grade_integral` for a helper process."""
    verdict = grade_integral(gold, answer, variable)
    return verdict.kind, verdict.reason


def _read(text: str, variable: str) -> Node:
    """The formula, its constant of integration taken as 0."""
    if len(text) > MAX_ANSWER_CHARS:
        raise Malformed(f"longer than {MAX_ANSWER_CHARS} characters")
    node = parse(to_latex(_LOG.sub(r"\\ln ", _calls_in_brackets(text.partition("=")[2] or text))))
    for name in set(CONSTANTS) - {variable}:
        node = _replaced(node, name, Number(Fraction(0)))
    return node


def _calls_in_brackets(text: str) -> str:
    """sin(x)**2 as (sin(x))**2."""
    for match in reversed(list(_CALL.finditer(text))):
        depth = 0
        for end in range(match.end(), len(text)):
            depth += (text[end] == "(") - (text[end] == ")")
            if depth == 0:
                text = f"{text[: match.start()]}({text[match.start() : end + 1]}){text[end + 1 :]}"
                break
    return text


def _differences(gold: Node, answer: Node, variable: str) -> Iterator[Any]:
    """F(x) − G(x) at the points where both are real."""
    for point in _POINTS:
        try:
            pair = [values.constant(_replaced(node, variable, Number(point))) for node in (answer, gold)]
            if all(map(values.is_real, pair)):
                yield values.difference(*pair)
        except ArithmeticError:
            continue


def _replaced(node: Node, name: str, by: Node) -> Node:
    if isinstance(node, Variable):
        return by if node.name == name else node
    if isinstance(node, Call):
        return Call(node.name, tuple(_replaced(argument, name, by) for argument in node.arguments))
    return node
