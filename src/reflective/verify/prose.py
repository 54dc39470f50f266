"""Numbers, formulas and emphasis in running text, in the languages and the Markdown that models write.

A number ends where its digits end: "15m" holds 15, "2x" and "5th" hold none. A time of day, a ratio, a power, a
fraction of two numbers and a mixed number are one number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from reflective.verify.math.phrases import ABROAD, NUMBERS, SHARE
from reflective.verify.math.units import UNIT_NAMES
from reflective.verify.text import patterns

MAX_GAP_CHARS = 40  # between two answers of one list

_P = patterns(
    "prose.toml",
    units="|".join(sorted((re.escape(n) for n in UNIT_NAMES if n.isascii()), key=len, reverse=True)),
    abroad="|".join(sorted(ABROAD, key=len, reverse=True)),
    share=re.sub(r"\?P<\w+>", "?:", SHARE),
    numbers="|".join(sorted(set(NUMBERS) - {"one"}, key=len, reverse=True)),
)
NUMBER, PROSE, BULLET = _P["number"], _P["prose"], _P["bullet"]


@dataclass(frozen=True, slots=True)
class Found:
    """A formula, a number or a list of them, and where it stands."""

    start: int
    end: int
    text: str
    name: bool = False  # only a variable, which is no answer where there is another


def without_emphasis(text: str) -> str:
    """`text` without the marks of bold, italics and code around words; products and powers keep their stars."""
    text = _P["tags"].sub("", text)
    for name in ("bold", "italics", "code"):
        text = _P[name].sub(r"\2", text)
    return text


def without_parentheses(text: str) -> str:
    """`text` without the remarks in parentheses behind its numbers: "25 (a quarter of 100)", "90° (= π/2)"."""
    kept: list[str] = []
    end = 0
    for match in _P["aside"].finditer(text):
        if match["aside"] and any(map(str.isdigit, "".join(kept[-1:]).rpartition("\n")[2] + text[end : match.start()])):
            kept.append(text[end : match.start()])
            end = match.end()
    return "".join(kept) + text[end:]


def without_quotes(text: str) -> str:
    return _P["quotation"].sub("", text)


def without_bullets(text: str) -> str:
    return BULLET.sub("", text) if "\n" in text else text


def without_labels(text: str) -> str:
    """A list whose values are labelled, as one with commas: "3 (b) 8" as "3, 8"."""
    return _P["next_part"].sub(", ", text)


def listed(text: str) -> str:
    """The values that a text ends with, one in a line, as one list: "The roots are:\\n- x = 2\\n- x = 3"."""
    *head, items = _P["list_head"].split(text)
    lines = [line.strip() for line in items.splitlines() if line.strip()] if head else []
    values = [BULLET.sub("", line).strip(" .,;$") for line in lines]
    if len(values) < 2 or not all(map(BULLET.match, lines)) or not all(map(_P["item"].fullmatch, values)):
        return ""
    return ", ".join(values)


def words(text: str) -> str:
    """What the last line states in words: its only number, or the name or property behind its last "is"; else ""."""
    line = text.strip().rpartition("\n")[2]
    if len(spelled := [*_P["spelled"].finditer(line)] or [*_P["spelled_abroad"].finditer(line)]) == 1:
        return spelled[0][spelled[0].lastindex or 0]
    said = _P["said"].search(line)
    return said[said.lastindex or 0] if said else ""


def bold(text: str) -> list[str]:
    """What is in bold, in order; headings, which end in a colon, are left out."""
    found = [match[2] for match in _P["bold"].finditer(text) if not text[match.end() :].startswith((":", "："))]
    return [content for content in found if not content.endswith((":", "："))]


def are_one_list(between: str) -> bool:
    """Whether what stands between two answers only joins them: "and", "or", a comma, space, the next one's name."""
    joined = _P["between"].fullmatch(_P["markup"].sub(" ", between)) or _P["next_part"].fullmatch(between)
    return len(between) <= MAX_GAP_CHARS and joined is not None


def formulas(text: str, *, bare: bool = False) -> list[Found]:
    """The formulas between dollars or brackets, and fractions and roots (all, where `bare`) that stand without them;
    lists of them as one."""
    found: list[Found] = []
    for match in (_P["any_span"] if bare else _P["span"]).finditer(text):
        content = _P["currency"].sub("", match[match.lastindex or 0].strip())
        if match.lastgroup == "spaced" and PROSE.search(content):  # costs $ 5 and then $ 6
            continue
        if match.lastgroup == "bare" and not (content := _stated_by(content)):
            continue
        gap = text[found[-1].end : match.start()] if found and not found[-1].name else "-"
        joined = are_one_list(gap) and (match.lastgroup != "bare" or bool(_P["markup"].sub("", gap)))
        either = joined and _P["inequality"].search(content) and "or" in gap
        new = Found(match.start(), match.end(), content, _P["name"].fullmatch(content) is not None)
        _append(found, new, joined, " or " if either else ", ")
    return [
        replace(one, text=value) if text[one.start] not in "$\\" and NUMBER.fullmatch(value) else one
        for one, value in ((one, _P["assigned"].sub("", one.text)) for one in found)
    ]


def _stated_by(run: str) -> str:
    """What a formula in prose states: of 2 + 3 = 5 the 5. "" where it is only a number or no formula."""
    sides = _P["equality"].split(run)
    if len(sides) > 1 and not re.search("[A-Za-z]", sides[0]):
        run = sides[-1].strip()
    plain = NUMBER.fullmatch(run) or (_P["unit_power"].fullmatch(run) and (NUMBER.match(run) or not run[0].isdigit()))
    return run if _P["formula"].match(run) and not plain else ""


def numbers(text: str) -> list[Found]:
    """The numbers, each with its magnitude (5 million); lists of them as one."""
    found: list[Found] = []
    for match in NUMBER.finditer(text):
        magnitude = _P["magnitude"].match(text, match.end())
        end = magnitude.end() if magnitude else match.end()
        content = match[0] + (magnitude[0] if magnitude else "")
        gap = text[found[-1].end : match.start()] if found else ""
        _append(found, Found(match.start(), end, content), bool(gap.strip()) and are_one_list(gap))
    return found


def with_magnitude(found: Found, text: str) -> str:
    """The text of a formula and of the word behind it: $5$ million."""
    behind = _P["magnitude"].match(text, found.end)
    return found.text + (behind[0] if behind else "")


def _append(found: list[Found], new: Found, joined: bool, by: str = ", ") -> None:
    if joined:
        last = found.pop()
        new = Found(last.start, new.end, last.text + by + new.text)
    found.append(new)
