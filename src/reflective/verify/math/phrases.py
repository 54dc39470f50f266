"""Phrases that stand for a sign: "no solution" for the empty set, "3 to 4" for 3:4, and lists written as text or as
lines: x = 1 \\ y = 2, the solution of a system in cases."""

from __future__ import annotations

import re

from reflective.verify.text import to_latex, without_text

_RATIO = re.compile(r"^(\d+(?:\.\d+)?) to (\d+(?:\.\d+)?)(?: to (\d+(?:\.\d+)?))?$")
_PARAMETER = re.compile(
    r"[,;]?\s*(?:\\text\s*\{[^{}]*\}\s*)?\(?\b[a-z]\s*\\in\s*\\mathbb\s*\{?[ZN]\}?\)?$"
)  # , k \in Z
_SPELLED_LIST = re.compile(r"^\\text\s*\{\s*(?:[-\d(].*\b(?:and|or)\b.*|[-\d.]+)\}$")  # \text{2 and 3}
_TEXT_LIST = re.compile(r"^\\text\s*\{([^{}\d]*,[^{}\d]*)\}$")
_SYSTEM = re.compile(
    r"^(?:\\\{\s*)?\\begin\s*\{(cases|array|align(?:ed|\*)?|gathered)\}(?:\s*\{[lcr| ]*\})?(.*)\\end\s*\{\1\}$"
)
_LINE_BREAK = re.compile(r"\\\\(?![A-Za-z]{2})")
_EQUATION = re.compile(r"[^,&<>=]+&?\s*=\s*&?[^,&<>=]+")
_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_PHRASES = tuple(
    (re.compile(pattern, re.IGNORECASE), meaning)
    for pattern, meaning in (
        (r"(?:there (?:is|are) )?no (?:real |such )?(?:solutions?|roots?|answers?)(?: exists?)?", r"\emptyset"),
        (r"(?:the )?empty set", r"\emptyset"),
        (r"(?:the )?(?:set of )?(?:all )?(?:real numbers|reals)|all real (?:x|values(?: of x)?)", r"\mathbb{R}"),
        (r"(?:there are )?infinitely many(?: solutions)?|infinite(?: number of)? solutions", "infinitely many"),
        (r"(?:all |the )?(?:set of )?(?:the )?integers", r"\mathbb{Z}"),
        (r"(?:positive )?infinity", r"\infty"),
        (r"(?:negative |minus |-)infinity", r"-\infty"),
        (r"dne|(?:the limit )?does not exist", "does not exist"),
        (r"(?:12:?0?0? )?(?:at )?noon", "12 pm"),
        (r"(?:12:?0?0? )?(?:at )?midnight", "12 am"),
    )
)

_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
NUMBERS = dict(
    zip((*_ONES, *(ten + one for ten in _TENS for one in ("", *(f"-{one}" for one in _ONES[1:10])))), range(100))
)


def plain(text: str) -> str:
    """`text` in plain LaTeX, with the phrases that stand for a sign in its place."""
    text = _PARAMETER.sub("", to_latex(text))
    system = _SYSTEM.match(text)
    lines = [line.strip(" ,;.") for line in _LINE_BREAK.split(system[2] if system else text)]
    if len(lines) > 1 and all(map(_EQUATION.fullmatch, lines)):
        return ", ".join(lines).replace("&", "")
    if system and all(line.lstrip("& ").startswith("=") for line in lines[1:]):  # x = 6 * 7 \\ = 42
        return " ".join(lines).replace("&", "")
    words = " ".join(without_text(text).split()).strip(" .")
    if (number := NUMBERS.get(words.lower().replace(" ", "-"))) is not None:
        return str(number)
    for pattern, meaning in _PHRASES:
        if pattern.fullmatch(words):
            return meaning
    if _SPELLED_LIST.match(text):
        text = words
    if match := _RATIO.match(words):
        return ":".join(part for part in match.groups() if part)
    if match := _TEXT_LIST.match(text):
        return ", ".join(rf"\text{{{part.strip()}}}" for part in match[1].split(","))
    return text
