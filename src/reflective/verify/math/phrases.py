"""Phrases that stand for a sign: "no solution" for the empty set, "3 to 4" for 3:4, and lists written as text or as
lines: x = 1 \\ y = 2, the solution of a system in cases."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from reflective.verify.text import patterns, to_latex, without_text

_P = patterns("math/shapes.toml", "phrases")
_TABLES = tomllib.loads((Path(__file__).parent / "words.toml").read_text(encoding="utf-8"))
_ONES, _TENS = (_TABLES["english"][name].split() for name in ("ones", "tens"))
_PHRASES = [(re.compile(pattern, re.IGNORECASE), meaning) for meaning, pattern in _TABLES["meanings"].items()]
NUMBERS = dict(
    zip((*_ONES, *(ten + one for ten in _TENS for one in ("", *(f"-{one}" for one in _ONES[1:10])))), range(100))
)
ABROAD = {
    word: value for words in _TABLES["from_two"].values() for value, word in enumerate(words.split(), 2) if word != "-"
}
_WORDS = ABROAD | NUMBERS
_PARTS: dict[str, int] = _TABLES["parts"]
_COUNT = rf"\d+|an?|{'|'.join(sorted(NUMBERS, key=len, reverse=True))}"
SHARE = rf"(?:(?P<whole>{_COUNT}) and )?(?P<count>{_COUNT})[- ](?P<part>{'|'.join(_PARTS)})s?"  # two and a half
_SHARE = re.compile(SHARE)


def plain(text: str) -> str:
    """`text` in plain LaTeX, with the phrases that stand for a sign in its place."""
    text = _P["parameter"].sub("", to_latex(text))
    system = _P["system"].match(text)
    lines = [line.strip(" ,;.") for line in _P["line_break"].split(system[2] if system else text)]
    if len(lines) > 1 and all(map(_P["equation"].fullmatch, lines)):
        return ", ".join(lines).replace("&", "")
    if system and all(line.lstrip("& ").startswith("=") for line in lines[1:]):  # x = 6 * 7 \\ = 42
        return " ".join(lines).replace("&", "")
    words = " ".join(without_text(text).split()).strip(" .")
    if (word := words.lower().replace(" ", "-")) in _WORDS:
        return str(_WORDS[word])
    if share := _SHARE.fullmatch(words.lower()):
        whole, count = (word and NUMBERS.get(word, word if word.isdigit() else 1) for word in share.groups()[:2])
        return rf"{whole or ''}\frac{{{count}}}{{{_PARTS[share['part']]}}}"
    if excepted := _P["except"].fullmatch(words):
        return rf"\mathbb{{R}}\setminus\{{{re.sub('and|or', ',', excepted[1])}\}}"
    for pattern, meaning in _PHRASES:
        if match := pattern.fullmatch(words):
            return match.expand(meaning)
    if _P["spelled_list"].match(text):
        text = words
    if match := _P["text_list"].match(text):
        return ", ".join(rf"\text{{{part.strip()}}}" for part in match[1].split(","))
    return text
