"""Kind "math": is this the same mathematical answer as the gold one?

Numbers and elementary formulas are compared here, exactly or with 50 digits, in microseconds to a few milliseconds;
what they can't write goes to math-verify in a helper process. The rules, where usage differs:

 * Brackets belong to the answer: (1, 2], (1, 2), {1, 2} and the bare list 1, 2 differ. A bare list is a set of answers
   and equals {..}, in any order; tuples and intervals keep theirs.
 * A unit may be left out or added. Where both have one it must be the same: nothing is converted.
 * 25%, 1/4 and 0.25 are equal. 25% and a bare 25 are equal too, since "what percentage" is answered by either; up to 1
   (0.5% and 0.5) the bare number is ambiguous, and wrong.
 * "x = 5" answers 5, and 5 answers "x = 5", but "y = 5" does not answer "x = 5".
 * A decimal is exact: 0.33 is not 1/3. With at least six places it may be the rounded or truncated exact value.
 * 52_8 may be written 52 where the gold answer has the base; its decimal value is another answer.
 * A problem may state tolerances, in its metadata: {"tolerances": ["0.01"]}, or one for each of several answers. Then a
   number may differ from the gold one by so much.
 * An answer that nobody can read is wrong; a gold answer that nobody can read makes the problem ungradable.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction

from reflective.types import Problem, Verdict
from reflective.verify.extract import last_boxed
from reflective.verify.helpers import SHARED, HelperFailure, HelperTimeout
from reflective.verify.math import atoms, values
from reflective.verify.math.compare import Comparison, Undecided
from reflective.verify.math.formula import Malformed, Unsupported, variables
from reflective.verify.math.notation import Atom, Group, Relation, Value, read
from reflective.verify.text import MAX_ANSWER_CHARS, to_latex

_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_PLAIN_NUMBER = re.compile(r"[-+]?[0-9]{1,30}(?:\.[0-9]{1,30})?")


def grade_math(problem: Problem, answer: str, *, time_limit_s: float) -> Verdict:
    """Right when the two are equal by the rules above."""
    gold, answer = (problem.answer or "").strip(), answer.strip()
    if "\\boxed" in gold:
        gold = last_boxed(gold) or gold
    if gold == answer:
        return Verdict("right", "identical")
    try:
        tolerances = [Fraction(t) for t in problem.metadata.get("tolerances") or ()]
    except (TypeError, ValueError, OverflowError) as error:
        return Verdict("ungradable", f"the tolerances can't be read: {error}")
    if not tolerances and _PLAIN_NUMBER.fullmatch(gold) and _PLAIN_NUMBER.fullmatch(answer):
        return Verdict("right", "equal") if Fraction(gold) == Fraction(answer) else Verdict("wrong", "another value")
    if len(answer) > MAX_ANSWER_CHARS:
        return Verdict("wrong", f"longer than {MAX_ANSWER_CHARS} characters")
    if _spelling(gold) == _spelling(answer):
        return Verdict("right", "identical")
    try:
        difference = Comparison(time_limit_s, tolerances).texts(gold, answer)
    except Undecided as error:
        return Verdict("ungradable", str(error))
    return Verdict("right", "equivalent") if difference is None else Verdict("wrong", difference)


def unreadable(gold: str, *, time_limit_s: float) -> str | None:
    """Why only an answer that is identical to `gold` could be right; None where `gold` can be read."""
    try:
        for atom in _atoms(read(gold)):
            try:
                tree = atoms.tree(atom)
                if not variables(tree):
                    values.constant(tree)
            except Unsupported as error:
                if not SHARED.call("readable", atom.text, time_limit_s=time_limit_s):
                    return str(error)
            except Malformed as error:
                if atoms.based_number(atom) is None:
                    return str(error)
    except (Malformed, Unsupported, ArithmeticError, HelperFailure, HelperTimeout) as error:
        return str(error)
    return None


def _spelling(text: str) -> str:
    return " ".join(_TEXT.sub(r" \1 ", to_latex(text)).split()).rstrip(".")


def _atoms(value: Value) -> Iterator[Atom]:
    if isinstance(value, Atom):
        yield value
    elif isinstance(value, (Group, Relation)):
        for part in value.items if isinstance(value, Group) else value.sides:
            yield from _atoms(part)
