"""Single numbers and formulas: how one is read, and when a unit, a base or a rounding does not make it another."""

from __future__ import annotations

from fractions import Fraction

from reflective.verify.math import formula, values
from reflective.verify.math.notation import Atom, Value
from reflective.verify.math.phrases import NUMBERS
from reflective.verify.text import patterns

ROUNDED_PLACES = 6  # decimal places (and significant digits) from which on a decimal may stand for an exact value

_P = patterns("math/shapes.toml", "atoms")
_ALIKE = ({"lb", "pound sterling"}, {"¥", "yuan"}, {"¥", "yen"})  # "pounds" and "¥" may be either
_ANY_UNIT = frozenset(("unit", "unit^2", "unit^3", None))


def tree(atom: Atom) -> formula.Node:
    """The formula of an atom; raises Malformed or Unsupported."""
    text = atom.text
    if match := _P["scientific"].match(text):
        text = f"{match[1]} * 10^{{{match[2]}}}"
    elif match := _P["mixed"].match(text):
        text = rf"{match[1]}{match[2].replace(' ', '')}\frac{{{match[3]}}}{{{match[4]}}}"
    elif match := _P["repeating"].match(text):
        sign, whole, fixed, period = match.groups()
        shift = 10 ** len(fixed)
        value = Fraction(int(whole + fixed or "0"), shift) + Fraction(int(period), shift * (10 ** len(period) - 1))
        text = f"{sign}{value.numerator}/{value.denominator}"
    node = formula.parse(text)
    return node if atom.factor == 1 else formula.Call("mul", (node, formula.Number(Fraction(atom.factor))))


def tree_of(value: Value) -> formula.Node | None:
    """The formula of a value; None where it is none, or none that our own reader knows."""
    try:
        return tree(value) if isinstance(value, Atom) else None
    except (formula.Malformed, formula.Unsupported):
        return None


def is_number(value: Value) -> bool:
    """Whether this is a formula without variables."""
    node = tree_of(value)
    return node is not None and not formula.variables(node)


def is_decimal(atom: Atom) -> bool:
    return _P["decimal"].match(atom.text) is not None


def rounds(gold: Atom, answer: Atom) -> bool:
    """Whether one is a long decimal and equals the other, which has no end as a decimal, rounded or cut off there."""
    if is_decimal(gold) == is_decimal(answer):
        return False
    decimal, exact = (gold, answer) if is_decimal(gold) else (answer, gold)
    match = _P["decimal"].match(decimal.text)
    assert match is not None
    sign, whole, fraction = match.groups()
    digits = (whole + fraction).lstrip("0")
    if len(fraction) < ROUNDED_PLACES or len(digits) < ROUNDED_PLACES or len(fraction) > values.DIGITS // 2:
        return False
    value = values.constant(tree(exact))
    if value.imag != 0:
        return False
    scaled = value.real * 10 ** len(fraction)
    half = Fraction(1, 2) if isinstance(scaled, Fraction) else 0.5
    rounded, cut_off = int(scaled + (half if scaled > 0 else -half)), int(scaled)
    return int(sign + whole + fraction) in (rounded, cut_off)


def units_fit(gold: str | None, answer: str | None) -> bool:
    """Whether two units are one: a missing one and "units" fit all, degrees fit degrees Celsius."""
    if gold in _ANY_UNIT or answer in _ANY_UNIT or gold == answer:
        return True
    if {gold, answer} in _ALIKE:
        return True
    return "deg" in (gold, answer) and bool(gold and answer and gold.startswith("deg") and answer.startswith("deg"))


def based_number(atom: Atom) -> tuple[str, int] | None:
    """(digits, base) of a number with its base written below it, such as 52_8."""
    match = _P["based"].match(atom.text)
    if match is None:
        return None
    base = int(match[2]) if match[2].isdigit() else NUMBERS.get(match[2], 0)
    return (
        (match[1].upper().lstrip("0") or "0", base) if base > 1 and all(int(c, 16) < base for c in match[1]) else None
    )


def bases_fit(gold: Atom, answer: Atom) -> bool:
    """52_8 is 52_8 and, where the gold answer has the base, 52; a bare gold answer is decimal."""
    gold_based, answer_based = based_number(gold), based_number(answer)
    if gold_based and answer_based:
        return gold_based == answer_based
    if gold_based:
        return gold_based[0] == answer.text.lstrip("0")
    return answer_based is not None and answer_based == (gold.text.lstrip("0"), 10)
