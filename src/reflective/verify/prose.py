"""Numbers, formulas and emphasis in running text, in the languages and the Markdown that models write.

A number ends where its digits end: "15m" holds 15, "2x" and "5th" hold none. A time of day, a ratio, a power, a
fraction of two numbers and a mixed number are one number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from reflective.verify.math.units import UNIT_NAMES

MAX_GAP_CHARS = 40  # between two answers of one list

_JOINING = "and|or|orelse|aswellas|und|oder|et|ou|y|o|e|и|или|和|或|与|及|、|，|,|；|;"
_BETWEEN = re.compile(rf"(?:{_JOINING})*(?:\w{{1,3}}=)?", re.IGNORECASE)
_MARKUP = re.compile(
    r"\\(?:text|mathrm|q?quad|left|right|lor|vee|land|[,;:!> ])(?![A-Za-z])|\\\\|[\s$&(){}\[\]*]|\\[()\[\]]"
)

_UNITS = "|".join(sorted((re.escape(n) for n in UNIT_NAMES if n.isascii()), key=len, reverse=True))
_DIGITS = r"(?>\d+(?:,\d+)*(?:\.\d+)?|(?<!\d)\.\d+)"
_ENDS = rf"(?![A-Za-z0-9_])|(?=(?:{_UNITS})(?:[²³]|\b))"
NUMBER = re.compile(
    r"(?<![A-Za-z0-9_.^])(?<!in base )(?:(?<![\d)\]}])[-−–]\s?)?(?:\\?[$€£¥])?"
    rf"(?>{_DIGITS}(?::\d+)*(?:\s\d+/\d+|/\d+)?(?:[eE][-+]?\d+(?!\w))?"
    r"(?:\s*(?:×|\*|\\times|\\cdot|·|x)\s*10\s*(?:\^\s*\{?\s*[-−]?\d+\}?|[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)|\^\{?-?\d+\}?)?)"
    rf"(?:\s?(?:[ap]m\b|[ap]\.m\.)|\s?\\?%|°)?(?:{_ENDS})",
    re.IGNORECASE,
)
_MAGNITUDE = re.compile(r"\s*(?:(?:hundred|thousand|million|billion|trillion|dozen|percent)\b|\\?%)")
_SPAN = re.compile(
    r"\$\$(.{1,500}?)\$\$|(?<!\\)\$(?!\s)((?:\\\$|[^$\n]){1,500}?)(?<!\s)\$(?!\d)"
    r"|(?<!\\)\$[ \t]*([^$\n]{1,500}?)[ \t]*\$(?!\s*\d)|\\\((.{1,500}?)\\\)|\\\[(.{1,500}?)\\\]"
    r"|(-?\d*\s?(?:\\(?:[dt]?frac\s*\{[^{}]*\}\s*\{[^{}]*\}|sqrt\s*(?:\[\d\])?\{[^{}]*\})(?:\s*\\pi)?|√\s?\d+)+)",
    re.DOTALL,
)
_CURRENCY = re.compile(r"^(?:\\text\{\\?\$\}|\\(?:text|math)dollar(?![A-Za-z])|\\\$)\s*")
_INEQUALITY = re.compile(r"[<>]|\\[lg]eq?(?![A-Za-z])")
_NAME = re.compile(r"\\?[A-Za-z]+(?:_\{?\w+\}?)?'?(?:\([A-Za-z, ]*\))?")
_EMPHASIS = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?<![\w*)])(\*{2,3}|__)(?=\S)([^*\n]{1,500}?)(?<=\S)\1(?![\w*(])",
        r"(?<![\w*)\\])([*])(?=[^\s*])([^*\n]{1,500}?)(?<=[^\s*])\1(?![\w*(])",
        r"(?<![\w`\\])([_`])(?=[^\s_`])([^_`\n]{1,500}?)(?<=[^\s_`])\1(?![\w`(])",
    )
)
_TAGS = re.compile(r"</?(?:b|strong|i|em|u|span|p|br)\b[^<>]{0,100}>|~~[^~\n]{1,200}~~", re.IGNORECASE)
_FUNCTIONS = "sin|cos|tan|cot|sec|csc|arc[a-z]+|log|exp|sqrt|frac|inf|infty|infinity|and"
PROSE = re.compile(
    rf"(?<![\\A-Za-z])(?!(?:{_FUNCTIONS})(?![A-Za-z]))(?:[A-Za-z\u00c0-\u024f\u1ea0-\u1eff]{{3,}}|(?i:it|is|am|so|we|to|of|by|at|as|be|he|my|if|ok)|In|On|No)"
    r"(?![A-Za-z])|[^\x00-\u024f\u0370-\u03ff\u2000-\u2bff\uff00-\uffef]{2,}"
)


@dataclass(frozen=True, slots=True)
class Found:
    """A formula, a number or a list of them, and where it stands."""

    start: int
    end: int
    text: str
    name: bool = False  # only a variable, which is no answer where there is another


def without_emphasis(text: str) -> str:
    """`text` without the marks of bold, italics and code around words; products and powers keep their stars."""
    for pattern in _EMPHASIS:
        text = pattern.sub(r"\2", text)
    return _TAGS.sub("", text)


def bold(text: str) -> list[str]:
    """What is in bold, in order; headings, which end in a colon, are left out."""
    found = [match[2] for match in _EMPHASIS[0].finditer(text) if not text[match.end() :].startswith((":", "："))]
    return [content for content in found if not content.endswith((":", "："))]


def are_one_list(between: str) -> bool:
    """Whether what stands between two answers only joins them: "and", "or", a comma, space, the next one's name."""
    return len(between) <= MAX_GAP_CHARS and _BETWEEN.fullmatch(_MARKUP.sub("", between)) is not None


def formulas(text: str) -> list[Found]:
    """The formulas between dollars or brackets, and fractions and roots that stand bare; lists of them as one."""
    found: list[Found] = []
    for match in _SPAN.finditer(text):
        content = _CURRENCY.sub("", match[match.lastindex or 0].strip())
        if match.lastindex == 3 and PROSE.search(content):  # costs $ 5 and then $ 6
            continue
        joined = bool(found) and not found[-1].name and are_one_list(text[found[-1].end : match.start()])
        either = joined and _INEQUALITY.search(content) and "or" in text[found[-1].end : match.start()]
        new = Found(match.start(), match.end(), content, _NAME.fullmatch(content) is not None)
        _append(found, new, joined, " or " if either else ", ")
    return found


def numbers(text: str) -> list[Found]:
    """The numbers, each with its magnitude (5 million); lists of them as one."""
    found: list[Found] = []
    for match in NUMBER.finditer(text):
        magnitude = _MAGNITUDE.match(text, match.end())
        end = magnitude.end() if magnitude else match.end()
        content = match[0] + (magnitude[0] if magnitude else "")
        gap = text[found[-1].end : match.start()] if found else ""
        _append(found, Found(match.start(), end, content), bool(gap.strip()) and are_one_list(gap))
    return found


def with_magnitude(found: Found, text: str) -> str:
    """The text of a formula and of the word behind it: $5$ million."""
    behind = _MAGNITUDE.match(text, found.end)
    return found.text + (behind[0] if behind else "")


def _append(found: list[Found], new: Found, joined: bool, by: str = ", ") -> None:
    if joined:
        last = found.pop()
        new = Found(last.start, new.end, last.text + by + new.text)
    found.append(new)
