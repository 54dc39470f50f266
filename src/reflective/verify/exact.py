"""Kinds "exact" and "factors": answers that are right when they are written alike.

"exact" compares text after Unicode (NFKC), case, spaces, surrounding dollars and `\\text{}`, and the many signs of
multiplication. Where the gold answer has several lines, they are compared one by one, empty ones left out: a matrix is
no row of numbers. Nothing is computed: 27.0 is not 27. "factors" compares a product as a multiset of whole numbers:
2 × 2 × 5, 5 \\cdot 2^2 and 20 = 2 * 5 * 2 are one factorization, and 4 × 5 is another.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter

from reflective.types import Problem, Verdict
from reflective.verify.text import MAX_ANSWER_CHARS, clean, strip_delimiters, to_latex

MAX_FACTORS = 200
MAX_FACTOR_DIGITS = 40

_TIMES = re.compile(r"\s*(?:\*|×|✕|✖|·|⋅|∙|\\times(?![A-Za-z])|\\cdot(?![A-Za-z])|\\ast(?![A-Za-z]))\s*")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_SPACED_SIGN = re.compile(r"\s*([,;:=<>()\[\]{}|])\s*")
_SIGNS = str.maketrans({"−": "-", "–": "-", "—": "-", "’": "'", "‘": "'", "“": '"', "”": '"'})
_SUPERSCRIPTS = str.maketrans(dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹", (f"^{d}" for d in "0123456789"), strict=True)))
_FACTOR = re.compile(r"\(?\s*(\d+)\s*\)?\s*(?:\^\s*\{?\s*(\d{1,4})\s*\}?)?\s*")


def canonical(text: str) -> str:
    """`text` in the one spelling that "exact" compares."""
    text = strip_delimiters(clean(text))
    text = unicodedata.normalize("NFKC", text.translate(_SIGNS).translate(_SUPERSCRIPTS)).translate(_SIGNS)
    text = strip_delimiters(_TEXT.sub(r"\1", text))
    text = _TIMES.sub("*", text)
    text = _SPACED_SIGN.sub(r"\1", " ".join(text.split()))
    return text.strip("\"'").casefold()


def grade_exact(problem: Problem, answer: str, *, time_limit_s: float) -> Verdict:
    """Right when both are the same text."""
    gold = canonical(problem.answer or "")
    if not gold:
        return Verdict("ungradable", "the gold answer is empty")
    if len(answer) > max(MAX_ANSWER_CHARS, 2 * len(gold)):
        return Verdict("wrong", "far longer than the gold answer")
    lines = _lines(problem.answer or "")
    same = _lines(answer) == lines if len(lines) > 1 else canonical(answer) == gold
    return Verdict("right", "identical") if same else Verdict("wrong", "another text")


def _lines(text: str) -> list[str]:
    return [canonical(line) for line in strip_delimiters(text).splitlines() if line.strip()]


def factors(text: str) -> Counter[int] | None:
    """The factors of a product of whole numbers; None where `text` is none, or is a false equation."""
    if len(text) > MAX_ANSWER_CHARS:
        return None
    sides = [_product(side) for side in to_latex(text).split("=")]
    values = [side for side in sides if side is not None]
    if len(values) < len(sides) or len({math.prod(side.elements()) for side in values}) > 1:
        return None
    # 20 = 2 * 2 * 5 states its longest side
    return max(values, key=Counter.total)


def _product(text: str) -> Counter[int] | None:
    counts: Counter[int] = Counter()
    for part in _TIMES.split(text.strip()):
        match = _FACTOR.fullmatch(part)
        if match is None or len(match[1]) > MAX_FACTOR_DIGITS:
            return None
        counts[int(match[1])] += int(match[2] or 1)
        if counts.total() > MAX_FACTORS:
            return None
    return counts


def grade_factors(problem: Problem, answer: str, *, time_limit_s: float) -> Verdict:
    """Right when both have the same factors the same number of times, in any order."""
    gold, stated = factors(problem.answer or ""), factors(answer)
    if gold is None:
        return Verdict("ungradable", "the gold answer is no product of whole numbers")
    if stated is None:
        return Verdict("wrong", "no product of whole numbers")
    return Verdict("right", "the same factors") if stated == gold else Verdict("wrong", "other factors")
