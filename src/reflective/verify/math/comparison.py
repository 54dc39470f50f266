"""Two final answers, read and compared value by value. Runs in a helper process, which is killed at the time limit.

Every method of `Comparison` returns None where the two are equal, and in a few words what differs where they are not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import TypeVar

from reflective.verify.math import atoms, symbolic, values
from reflective.verify.math.clock import Clock
from reflective.verify.math.formula import Malformed, Unsupported, variables
from reflective.verify.math.identities import same_identity
from reflective.verify.math.notation import Atom, Group, Relation, Value, Words, read
from reflective.verify.math.phrases import plain
from reflective.verify.math.relations import (
    by_name,
    contains_name,
    is_equation,
    is_label,
    is_name,
    is_statement,
    is_variable,
    less,
    names_each,
    region,
    same_name,
)
from reflective.verify.math.units import canonical_unit
from reflective.verify.text import patterns

T = TypeVar("T")
V = TypeVar("V")

_P = patterns("math/shapes.toml", "comparison")
_ZERO = Atom("0")


class Undecided(Exception):
    """The comparison can't tell; the message says why."""


def compare(gold: str, answer: str, tolerances: Sequence[str], by_text: bool = True) -> tuple[str, str]:
    """(kind, reason) of a verdict; `by_text` says that the same text is the same formula, read or not."""
    try:
        exact = [Fraction(tolerance) for tolerance in tolerances]
        difference = Comparison(exact, by_text=by_text).texts(gold, answer)
    except Undecided as error:
        return "ungradable", str(error)
    return ("right", "equivalent") if difference is None else ("wrong", difference)


