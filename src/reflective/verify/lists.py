"""Kind "list": the same items in the same order, as [1, 2, 3], ["1", "2"] or 1, 2, 3; lists may hold lists.

Quotation marks and spaces around items don't matter, brackets around all of it neither. Two items are equal when they
are the same text, or the same exact number (27.0 and 27). Nothing is evaluated.
"""

from __future__ import annotations

import re
from fractions import Fraction

from reflective.types import Problem, Verdict
from reflective.verify.text import clean, strip_delimiters

MAX_CHARS = 20_000
MAX_DEPTH = 20

Item = str | Fraction | tuple["Item", ...]

_TOKEN = re.compile(
    r"\s*(?:(?P<sign>[\[\](),])|\"(?P<double>[^\"]*)\"|'(?P<single>[^']*)'|(?P<bare>[^\[\](),\"']+))\s*"
)
_NUMBER = re.compile(r"[-+]?\d{1,40}(?:\.\d{0,40})?")
_CLOSING = {"[": "]", "(": ")"}


class NotAList(ValueError):
    """The text is no list."""


def read_list(text: str) -> tuple[Item, ...]:
    """The items of a list; a single item is a list of one. Raises `NotAList`."""
    if len(text) > MAX_CHARS:
        raise NotAList(f"longer than {MAX_CHARS:,} characters")
    tokens = _tokens(strip_delimiters(clean(text)))
    items, end = _items(tokens, 0, "", 0)
    if end < len(tokens):
        raise NotAList(f"unexpected {tokens[end][1]!r}")
    while len(items) == 1 and isinstance(items[0], tuple):  # brackets around all of it
        items = items[0]
    return items


def grade_list(problem: Problem, answer: str, *, time_limit_s: float) -> Verdict:
    """Right when both have the same items in the same order."""
    try:
        gold = read_list(problem.answer or "")
    except NotAList as error:
        return Verdict("ungradable", f"the gold answer is no list: {error}")
    try:
        stated = read_list(answer)
    except NotAList as error:
        return Verdict("wrong", f"no list: {error}")
    if stated == gold:
        return Verdict("right", "the same items")
    if len(stated) != len(gold):
        return Verdict("wrong", f"{len(stated)} items, not {len(gold)}")
    place = next(i for i, (one, other) in enumerate(zip(stated, gold)) if one != other)
    return Verdict("wrong", f"another item at place {place + 1}")


def _tokens(text: str) -> list[tuple[str, str]]:
    """(kind, text): a sign, or an item."""
    found, position = [], 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise NotAList(f"unexpected {text[position : position + 10]!r}")
        kind = match.lastgroup or ""
        found.append(("sign" if kind == "sign" else "item", match[kind].strip()))
        position = match.end()
    return found


def _items(tokens: list[tuple[str, str]], at: int, closing: str, depth: int) -> tuple[tuple[Item, ...], int]:
    """The items up to `closing`, and where it stands."""
    if depth > MAX_DEPTH:
        raise NotAList(f"nested deeper than {MAX_DEPTH}")
    items: list[Item] = []
    while at < len(tokens) and tokens[at] != ("sign", closing):
        kind, text = tokens[at]
        if kind == "item":
            items.append(Fraction(text.rstrip(".")) if _NUMBER.fullmatch(text) else text)
        elif text in _CLOSING:
            inner, at = _items(tokens, at + 1, _CLOSING[text], depth + 1)
            if at >= len(tokens):
                raise NotAList(f"{_CLOSING[text]!r} expected, got the end")
            items.append(inner)
        else:
            raise NotAList(f"unexpected {text!r}")
        at += 1
        if at < len(tokens) and tokens[at] == ("sign", ","):
            at += 1
        elif at < len(tokens) and tokens[at] != ("sign", closing):
            raise NotAList(f"a comma expected, got {tokens[at][1]!r}")
    return tuple(items), at
