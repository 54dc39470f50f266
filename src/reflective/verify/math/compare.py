"""Two final answers, read and compared value by value, under one time limit."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import TypeVar

from reflective.verify.helpers import SHARED, HelperFailure, HelperTimeout
from reflective.verify.math import atoms, values
from reflective.verify.math.formula import Malformed, Unsupported, variables
from reflective.verify.math.notation import Atom, Group, Relation, Value, Words, read
from reflective.verify.math.relations import is_equation, is_name, less, names_each, region
from reflective.verify.math.units import canonical_unit
from reflective.verify.text import to_latex

T = TypeVar("T")
V = TypeVar("V")

_TRAILING_WORD = re.compile(r"^(.*[\d}])\s*([A-Za-z]+)$")
_SET_ALGEBRA = re.compile(r"\\(?:cup|cap|setminus|mathbb|ne|in|le|ge|infty)(?![A-Za-z])|[<>]")
_LETTERS = re.compile(r"[A-Za-z]+")
_ZERO = Atom("0")


class Undecided(Exception):
    """The comparison can't tell; the message says why."""


class Comparison:
    """Every method returns None where the two are equal, and in a few words what differs where they are not."""

    def __init__(self, time_limit_s: float, tolerances: Sequence[Fraction] = ()) -> None:
        self.time_limit_s = time_limit_s
        self.deadline = time.monotonic() + time_limit_s
        self.tolerances = tolerances  # one for all values, or one for each of several
        self.tolerance: Fraction | None = tolerances[0] if len(tolerances) == 1 else None

    def texts(self, gold: str, answer: str) -> str | None:
        try:
            gold_value = _gold(read, gold)
            answer_value = read(answer)
        except Malformed as error:
            return f"can't be read: {error}"
        except Unsupported:
            return self.symbolic(to_latex(gold), to_latex(answer))
        difference = self.value(gold_value, answer_value)
        if difference is not None and _may_be_one_set(gold_value, answer_value):
            gold, answer = to_latex(gold), to_latex(answer)
            if _SET_ALGEBRA.search(gold) and _SET_ALGEBRA.search(answer):
                return self.symbolic(gold, answer)
        return difference

    def value(self, gold: Value, answer: Value) -> str | None:
        self.time_left()
        if isinstance(gold, Relation) or isinstance(answer, Relation):
            return self.relations(gold, answer)
        if isinstance(gold, Group) and isinstance(answer, Group):
            return self.groups(gold, answer)
        if isinstance(gold, Group):
            return self.value(gold.items[0], answer) if _is_singleton(gold) else "one value, not several"
        if isinstance(answer, Group):
            return self.value(gold, answer.items[0]) if _is_singleton(answer) else "several values, not one"
        if isinstance(gold, Atom) and isinstance(answer, Atom):
            return self.atom(gold, answer)
        return None if _letters(gold) == _letters(answer) else "other words"

    # several values

    def groups(self, gold: Group, answer: Group) -> str | None:
        if gold.brackets != answer.brackets and {gold.brackets, answer.brackets} != {"", "{}"}:
            return f"other brackets: {answer.brackets or 'none'}, not {gold.brackets or 'none'}"
        if len(gold.items) != len(answer.items):
            return f"{len(answer.items)} values, not {len(gold.items)}"
        if gold.ordered or names_each(gold, answer) or names_each(answer, gold):
            return self.pairwise(gold.items, answer.items)
        left = list(answer.items)
        for number, item in enumerate(gold.items):
            if len(self.tolerances) == len(gold.items):
                self.tolerance = self.tolerances[number]
            partner = next((a for a in left if self.value(item, a) is None), None)
            if partner is None:
                return "a value is missing"
            left.remove(partner)
        return None

    def pairwise(self, gold: tuple[Value, ...], answer: tuple[Value, ...]) -> str | None:
        differences = (self.value(g, a) for g, a in zip(gold, answer, strict=True))
        return next((difference for difference in differences if difference is not None), None)

    # equations and inequalities

    def relations(self, gold: Value, answer: Value) -> str | None:
        if isinstance(gold, Relation) and isinstance(answer, Relation):
            if is_equation(gold) and is_equation(answer):
                return self.equations(gold, answer)
            return self.inequalities(gold, answer)
        if isinstance(answer, Relation):
            if is_equation(answer):
                return self.stated(gold, answer)
            bounded = region(answer)
            return "an inequality" if bounded is None else self.value(gold, bounded[1])
        assert isinstance(gold, Relation)
        if is_equation(gold) and len(gold.sides) == 2 and is_name(gold.sides[0]):
            return self.value(gold.sides[1], answer)
        bounded = region(gold)
        return "not a relation" if bounded is None else self.value(bounded[1], answer)

    def stated(self, gold: Value, answer: Relation) -> str | None:
        """x = 2 + 3 = 5 states 5; x = 1/3 \\approx 0.33 states 1/3, and 0.33 where the gold answer is a decimal."""
        exact = answer.ops.index("approx") if "approx" in answer.ops else len(answer.ops)
        value, before = answer.sides[exact], answer.sides[max(exact - 1, 0)]
        if exact and isinstance(value, Atom) and isinstance(before, Atom) and atoms.is_number(before):
            if self.value(before, value) is not None:
                return "a false equation"
        if value == _ZERO and not is_name(answer.sides[0]) and not atoms.is_number(answer.sides[0]):
            return "an equation, not a value"
        difference = self.value(gold, value)
        if difference is None or exact == len(answer.ops):
            return difference
        rounded = isinstance(gold, Atom) and atoms.is_decimal(gold)
        return self.value(gold, answer.sides[-1]) if rounded or is_name(value) else difference

    def equations(self, gold: Relation, answer: Relation) -> str | None:
        exact = answer.ops.index("approx") if "approx" in answer.ops[1:] else -1
        if is_name(gold.sides[0]) and _same_name(gold.sides[0], answer.sides[0]):
            return self.value(gold.sides[-1], answer.sides[exact])
        return self.multiples((gold.sides[0], gold.sides[-1]), (answer.sides[0], answer.sides[exact]), positive=False)

    def inequalities(self, gold: Relation, answer: Relation) -> str | None:
        bounded, answer_bounded = region(gold), region(answer)
        if bounded is not None and answer_bounded is not None:
            if bounded[0] != answer_bounded[0]:
                return "another variable"
            return self.value(bounded[1], answer_bounded[1])
        gold, answer = less(gold), less(answer)
        if gold.ops != answer.ops:
            return "another relation"
        if len(gold.ops) > 1:
            return self.pairwise(gold.sides, answer.sides)
        positive = gold.ops[0] in ("lt", "le")
        return self.multiples((gold.sides[0], gold.sides[1]), (answer.sides[0], answer.sides[1]), positive=positive)

    def multiples(self, gold: tuple[Value, Value], answer: tuple[Value, Value], *, positive: bool) -> str | None:
        """2x = 4y and x = 2y are one equation; 2x < 4y and -x < -2y are not one inequality."""
        try:
            trees = [atoms.tree(side) for side in (*gold, *answer) if isinstance(side, Atom)]
        except (Malformed, Unsupported):
            trees = []
        if len(trees) < 4:
            return self.pairwise(gold, answer)
        try:
            same = values.proportional((trees[0], trees[1]), (trees[2], trees[3]), positive=positive)
        except values.TooLarge as error:
            raise Undecided(f"too large to compute: {error}") from error
        return None if same else "another relation"

    # single values

    def atom(self, gold: Atom, answer: Atom) -> str | None:
        if atoms.based_number(gold) or atoms.based_number(answer):
            fits = "%" not in (gold.unit, answer.unit) and atoms.bases_fit(gold, answer)
            return None if fits else "another number or base"
        if "%" in (gold.unit, answer.unit) and None in (gold.unit, answer.unit):
            return self.percentages(gold, answer)
        if gold.unit and not answer.unit and (match := _TRAILING_WORD.match(answer.text)):
            if canonical_unit(match[2]) == gold.unit:  # 5 m, where the gold answer says that m is a unit
                answer = replace(answer, text=match[1], unit=gold.unit)
        if not atoms.units_fit(gold.unit, answer.unit):
            return f"another unit: {answer.unit}, not {gold.unit}"
        if (gold.text, gold.factor) == (answer.text, answer.factor):
            return None
        return self.formulas(gold, answer)

    def percentages(self, gold: Atom, answer: Atom) -> str | None:
        """One is p%, the other bare: equal to p/100, or to p itself where p can't be meant as a ratio."""
        self.tolerance = None  # it would be one of percentages or one of ratios, and nobody says of which
        ratio_gold, ratio_answer = (_ratio(atom) if atom.unit else atom for atom in (gold, answer))
        difference = self.formulas(ratio_gold, ratio_answer)
        if difference is None or self.formulas(gold, answer) is not None:
            return difference
        return None if values.exceeds_one(atoms.tree(gold)) else "a percentage or a ratio"

    def formulas(self, gold: Atom, answer: Atom) -> str | None:
        try:
            gold_tree, answer_tree = _gold(atoms.tree, gold), atoms.tree(answer)
        except Malformed as error:
            return f"can't be read: {error}"
        except Unsupported:
            return self.symbolic(gold.text, answer.text)
        constant = not variables(answer_tree)
        try:
            if not variables(gold_tree):
                values.constant(gold_tree)
        except ArithmeticError as error:
            raise Undecided(f"the gold answer has no value: {error}") from error
        try:
            if constant:
                stated = values.constant(answer_tree)
                if self.tolerance is not None and not variables(gold_tree):
                    within = values.within(values.constant(gold_tree), stated, self.tolerance)
                    return None if within else "beyond the tolerance"
            rounded = constant and not variables(gold_tree) and atoms.rounds(gold, answer)
            return None if rounded or values.equal(gold_tree, answer_tree) else "another value"
        except values.Undefined as error:
            return f"has no value: {error}" if constant else self.symbolic(gold.text, answer.text)
        except values.TooLarge as error:
            raise Undecided(f"too large to compute: {error}") from error

    def symbolic(self, gold: str, answer: str) -> str | None:
        try:
            result = SHARED.call("equivalent", gold, answer, time_limit_s=self.time_left())
        except HelperTimeout as error:
            raise Undecided(f"no verdict within {self.time_limit_s:g} s") from error
        except HelperFailure as error:
            raise Undecided(f"math-verify failed: {error}") from error
        if result == "gold unreadable":
            raise Undecided("the gold answer can't be read")
        return {"right": None, "wrong": "not equivalent"}.get(result, "can't be read")

    def time_left(self) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise Undecided(f"no verdict within {self.time_limit_s:g} s")
        return left


