"""What equations and inequalities say: which are definitions, and which regions the inequalities bound."""

from __future__ import annotations

import re

from reflective.verify.math import formula
from reflective.verify.math.formula import Malformed, Unsupported
from reflective.verify.math.notation import Atom, Group, Relation, Value, Words

INFINITY, MINUS_INFINITY = Atom("\\infty"), Atom("-\\infty")

_FUNCTION_NAME = re.compile(r"^[A-Za-z](?:'|\^\s*\{-1\}|_\{?\w+\}?)*\s*\([^()]*\)$")  # f(x), P(A), f^{-1}(x)
_SEGMENT_NAME = re.compile(r"^(?:\\(?:angle|triangle|overline)\s*\{?\s*)?[A-Z]{1,4}\s*\}?$")  # AB, \angle ABC
_UPWARDS = {"gt": "lt", "ge": "le"}
_DOWNWARDS = {"lt": "gt", "le": "ge"}


def is_equation(relation: Relation) -> bool:
    return all(op in ("eq", "approx") for op in relation.ops)


def is_variable(value: Value) -> bool:
    """Whether this is one variable: x, a_n, \\theta."""
    if not isinstance(value, Atom) or value.unit is not None:
        return False
    try:
        return isinstance(formula.parse(value.text), formula.Variable)
    except (Malformed, Unsupported):
        return False


def is_name(value: Value) -> bool:
    """Whether this can stand left of a definition: a variable, f(x), AB, words."""
    if isinstance(value, Words):
        return True
    if not isinstance(value, Atom) or value.unit is not None:
        return False
    return is_variable(value) or any(p.match(value.text) is not None for p in (_FUNCTION_NAME, _SEGMENT_NAME))


def names_each(definitions: Group, bare: Group) -> bool:
    """Whether one list defines different names (x = 1, y = 2) and the other is bare: then the order counts."""
    names = {item.sides[0] for item in definitions.items if isinstance(item, Relation) and is_equation(item)}
    return len(names) == len(definitions.items) > 1 and not any(isinstance(item, Relation) for item in bare.items)


def less(relation: Relation) -> Relation:
    """The relation with < and <= only: a > b is b < a."""
    if relation.ops[0] not in _UPWARDS:
        return relation
    return Relation(relation.sides[::-1], tuple(_UPWARDS[op] for op in relation.ops if op in _UPWARDS))


def region(relation: Relation) -> tuple[Value, Group] | None:
    """(variable, interval) of x > 2 or 1 < x <= 5."""
    ops, sides = relation.ops, relation.sides
    if any(op in _UPWARDS for op in ops):
        ops, sides = tuple(_UPWARDS.get(op, _DOWNWARDS.get(op, op)) for op in reversed(ops)), sides[::-1]
    if any(op not in ("lt", "le") for op in ops):
        return None
    if len(sides) == 2 and is_variable(sides[0]):
        sides, ops = (MINUS_INFINITY, *sides), ("lt", *ops)
    elif len(sides) == 2 and is_variable(sides[1]):
        sides, ops = (*sides, INFINITY), (*ops, "lt")
    if len(sides) != 3 or not is_variable(sides[1]):
        return None
    brackets = ("[" if ops[0] == "le" else "(") + ("]" if ops[1] == "le" else ")")
    return sides[1], Group(brackets, (sides[0], sides[2]))
