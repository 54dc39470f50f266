"""Is this an antiderivative? Two are equal when their difference is a constant, so that of ∫ 2x dx both x² and x² + 7
are right.

    F is an antiderivative of f = G'   ⟸   F(x + h) − F(x) = G(x + h) − G(x) for all x and an h that is no period

The notation is that of SymPy, in which the problems are written: `log` is the natural logarithm, sin(x)**2 the square
of the sine; C, c and K are constants.
"""

from __future__ import annotations

import re

from reflective.verify.math import values
from reflective.verify.math.formula import Call, Malformed, Node, Unsupported, parse, variables
from reflective.verify.text import MAX_ANSWER_CHARS, to_latex

CONSTANTS = ("C", "c", "K")
_CALL = re.compile(r"(?<![A-Za-z])\\?(?:arc|a)?(?:sin|cos|tan|cot|sec|csc|sinh|cosh|tanh|exp|log|ln|sqrt)\s*(?=\()")
_LOG = re.compile(r"(?<![A-Za-z\\])\\?log(?![A-Za-z_])")


def antiderivatives(gold: str, answer: str, variable: str) -> tuple[str, str]:
    """(kind, reason) of a verdict: right when `answer` differs from `gold`, a known antiderivative, by a constant."""
    try:
        known = _read(gold, variable)
    except (Malformed, Unsupported) as error:
        return "ungradable", f"the gold answer can't be read: {error}"
    try:
        stated = _read(answer, variable)
    except (Malformed, Unsupported) as error:
        return "wrong", f"no formula: {error}"
    try:
        same = values.equal(*(Call("sub", (values.shifted(node, variable), node)) for node in (known, stated)))
    except ArithmeticError as error:
        return "ungradable", str(error)
    return ("right", "the same derivative") if same else ("wrong", "another derivative")


def _read(text: str, variable: str) -> Node:
    if len(text) > MAX_ANSWER_CHARS:
        raise Malformed(f"longer than {MAX_ANSWER_CHARS} characters")
    node = parse(to_latex(_LOG.sub(r"\\ln ", _calls_in_brackets(text.partition("=")[2] or text))))
    if foreign := variables(node) - {variable, *CONSTANTS}:
        raise Malformed(f"{min(foreign)} is no variable of the problem")
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