class Comparison:
    """A comparison, with one tolerance for all numbers, or one for each of several."""

    def __init__(self, tolerances: Sequence[Fraction] = (), *, by_text: bool = True) -> None:
        self.tolerances = tolerances
        self.by_text = by_text
        self.tolerance: Fraction | None = tolerances[0] if len(tolerances) == 1 else None

    def texts(self, gold: str, answer: str) -> str | None:
        gold, answer = plain(gold), plain(answer)
        if "," not in gold:
            answer = _P["combinations"].sub(r"\\binom{\1}{\2}", answer)
        if (
            _P["comma_gold"].match(gold) and "." in answer and not {",", ";"} & set(answer)
        ):  # 9,99, which extraction makes 9.99 of
            gold = gold.replace(",", ".")
        try:
            gold_value = _gold(read, gold)
            if isinstance(gold_value, Atom):
                answer = _P["residue"].sub(r"\1\2", answer)
                answer = _P["decimal_comma"].sub(lambda m: re.sub("[. ]", "", m[0]).replace(",", "."), answer)
                answer = _P["kilo"].sub(r"\1 thousand", answer) if gold[-1].isdigit() else answer
                answer = _P["constant"].sub("+ C", answer) if gold.endswith("C") else answer
            elif isinstance(gold_value, Words):
                answer = _P["letter_and_value"].sub(r"\1", answer)
            answer_value = read(answer)
        except Malformed as error:
            return f"can't be read: {error}"
        except Unsupported:
            return self.symbolic(gold, answer)
        difference = self.value(gold_value, answer_value)
        if difference is None:
            return None
        one_matrix = _may_be_one_matrix(gold_value, answer_value, gold + answer)
        one_set = _may_be_one_set(gold_value, answer_value, (gold, answer))
        return self.symbolic(gold, answer) if one_matrix or one_set else difference

    def value(self, gold: Value, answer: Value) -> str | None:
        if isinstance(gold, Relation) or isinstance(answer, Relation):
            return self.relations(gold, answer)
        if isinstance(gold, Group) and isinstance(answer, Group):
            return self.groups(gold, answer)
        if isinstance(gold, Group):
            return self.value(gold.items[0], answer) if _is_singleton(gold) else "one value, not several"
        if isinstance(answer, Group):  # {5}; 3/4 or 0.75
            named = any(isinstance(item, Relation) for item in answer.items)  # x = 7, y = 7
            several = "several values, not one" if (answer.brackets or named) and not _is_singleton(answer) else None
            return several or next((d for item in answer.items if (d := self.value(gold, item))), None)
        if isinstance(gold, Atom) and isinstance(answer, Atom):
            return self.atom(gold, answer)
        if isinstance(gold, Clock) and isinstance(answer, Clock):
            return None if gold.fits(answer) else "another time"
        words, stated = _letters(gold), _letters(answer)
        said = {words, words.rpartition(" is ")[2]} & {stated, stated.rpartition(" is ")[2]}  # the function is even
        return None if said and ("not " in words) == ("not " in stated) else "other words"

    # several values

    def groups(self, gold: Group, answer: Group) -> str | None:
        named, turned = names_each(gold, answer), names_each(answer, gold)
        if pair := named or (turned and turned[::-1]):
            return self.pairwise(*pair)
        unlike = {gold.brackets, answer.brackets}
        if len(gold.items) != 2 and unlike & {"", "{}"}:
            unlike.discard("[]")  # [2, 3, 5], which is no interval
        if gold.brackets != answer.brackets and not unlike <= {"", "{}"}:
            return f"other brackets: {answer.brackets or 'none'}, not {gold.brackets or 'none'}"
        if len(gold.items) != len(answer.items):
            return f"{len(answer.items)} values, not {len(gold.items)}"
        if gold.ordered:
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

    def pairwise(self, gold: Sequence[Value], answer: Sequence[Value]) -> str | None:
        if len(gold) != len(answer):
            return f"{len(answer)} values, not {len(gold)}"
        differences = (self.value(g, a) for g, a in zip(gold, answer, strict=True))
        return next((difference for difference in differences if difference is not None), None)

    # equations and inequalities

    def relations(self, gold: Value, answer: Value) -> str | None:
        if isinstance(gold, Relation) and isinstance(answer, Relation):
            if is_equation(gold) and is_equation(answer):
                return self.equations(by_name(gold), by_name(answer))
            return self.inequalities(gold, answer)
        if isinstance(answer, Relation):
            if is_equation(answer):
                return self.stated(gold, answer)
            bounded = region(answer)
            return "an inequality" if bounded is None else self.value(gold, bounded[1])
        assert isinstance(gold, Relation)
        if is_equation(gold) and (is_label(gold.sides[0]) or is_statement(gold)):
            differences = [self.value(side, answer) for side in gold.sides[1:]]
            return None if None in differences else differences[-1]
        bounded = region(gold)
        return "not a relation" if bounded is None else self.value(bounded[1], answer)

    def stated(self, gold: Value, answer: Relation) -> str | None:
        """x = 2 + 3 = 5 states 5; x = 1/3 \\approx 0.33 states 1/3, and 0.33 where the gold answer is a decimal."""
        if len(answer.sides) == 2 and is_variable(answer.sides[1]) and not is_name(answer.sides[0]):  # -4 = x
            answer = Relation(answer.sides[::-1], answer.ops)
        exact = answer.ops.index("approx") if "approx" in answer.ops else len(answer.ops)
        value, before = answer.sides[exact], answer.sides[max(exact - 1, 0)]
        if exact and isinstance(value, Atom) and isinstance(before, Atom) and atoms.is_number(before):
            if self.value(before, value) is not None:
                return "a false equation"
        if contains_name(answer.sides[1:], answer.sides[0]):  # x = 1, x = 2 without a comma
            return "an equation, not a value"
        if value == _ZERO and not is_name(answer.sides[0]) and not atoms.is_number(answer.sides[0]):
            return "an equation, not a value"
        difference = self.value(gold, value)
        units = [side.unit for side in (before, value) if isinstance(side, Atom)]
        if difference and len(units) == 2 and units[0] not in (None, units[1]):
            difference = self.value(gold, before)  # 1.5 m = 150 cm
        if difference is None or exact == len(answer.ops):
            return difference
        rounded = isinstance(gold, Atom) and atoms.is_decimal(gold)
        return self.value(gold, answer.sides[-1]) if rounded or is_name(value) else difference

    def equations(self, gold: Relation, answer: Relation) -> str | None:
        exact = answer.ops.index("approx") if "approx" in answer.ops[1:] else -1
        if is_label(gold.sides[0]) and same_name(gold.sides[0], answer.sides[0]):
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
        if is_statement(gold) and is_statement(answer):  # 1 < 2 is not every other truth
            turned = answer.sides[::-1] if gold.ops == ("ne",) else answer.sides
            return self.pairwise(gold.sides, answer.sides) and self.pairwise(gold.sides, turned)
        if len(gold.ops) > 1:
            return self.pairwise(gold.sides, answer.sides)
        positive = gold.ops[0] in ("lt", "le")
        return self.multiples((gold.sides[0], gold.sides[1]), (answer.sides[0], answer.sides[1]), positive=positive)

    def multiples(self, gold: tuple[Value, Value], answer: tuple[Value, Value], *, positive: bool) -> str | None:
        """2x = 4y and x = 2y are one equation; 2x < 4y and -x < -2y are not one inequality."""
        trees = [tree for side in (*gold, *answer) if (tree := atoms.tree_of(side)) is not None]
        if len(trees) < 4:
            return self.pairwise(gold, answer)
        one, other = (trees[0], trees[1]), (trees[2], trees[3])
        try:
            about_numbers = not any(map(variables, trees))
            same = None if about_numbers else values.proportional(one, other, positive=positive)
        except values.TooLarge as error:
            raise Undecided(f"too large to compute: {error}") from error
        return None if same or (same is None and same_identity(one, other)) else "another relation"

    # single values

    def atom(self, gold: Atom, answer: Atom) -> str | None:
        if atoms.based_number(gold) or atoms.based_number(answer):
            fits = "%" not in (gold.unit, answer.unit) and atoms.bases_fit(gold, answer)
            return None if fits else "another number or base"
        if "%" in (gold.unit, answer.unit) and None in (gold.unit, answer.unit):
            return self.percentages(gold, answer)
        gold, answer = _with_unit_of(answer, gold), _with_unit_of(gold, answer)
        if not atoms.units_fit(gold.unit, answer.unit):
            return f"another unit: {answer.unit}, not {gold.unit}"
        if self.by_text and (gold.text, gold.factor) == (answer.text, answer.factor):
            return None
        if answer.factor == 12 and gold.factor == 1 and self.formulas(gold, replace(answer, factor=1)) is None:
            return None  # 7 dozen is 84, and 7 where dozens are asked for
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
            value = None if variables(gold_tree) else values.constant(gold_tree)
        except ArithmeticError as error:
            raise Undecided(f"the gold answer has no value: {error}") from error
        try:
            stated = values.constant(answer_tree) if constant else None
            if value is not None and stated is not None:
                if self.tolerance is not None:
                    return None if values.within(value, stated, self.tolerance) else "beyond the tolerance"
                if atoms.rounds(gold, answer):
                    return None
            return None if values.equal(gold_tree, answer_tree) else "another value"
        except values.Undefined as error:
            return f"has no value: {error}" if constant else self.symbolic(gold.text, answer.text)
        except values.TooLarge as error:
            raise Undecided(f"too large to compute: {error}") from error

    def symbolic(self, gold: str, answer: str) -> str | None:
        gold, answer = (_P["set_builder"].sub(r"\1", text) for text in (gold, answer))
        try:
            result = symbolic.equivalent(gold, answer)
        except MemoryError:
            raise
        except Exception as error:  # whatever a library raises
            raise Undecided(f"math-verify failed: {type(error).__name__}: {str(error)[:80]}") from error
        if result == "gold unreadable":
            raise Undecided("the gold answer can't be read: math-verify finds no value")
        return {"right": None, "wrong": "not equivalent"}.get(result, "can't be read")


