"""Kind "math": is this the same mathematical answer as the gold one?

Identical texts and plain numbers are decided here; everything else in a helper process, which is killed at the time
limit: numbers and elementary formulas exactly or with 50 digits, in microseconds to a few milliseconds, and what those
can't write by math-verify. docs/grading.md says which part judges what. The rules, where usage differs:

 * Brackets belong to the answer: (1, 2], (1, 2), {1, 2} and the bare list 1, 2 differ. A bare list is a set of answers
   and equals {..}, in any order; tuples and intervals keep theirs.
 * A unit may be left out or added. Where both have one it must be the same: nothing is converted.
 * 25%, 1/4 and 0.25 are equal. 25% and a bare 25 are equal too, since "what percentage" is answered by either; up to 1
   (0.5% and 0.5) the bare number is ambiguous, and wrong.
 * "x = 5" answers 5, and 5 answers "x = 5", but "y = 5" does not answer "x = 5". The same for (x, y) = (2, 5), for
   "x = 2, y = 5" and for a:b = 3:4.
 * A statement about numbers alone (1 < 2) is answered by the same statement, not by another truth.
 * A decimal is exact: 0.33 is not 1/3. With at least six places it may be the rounded or truncated exact value.
 * 52_8 may be written 52 where the gold answer has the base; its decimal value is another answer.
 * A problem may state tolerances, in its metadata: {"tolerances": ["0.01"]}, or one for each of several answers. Then a
   number may differ from the gold one by so much.
 * An answer that nobody can read is wrong; a gold answer that nobody can read makes the problem ungradable.
"""

from __future__ import annotations

import re
from fractions import Fraction

from reflective.types import Problem, Verdict
from reflective.verify.extract import last_boxed
from reflective.verify.processes import SHARED
from reflective.verify.text import MAX_ANSWER_CHARS, to_latex

_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_DECIMAL = re.compile(r"([-+]?)(\d{1,30}|[1-9]\d{0,2}(?:,\d{3}){1,9})(?:\.(\d{0,30}))?")
_FRACTION = re.compile(r"([-+]?)(?:(\d{1,30})\s?/\s?(\d{1,30})|\\[dt]?frac\s?\{(\d{1,30})\}\s?\{(\d{1,30})\})")
_GROUPED = re.compile(r"[-+]?\d{1,3}(?:([ '’_.\u00a0\u202f])\d{3})(?:\1\d{3})+|[-+]?\d{1,2}(?:,\d{2})+,\d{3}")


def grade_math(problem: Problem, answer: str, *, time_limit_s: float) -> Verdict:
    """Right when the two are equal by the rules above."""
    gold, answer = (_unboxed(text.strip()) for text in (problem.answer or "", answer))
    if gold == answer:
        return Verdict("right", "identical")
    try:
        tolerances = [str(Fraction(t)) for t in problem.metadata.get("tolerances") or ()]
    except (TypeError, ValueError, OverflowError) as error:
        return Verdict("ungradable", f"the tolerances can't be read: {error}")
    gold_number, number = plain_number(gold), plain_number(answer)
    if gold_number is not None and number is not None and not tolerances:
        if gold_number == number:
            return Verdict("right", "equal")
        if bool(_FRACTION.fullmatch(gold)) == bool(_FRACTION.fullmatch(answer)):  # else one may be the other, rounded
            return Verdict("wrong", "another value")
    if len(answer) > MAX_ANSWER_CHARS:
        return Verdict("wrong", f"longer than {MAX_ANSWER_CHARS} characters")
    if _spelling(gold) == _spelling(answer):
        return Verdict("right", "identical")
    if gold_number is not None and _GROUPED.fullmatch(answer):
        if gold_number == int(re.sub(r"[^-\d]", "", answer)):
            return Verdict("right", "equal")  # 1'234'567, 12,34,567
    return SHARED.verdict("compare", gold, answer, tolerances, time_limit_s=time_limit_s)


def plain_number(text: str) -> Fraction | None:
    """The value of a decimal, perhaps with commas between thousands, or of a fraction of whole numbers."""
    if match := _DECIMAL.fullmatch(text):
        sign, whole, places = match.groups()
        return Fraction(f"{sign}{whole.replace(',', '')}.{places or 0}")
    if match := _FRACTION.fullmatch(text):
        numerator, denominator = match[2] or match[4], match[3] or match[5]
        if int(denominator):
            return Fraction(int(match[1] + numerator), int(denominator))
    return None


def unreadable(gold: str, *, time_limit_s: float) -> str | None:
    """Why only an answer that is identical to `gold` could be right; None where `gold` can be read."""
    verdict = SHARED.verdict("compare", gold, gold, [], False, time_limit_s=time_limit_s)
    return None if verdict.right else verdict.reason.removeprefix("the gold answer can't be read: ")


def _unboxed(text: str) -> str:
    return last_boxed(text) or text if "boxed" in text else text


def _spelling(text: str) -> str:
    return " ".join(_TEXT.sub(r" \1 ", to_latex(text)).split()).rstrip(".")
