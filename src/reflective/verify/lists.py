"""Kind "list": the same items in the same order, as [1, 2, 3], ["1", "2"] or 1, 2, 3; lists may hold lists.

Quotation marks and spaces around items don't matter, brackets around all of it neither. Two items are equal when they
are the same text, or the same exact number (27.0 and 27). Nothing is evaluated.
"""

from __future__ import annotations

import json
import re
from fractions import Fraction

from reflective.types import Problem, Verdict
from reflective.verify.text import clean, strip_delimiters

MAX_CHARS = 20_000

Item = str | Fraction | tuple["Item", ...]

_TOKEN = re.compile(r"\s*(?:([\[\](),])|\"([^\"]*)\"|'([^']*)'|([^\[\](),\"']+))\s*")
_AS_JSON = {"(": "[", ")": "]"}
_LAST_COMMA = re.compile(r",(?=\]|$)")
_NUMBER = re.compile(r"[-+]?\d{1,40}(?:\.\d{0,40})?")


class NotAList(ValueError):
    """The text is no list."""


def read_list(text: str) -> tuple[Item, ...]:
    """The items of a list; a single item is a list of one. Raises `NotAList`."""
    if len(text) > MAX_CHARS:
        raise NotAList(f"longer than {MAX_CHARS:,} characters")
    text = strip_delimiters(clean(text))
    if text.count("(") != text.count(")"):
        raise NotAList("an open bracket")
    try:
        read = json.loads(f"[{_LAST_COMMA.sub('', _TOKEN.sub(_json, text))}]")
    except (ValueError, RecursionError) as error:
        raise NotAList(str(error)) from error
    while len(read) == 1 and isinstance(read[0], list):  # brackets around all of it
        read = read[0]
    return tuple(map(_item, read))


def _json(token: re.Match[str]) -> str:
    """A bracket or comma as it is in JSON, an item as a string."""
    sign, *items = token.groups()
    return _AS_JSON.get(sign, sign) or json.dumps(next(item for item in items if item is not None).strip())


def _item(read: object) -> Item:
    if isinstance(read, list):
        return tuple(map(_item, read))
    text = str(read)
    return Fraction(text.rstrip(".")) if _NUMBER.fullmatch(text) else text


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