def _gold(reader: Callable[[T], V], gold: T) -> V:
    """What the gold answer is read as; one that nobody can read is nobody's fault but its own."""
    try:
        return reader(gold)
    except Malformed as error:
        raise Undecided(f"the gold answer can't be read: {error}") from error


def _is_singleton(group: Group) -> bool:
    return group.brackets == "{}" and len(group.items) == 1 and group.items[0] != Atom("\\emptyset")


def _letters(value: Value) -> str:
    """Words and names in one spelling, so that \\text{Evelyn} is Evelyn and (C) is C; x and X stay two variables."""
    if isinstance(value, Words):
        return value.text
    if isinstance(value, Atom):
        text = value.text.replace(" ", "")
        return text.lower() if _P["letters"].fullmatch(text) else text
    return repr(value)


def _may_be_one_matrix(gold: Value, answer: Value, texts: str) -> bool:
    """Whether the two may write one matrix or determinant differently: as a multiple, a sum, a number."""
    return "vmatrix" in texts or ("matrix" in texts and type(gold) is not type(answer))


def _may_be_one_set(gold: Value, answer: Value, texts: tuple[str, str]) -> bool:
    """Whether the two may write one set differently: as a union, an inequality, a complement."""
    written = [_P["set_algebra"].search(text) is not None for text in texts]
    if not all(written) and not (any(written) and _is_set(gold) and _is_set(answer)):
        return False
    if any((isinstance(v, Group) and v.brackets == "cup") or _bounds_size(v) for v in (gold, answer)):
        return True
    if any(isinstance(v, Words) or (isinstance(v, Relation) and region(v) is not None) for v in (gold, answer)):
        return False
    return type(gold) is not type(answer)


def _is_set(value: Value) -> bool:
    if isinstance(value, Atom):
        return _P["set_operation"].search(value.text) is not None
    return isinstance(value, Group) and value.brackets in ("{}", "cup")


def _bounds_size(value: Value) -> bool:
    """Whether this is an inequality about |x|."""
    return isinstance(value, Relation) and any(isinstance(s, Atom) and s.text.startswith("|") for s in value.sides)


def _with_unit_of(other: Atom, atom: Atom) -> Atom:
    """5 m is 5 metres, where the other says that m is a unit."""
    if other.unit and not atom.unit and (match := _P["trailing_word"].match(atom.text)):
        if canonical_unit(re.sub(r"[{}\s]", "", match[2])) == other.unit:
            return replace(atom, text=match[1], unit=other.unit)
    return atom


def _ratio(percent: Atom) -> Atom:
    return replace(percent, unit=None, text=rf"\frac{{{percent.text}}}{{100}}")
