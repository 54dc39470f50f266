"""Text before it is read: one spelling for what can be written in several ways.

`clean` makes any string safe (no NUL, no unpaired surrogate, ASCII digits). `to_latex` rewrites the spellings of
mathematics (Unicode signs, sized brackets, spaces, `\\dfrac`, `\\mathrm`, surrounding dollars) into one plain LaTeX,
by the tables in text.toml.
Nothing here decides what is equal: a rewriting that could change a value does not belong in this file.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from functools import lru_cache
from pathlib import Path

MAX_ANSWER_CHARS = 2_000  # a final answer is short; longer ones are refused before any work is done on them

_UNSAFE = re.compile("[\ud800-\udfff\x00-\x08\x0b-\x1f\x7f]")
_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))
_TABLES = tomllib.loads((Path(__file__).parent / "text.toml").read_text(encoding="utf-8"))
_SIGN_TABLE = str.maketrans({char: sign for sign, chars in _TABLES["signs"].items() for char in chars})
_ALIASES = {name: meaning for meaning, names in _TABLES["commands"].items() for name in names.split()}
_REWRITINGS = [(re.compile(pattern), replacement) for pattern, replacement in _TABLES["rewritings"]["rules"]]
_VULGAR = re.compile("[¼½¾⅐-⅞]")
_ROOT_SIGN = re.compile(r"√\s*(\d+(?:\.\d+)?)")
_SUPERSCRIPT_RUN = re.compile(f"[{''.join(_SUPERSCRIPTS)}]+")
_SUBSCRIPT_RUN = re.compile(f"[{''.join(_SUBSCRIPTS)}]+")

_WORDS_IN_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_DOLLARS_AND_UNIT = re.compile(r"^\$([^$]*[^$\\])\$\s*([A-Za-z][A-Za-z .]*)$")
_INNER_DOLLARS = re.compile(r"(?<!\\)\$([^$]*[^$\\])\$")
_SQUARE_METRES = re.compile(r"(?<=[\d\s.])([kcdm]?m)([²³])")
_DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("`", "`"))


def patterns(file: str, part: str = "", **known: str) -> dict[str, re.Pattern[str]]:
    """The regular expressions of a file or of a part of it; in one, «name» stands for an earlier or a `known` one."""
    found: dict[str, re.Pattern[str]] = {}
    tables = tomllib.loads((Path(__file__).parent / file).read_text(encoding="utf-8"))
    for name, parts in (tables[part] if part else tables).items():
        whole = re.sub(r"«(\w+)»", lambda m: known[m[1]], "".join(parts))
        found[name] = re.compile(whole)
        known[name] = re.sub(r"^\(\?[ims]+\)", "", whole)
    return found


def clean(text: str) -> str:
    """`text` with every digit in ASCII, and with what can't be printed replaced by U+FFFD, which no gold contains."""
    if text.isascii() and text.isprintable():
        return text
    text = _UNSAFE.sub("\ufffd", text)
    return "".join(str(unicodedata.digit(c)) if c.isdecimal() and not c.isascii() else c for c in text)


def strip_delimiters(text: str) -> str:
    """`text` without surrounding `$`, `\\(`, `\\[`, bold or code marks and without closing punctuation."""
    while True:
        before = text
        text = text.strip().rstrip("。，；").strip()
        if text.endswith("\\") and not text.endswith("\\\\"):
            text = text[:-1]
        if text.endswith((".", ",", ";", ":")) and not text.endswith(("\\,", "\\;", "\\:", "..")):
            text = text[:-1].rstrip()
        for opening, closing in _DELIMITERS:
            inside = text[len(opening) : len(text) - len(closing)]
            if len(text) > len(opening + closing) and text.startswith(opening) and text.endswith(closing):
                if opening not in inside and closing not in inside and not inside.endswith("\\"):
                    text = inside
                    break
        if text == before:
            return text


@lru_cache(maxsize=4096)
def to_latex(text: str) -> str:
    """`text` in one plain spelling of LaTeX; its value is what it was."""
    text = clean(text)
    if not text.isascii():
        text = _SQUARE_METRES.sub(lambda m: rf"\text{{{m[1]}}}^{'2' if m[2] == '²' else '3'}", text)
        # before NFKC, which would turn x² into x2 and 1½ into 11⁄2
        text = _SUPERSCRIPT_RUN.sub(lambda m: "^{" + "".join(_SUPERSCRIPTS[c] for c in m[0]) + "}", text)
        text = _SUBSCRIPT_RUN.sub(lambda m: "_{" + "".join(_SUBSCRIPTS[c] for c in m[0]) + "}", text)
        text = _ROOT_SIGN.sub(r"\\sqrt{\1}", text)
        text = _VULGAR.sub(_vulgar_fraction, text)
        text = unicodedata.normalize("NFKC", text.translate(_SIGN_TABLE)).translate(_SIGN_TABLE)
    text = _DOLLARS_AND_UNIT.sub(r"\1 \\text{\2}", strip_delimiters(text))
    text = _INNER_DOLLARS.sub(r" \1 ", text)
    text = _COMMAND.sub(lambda m: _ALIASES.get(m[1], m[0]), text)
    for pattern, replacement in _REWRITINGS:
        text = pattern.sub(replacement, text)
    return strip_delimiters(text)


def without_text(text: str) -> str:
    """Plain LaTeX with the words of its \\text{} bare."""
    return _WORDS_IN_TEXT.sub(r"\1", text)


def _vulgar_fraction(match: re.Match[str]) -> str:
    numerator, _, denominator = unicodedata.normalize("NFKC", match[0]).partition("⁄")
    return rf"\frac{{{numerator}}}{{{denominator}}}"
