"""What equations and inequalities say: which define a name, which are statements, which bound a region."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from reflective.verify.math import atoms
from reflective.verify.math.formula import Variable, variables
from reflective.verify.math.notation import Atom, Group, Relation, Value, Words
from reflective.verify.text import patterns

_P = patterns("math/shapes.toml", "relations")
_Y = Atom("y")
INFINITY, MINUS_INFINITY = Atom("\\infty"), Atom("-\\infty")

_TURNED = {"gt": "lt", "ge": "le", "lt": "gt", "le": "ge"}


def is_equation(relation: Relation) -> bool:
    return all(op in ("eq", "approx") for op in relation.ops)


def is_variable(value: Value) -> bool:
    """Whether this is one variable: x, a_n, \\theta."""
    return isinstance(value, Atom) and value.unit is None and isinstance(atoms.tree_of(value), Variable)


def is_name(value: Value) -> bool:
    """Whether this can stand left of a definition: a variable, f(x), AB, words."""
    if isinstance(value, Words):
        return True
    if not isinstance(value, Atom) or value.unit is not None:
        return False
    names = (_P["function_name"], _P["segment_name"], _P["other_name"])
    return is_variable(value) or any(pattern.match(value.text) for pattern in names)


def is_label(value: Value) -> bool:
    """Whether this names an answer: a name, or several of them as in (x, y) = (2, 5) and a:b = 3:4."""
    return all(map(is_name, value.items)) if isinstance(value, Group) else is_name(value)


def same_name(gold: Value, answer: Value) -> bool:
    """Whether both sides name the same; f(x) may be called y."""
    if gold == answer:
        return True
    if isinstance(gold, Words) or isinstance(answer, Words):
        texts = [v.text.replace(" ", "").lower() for v in (gold, answer) if isinstance(v, Words | Atom)]
        return len(texts) == 2 and texts[0] == texts[1]
    if isinstance(gold, Atom) and isinstance(answer, Atom) and gold.text != answer.text:
        bare = [_P["index"].sub("", atom.text) for atom in (gold, answer)]
        if bare[0] == bare[1] and (gold.text in bare or answer.text in bare):  # x_1 may be called x
            return True
    return any(
        y == _Y and isinstance(f, Atom) and _P["of_x"].match(f.text) for f, y in ((gold, answer), (answer, gold))
    )


def by_name(relation: Relation) -> Relation:
    """(y, x) = (5, 2) as (x, y) = (2, 5), and b:a = 4:3 as a:b = 3:4."""
    match relation.sides:
        case (Group(_, names) as label, Group(_, named) as value) if label.ordered and len(names) == len(named):
            order = sorted(range(len(names)), key=lambda i: repr(names[i]))
            sides = (replace(group, items=tuple(group.items[i] for i in order)) for group in (label, value))
            return replace(relation, sides=tuple(sides))
    return relation


def is_statement(relation: Relation) -> bool:
    """Whether a relation is about numbers alone: true or false, and not a condition."""
    return all(map(atoms.is_number, relation.sides))


def contains_name(sides: Sequence[Value], name: Value) -> bool:
    """Whether one of several sides holds the variable `name`, so that nothing is defined."""
    label, trees = atoms.tree_of(name), [atoms.tree_of(side) for side in sides]
    if not isinstance(label, Variable) or len(sides) < 2:
        return False
    return any(label.name in variables(tree) for tree in trees if tree is not None)


def names_each(definitions: Group, bare: Group) -> tuple[list[Value], Sequence[Value]] | None:
    """Where one list defines different names (x = 1, y = 2) and the other is bare: the values of the names in
    alphabetical order, and the bare ones in theirs. Names that differ in their index only have no order."""
    if bare.brackets not in ("", "()") or definitions.brackets or len(definitions.items) < 2:
        return None
    named: dict[str, Value] = {}
    for item in definitions.items:
        if not isinstance(item, Relation) or not is_equation(item) or not isinstance(item.sides[0], Atom):
            return None
        if not is_name(item.sides[0]) or len(item.sides) != 2:
            return None
        named[item.sides[0].text] = item.sides[1]
    if len(named) < len(definitions.items) or any(isinstance(item, Relation) for item in bare.items):
        return None
    if len({_P["index"].sub("", name) for name in named}) == 1:
        return None if bare.brackets == "" else (list(named.values()), bare.items)
    return [named[name] for name in sorted(named, key=lambda name: name.strip("\\"))], bare.items


def less(relation: Relation) -> Relation:
    """The relation with < and <= only: a > b is b < a."""
    if relation.ops[0] not in ("gt", "ge"):
        return relation
    return Relation(relation.sides[::-1], tuple(_TURNED.get(op, op) for op in relation.ops[::-1]))


def region(relation: Relation) -> tuple[Value, Group] | None:
    """(variable, interval) of x > 2 or 1 < x <= 5."""
    relation = less(relation)
    ops, sides = relation.ops, relation.sides
    if any(op not in ("lt", "le") for op in ops):
        return None
    if len(sides) == 2 and isinstance(sides[0], Atom) and (match := _P["size"].match(sides[0].text)):
        if isinstance(sides[1], Atom):  # |x - 2| < 3
            centre, radius = f"({match[2] or 0})", f"({sides[1].text})"
            sides = Atom(f"-{radius}-{centre}"), Atom(match[1]), Atom(f"{radius}-{centre}")
            ops = ops * 2
    if len(sides) == 2 and is_variable(sides[0]):
        sides, ops = (MINUS_INFINITY, *sides), ("lt", *ops)
    elif len(sides) == 2 and is_variable(sides[1]):
        sides, ops = (*sides, INFINITY), (*ops, "lt")
    if len(sides) != 3 or not is_variable(sides[1]):
        return None
    brackets = ("[" if ops[0] == "le" else "(") + ("]" if ops[1] == "le" else ")")
    return sides[1], Group(brackets, (sides[0], sides[2]))
