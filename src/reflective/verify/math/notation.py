"""What a final answer consists of: numbers, words, times of day, tuples, intervals, sets, lists, matrices, equations.

`read` turns one plain string into one frozen value and says nothing about its meaning beyond its shape. Brackets
belong to the answer: (1, 2), [1, 2], {1, 2} and the bare list 1, 2 are four different things. Leaves are kept as
text; formulas are parsed only when they are compared.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from reflective.verify.math.clock import Clock, read_clock, read_date
from reflective.verify.math.formula import Malformed, Unsupported
from reflective.verify.math.units import MAGNITUDES, compound, split_unit
from reflective.verify.text import MAX_ANSWER_CHARS, patterns, without_text

MAX_ITEMS = 64
MAX_NESTING = 60


@dataclass(frozen=True, slots=True)
class Atom:
    """A number or a formula, as text, with its unit ("%", "deg", "cm", ...) apart and its factor (5 million)."""

    text: str
    unit: str | None = None
    factor: int = 1


@dataclass(frozen=True, slots=True)
class Words:
    """An answer in words, in lower case."""

    text: str


@dataclass(frozen=True, slots=True)
class Group:
    """Several values. `brackets` says how they are held together: "()", "[)", "{}", a bare list "", "cup", ":" ..."""

    brackets: str
    items: tuple[Value, ...]

    @property
    def ordered(self) -> bool:
        """Whether the order of the items counts: not in sets, unions and bare lists of answers."""
        return self.brackets not in ("", "{}", "cup")


@dataclass(frozen=True, slots=True)
class Relation:
    """sides[0] ops[0] sides[1] ops[1] ...: an equation, an inequality or a chain of them."""

    sides: tuple[Value, ...]
    ops: tuple[str, ...]


Value = Atom | Words | Group | Relation | Clock

_P = patterns("math/shapes.toml", "notation")
_RELATION_NAMES = {"<=": "le", ">=": "ge", "!=": "ne", "=": "eq", "<": "lt", ">": "gt"}
_SHORT_WORDS = frozenset("yes no odd all any".split())
_FORMULA_WORDS = frozenset("sqrt infinity infty sin cos tan log exp".split())


@lru_cache(maxsize=4096)
def read(text: str) -> Value:
    """The value that `text` (see `phrases.plain`) writes; raises Malformed or Unsupported where it writes none."""
    if len(text) > MAX_ANSWER_CHARS:
        raise Malformed(f"longer than {MAX_ANSWER_CHARS} characters")
    if "\ufffd" in text:
        raise Malformed("characters that can't be printed")
    braces = [(match[0] == "{") - (match[0] == "}") for match in re.finditer(r"\\.|[{}]", text)]
    if sum(braces) or min(accumulate(braces), default=0) < 0:
        raise Malformed("unbalanced braces")
    if len(text) > MAX_NESTING and max(_levels(text)) > MAX_NESTING:
        raise Malformed(f"nested deeper than {MAX_NESTING}")
    return _list(text)


def _levels(text: str) -> list[int]:
    """The bracket level before each character. ( and [ close each other, as in half-open intervals."""
    levels: list[int] = []
    level = 0
    for token in _P["bracket"].findall(text):
        level -= token[-1] in ")]}"
        levels += [level] * len(token)
        level += token[-1] in "([{"
    return levels


def _split(text: str, separator: re.Pattern[str]) -> tuple[list[str], list[str]]:
    """The parts of `text` between the separators outside all brackets, and those separators."""
    if separator.search(text) is None:
        return [text], []
    levels = _levels(text)
    cuts = [match for match in separator.finditer(text) if levels[match.start()] == 0]
    starts, ends = (0, *(cut.end() for cut in cuts)), (*(cut.start() for cut in cuts), len(text))
    return [text[start:end].strip() for start, end in zip(starts, ends)], [cut[0] for cut in cuts]


def _join_thousands(text: str) -> str:
    """12,345 outside brackets (and in LaTeX's own braces) is one number; in (1,234) the comma separates."""
    if "," not in text:
        return text
    shielded = re.sub(r"\\[{}]", "()", text.replace("[", "(").replace("]", ")"))
    levels = list(accumulate((char == "(") - (char == ")") for char in shielded))
    return _P["thousands"].sub(lambda m: m[0].replace(",", "") if levels[m.start()] == 0 else m[0], text)


def _list(text: str) -> Value:
    if (date := read_date(text)) is not None:
        return Words(date)
    if (duration := compound(text)) is not None:
        return Atom(*duration)
    words = _read_words(text)
    if words is not None:
        return words
    text = _join_thousands(text)
    parts, separators = _split(text, _P["separator"])
    if len(parts) > 1:
        # an Oxford comma (", and") leaves an empty part between two separators
        parts = [part for i, part in enumerate(parts) if part or i == 0 or i > len(separators) - 1]
    items = _items(parts, signs=True)
    if len(items) == 1:
        return items[0]
    if all(_P["or"].search(separator) for separator in separators) and any(map(_is_inequality, items)):
        if all(isinstance(item, Relation) and len(item.sides) > 1 for item in items):
            return Group("cup", tuple(map(_point, items)))  # x < 2 or x > 5
    return _between(items) or Group("", items)


def _items(parts: list[str], *, signs: bool) -> tuple[Value, ...]:
    """The values of a list's parts; with `signs`, a part with ± is two."""
    if signs:
        parts = [sign for part in parts for sign in _plus_minus(part)]
    if len(parts) > MAX_ITEMS:
        raise Malformed(f"more than {MAX_ITEMS} items")
    return tuple(map(_relation, parts))


def _between(items: tuple[Value, ...]) -> Relation | None:
    """x >= 2 and x < 8 as 2 <= x < 8."""
    for lower, upper in (items, items[::-1]) if len(items) == 2 else ():
        match lower, upper:
            case Relation((name, low), ("gt" | "ge" as first,)), Relation((same, high), ("lt" | "le" as second,)):
                if name == same:
                    return Relation((low, name, high), ("lt" if first == "gt" else "le", second))
    return None


def _point(value: Value) -> Value:
    """x = 5 beside inequalities, as the set {5}."""
    match value:
        case Relation((_, number), ("eq",)):
            return Group("{}", (number,))
    return value


def _is_inequality(value: Value) -> bool:
    return isinstance(value, Relation) and "eq" not in value.ops


def _plus_minus(text: str) -> list[str]:
    """3 \\pm x is two answers; inside brackets it is left to the items."""
    signs = list(_P["plus_minus"].finditer(text))
    levels = _levels(text) if signs else []
    if all(levels[sign.start()] > 0 for sign in signs) and (not signs or _outer_brackets(text)):
        return [text]
    if sum(m[1] != "mp" for m in signs) > 1:
        raise Unsupported("more than one ± in one answer")
    upper = _P["plus_minus"].sub(lambda m: "-" if m[1] == "mp" else "+", text)
    lower = _P["plus_minus"].sub(lambda m: "+" if m[1] == "mp" else "-", text)
    return [upper, lower]


def _relation(text: str) -> Value:
    parts, operators = _split(_P["member"].sub("", text), _P["relation"])
    if not operators:
        return _union(parts[0])
    if len(parts) > 12:
        raise Malformed("a chain of more than 12 sides")
    ops = tuple(_RELATION_NAMES.get(op, op.lstrip("\\")) for op in operators)
    return Relation(tuple(map(_union, parts)), ops)


def _union(text: str) -> Value:
    if (clock := read_clock(text)) is not None:
        return clock
    parts, cups = _split(text, _P["cup"])
    if cups:
        return Group("cup", tuple(map(_bracketed, parts)))
    parts, colons = _split(text, _P["colon"])
    if colons and all(parts):
        return Group(":", tuple(map(_bracketed, parts)))
    return _bracketed(text)


def _outer_brackets(text: str) -> tuple[str, str] | None:
    """(kind of brackets, inside) where one pair of brackets holds all of `text`."""
    match = _P["pair"].match(text)
    if match is None or not all(level > 0 for level in _levels(text)[match.start(2) : match.end(2)]):
        return None
    return match[1][-1] + match[3][-1], match[2].strip()


def _bracketed(text: str) -> Value:
    if text.startswith("{") and (outer := _outer_brackets("\\" + text[:-1] + "\\}")):  # {1, 3} for \{1, 3\}
        if "," in outer[1] or not outer[1] or _P["condition"].match(outer[1]):
            text = f"\\{{{outer[1]}\\}}"
    if _P["rows"].match(text):  # [[1, 2], [3, 4]]
        return _matrix("matrix", _P["next_row"].sub(r"\\\\", text.strip("[] ")).replace(",", "&"))
    if match := _P["matrix"].match(text):
        return _matrix("vmatrix" if match["name"] in ("vmatrix", "Vmatrix") else "matrix", match["body"])
    if match := _P["point"].match(text):  # P(2, 5)
        point = _bracketed(match[2])
        return Relation((Atom(match[1]), point), ("eq",)) if isinstance(point, Group) else point
    if (match := _P["outward"].match(text)) and (match[1] == "]" or match[3] == "["):
        text = f"{match[1].replace(']', '(')}{match[2]}{match[3].replace('[', ')')}"
    outer = _outer_brackets(text)
    if outer is not None:
        kind, inside = outer
        if kind in ("()", "[]") and (
            _P["matrix"].match(inside) or _outer_brackets(inside) == ("()", inside[1:-1].strip())
        ):
            return _bracketed(inside)  # ((3, 4)) and a matrix in brackets
        if kind == "{}" and (match := _P["condition"].match(inside)):  # {x : x < 5}
            condition = _list(match[2].strip())
            return condition if match[1] in (None, "R") else Group(f"{{}} of {match[1]}", (condition,))
        if kind == "{}" and not inside:
            return Atom("\\emptyset")
        parts, separators = _split(inside, re.compile(r"[,;]"))
        if separators or kind == "{}":
            return Group(kind, _items(parts, signs=kind == "{}"))
        if kind == "()" and (letter := _P["letter"].match(inside)):
            return Words(letter[1].lower())
    return _leaf(text)


def _matrix(name: str, body: str) -> Group:
    rows = [row.strip() for row in re.split(r"\\\\(?:\s*\[[^\]]*\])?", body)]
    rows = [row for row in rows if row.replace("\\hline", "").strip()]
    cells = [[_list(cell.strip()) for cell in row.split("&")] for row in rows]
    if not cells or len({len(row) for row in cells}) != 1 or len(cells) * len(cells[0]) > MAX_ITEMS:
        raise Unsupported("a matrix of this shape")
    return Group(f"{name} {len(cells)}x{len(cells[0])}", tuple(cell for row in cells for cell in row))


def _read_words(text: str) -> Words | None:
    """The words, where `text` is nothing but words; a run of up to three letters is taken for variables."""
    marked = without_text(text)
    plain = " ".join(marked.replace('"', " ").split()).strip(" .")
    if marked != text and (letter := _P["letter"].match(plain)):
        return Words(letter[1].lower())
    if not _P["words"].fullmatch(plain) or _P["names"].fullmatch(plain):
        return None
    if marked == text and not re.fullmatch("[A-Z][a-z]+", plain):
        longest = max((len(word) for word in re.findall(r"[A-Za-z]+", plain)), default=4)
        if plain.lower() not in _SHORT_WORDS and (longest < 4 or plain in _FORMULA_WORDS):
            return None
    return Words(_P["article"].sub("", plain.lower()))


def _leaf(text: str) -> Value:
    words = _read_words(text)
    if words is not None:
        return words
    core, unit = split_unit(text)
    core, factor = _magnitude(core)
    if unit is not None and (first := unit.split(" ")[0]) in MAGNITUDES:  # 5 million, 5 million dollars
        unit, factor = unit.removeprefix(first).strip(), factor * MAGNITUDES[first]
    if match := _P["spaced_thousands"].match(core):
        core = match[1] + match[2].replace(" ", "") + (match[3] or "")
    if not core:
        raise Malformed("a unit without a number")
    return Atom(core, unit or None, factor)


def _magnitude(core: str) -> tuple[str, int]:
    """\\$5 million: the magnitude between the number and a unit that has been taken off already."""
    head, _, word = core.rpartition(" ")
    name = without_text(word).strip()
    return (head, MAGNITUDES[name]) if head and name in MAGNITUDES else (core, 1)