def _gold(reader: Callable[[T], V], gold: T) -> V:
    """What the gold answer is read as; one that nobody can read is nobody's fault but its own."""
    try:
        return reader(gold)
    except Malformed as error:
        raise Undecided(f"the gold answer can't be read: {error}") from error


def _is_singleton(group: Group) -> bool:
    return group.brackets == "{}" and len(group.items) == 1


def _letters(value: Value) -> str:
    """Words and names in one spelling, so that \\text{Evelyn} is Evelyn and (C) is C; x and X stay two variables."""
    if isinstance(value, Words):
        return value.text
    if isinstance(value, Atom):
        text = value.text.replace(" ", "")
        return text.lower() if _LETTERS.fullmatch(text) else text
    return repr(value)


def _same_name(gold: Value, answer: Value) -> bool:
    words = isinstance(gold, Words) or isinstance(answer, Words)
    return gold == answer or (words and _letters(gold) == _letters(answer))


def _may_be_one_set(gold: Value, answer: Value) -> bool:
    """Whether the two may write one set differently: as a union, an inequality, a complement."""
    if any(isinstance(v, Group) and v.brackets == "cup" for v in (gold, answer)):
        return True
    if any(isinstance(v, Words) or (isinstance(v, Relation) and region(v) is not None) for v in (gold, answer)):
        return False
    return type(gold) is not type(answer)


def _ratio(percent: Atom) -> Atom:
    return replace(percent, unit=None, text=rf"\frac{{{percent.text}}}{{100}}")
