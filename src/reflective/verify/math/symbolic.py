"""Equivalence through math-verify, for notation that our own formulas do not read: integrals, sums, set algebra.

Runs inside a helper process only: what is computed here may take for ever. math-verify's own time limits are signals,
which work in a main thread only, so they are off.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

FLOAT_PLACES = 12  # of agreement between numbers, of which one may be a 15-digit float
DIGITS = 50


class Unreadable(ValueError):
    """math-verify finds no value in a text."""


@lru_cache(maxsize=256)
def parse(text: str) -> Any:
    """The SymPy value of `text`."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig
    from math_verify import parse as math_verify_parse
    from sympy import Set

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    # units off, or 5 cm would be 5 m; no ExprExtractionConfig, which takes numbers out of prose
    normalization = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, boxed="last")
    values = math_verify_parse(
        "\\boxed{" + text + "}",
        [LatexExtractionConfig(boxed_match_priority=0, normalization_config=normalization)],
        fallback_mode="no_fallback",
        extraction_mode="first_match",
        parsing_timeout=None,
        raise_on_error=True,
    )
    if not values or isinstance(values[0], str):
        raise Unreadable(text)
    return values[0].doit() if isinstance(values[0], Set) else values[0]


def equivalent(gold: str, answer: str) -> str:
    """ "right", "wrong", "gold unreadable" or "answer unreadable"."""
    from math_verify import verify

    try:
        gold_value = parse(gold)
    except Unreadable:
        return "gold unreadable"
    try:
        answer_value = parse(answer)
    except Unreadable:
        return "answer unreadable"
    if gold == answer:
        return "right"
    right = _equal_numbers(gold_value, answer_value)
    if right is None:
        right = verify(
            gold_value,
            answer_value,
            float_rounding=FLOAT_PLACES,
            numeric_precision=DIGITS,
            strict=True,
            allow_set_relation_comp=True,
            timeout_seconds=None,
            raise_on_error=True,
        )
    return "right" if right else "wrong"


def _equal_numbers(gold: Any, answer: Any) -> bool | None:
    """Whether two numbers agree in their leading digits; None where one is no number.

    Decided before math-verify, which cuts small differences off (10^-20 is 0 to it) and simplifies at great length.
    """
    from sympy import Expr, N

    if not (isinstance(gold, Expr) and isinstance(answer, Expr)) or gold.free_symbols or answer.free_symbols:
        return None
    a, b = (N(value.doit(), DIGITS) for value in (gold, answer))
    if not (a.is_number and b.is_number and a.is_finite and b.is_finite):
        return None
    return bool(abs(a - b) <= max(abs(a), abs(b)) * 10**-FLOAT_PLACES)
