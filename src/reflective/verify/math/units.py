"""Units: what stands beside a number and is not part of it.

`split_unit` takes a final answer apart into its core and its unit. Units are compared by name, after plurals and
abbreviations; they are not converted (500 cm is not 5 m: an answer is asked for in one unit). Words of magnitude
(million, dozen) are factors, not units.
"""

from __future__ import annotations

import re
import tomllib
from itertools import pairwise
from pathlib import Path

from reflective.verify.math.formula import FUNCTIONS
from reflective.verify.text import patterns, without_text

_TABLES = tomllib.loads((Path(__file__).parent / "units.toml").read_text(encoding="utf-8"))
_NAMES: dict[str, str] = {name: name for name in _TABLES["short"]["names"].split()}
for _unit, _spellings in _TABLES["names"].items():
    _NAMES.update(dict.fromkeys((_unit, *_spellings.split()), _unit))
UNIT_NAMES = frozenset(_NAMES)
_IN_COMPOUNDS = {*_NAMES, "K", "C"}  # J/(mol K): alone, one letter more may be a variable
_COMPOUNDS: dict[str, str] = _TABLES["compounds"]
_SIGNS: dict[str, str] = _TABLES["signs"]
_STEPS: dict[str, int] = _TABLES["steps"]
MAGNITUDES: dict[str, int] = _TABLES["magnitudes"]
_NO_UNIT = frozenset(_TABLES["no_unit"]["words"].split())
_P = patterns("math/units.toml", "patterns")


def split_unit(text: str) -> tuple[str, str | None]:
    """`text` (plain LaTeX) as (core, unit); a currency sign, a percent sign and degrees are units too.

    The unit is None where there is none, and the core is then the whole text.
    """
    if (match := _P["leading"].match(text)) and canonical_unit(match[1]) is not None:
        text = text[match.end() :]
    if match := _P["before"].match(text):
        sign = match[2] or match[3]
        name = _SIGNS[sign] if sign else _NAMES[match[4]]
        core, unit = _split_trailing(_P["suffix"].sub(lambda m: _TABLES["suffixes"][m[1]], text[match.end() :].strip()))
        if core and (unit is None or unit == name or unit.startswith("/")):  # \$18 per day
            return match[1] + core, name
        return match[1] + core, f"{unit} {name}" if unit in MAGNITUDES else f"{name} {unit}"
    for sign, name in _SIGNS.items():
        if text.endswith(sign):
            return text[: -len(sign)].strip(), name
    return _split_trailing(text)


def compound(text: str) -> tuple[str, str] | None:
    """2 hours 30 minutes as (2 + 30/60, "h"); None where the units are no steps of one scale."""
    text = without_text(text.replace("^\\circ", " deg").replace("''", " arcsec").replace("'", " arcmin"))
    if not _P["compound"].fullmatch(text):
        return None
    parts = [(number, _canonical_word(unit)) for number, unit in _P["part"].findall(text)]
    total, scale = parts[0][0], 1
    for (_, larger), (number, unit) in pairwise(parts):
        scale *= _STEPS.get(f"{larger} {unit}", 0)
        total += f" + {number}/{scale}"
    return (total, parts[0][1]) if scale else None


def _split_trailing(text: str) -> tuple[str, str | None]:
    if text.endswith("%"):
        return text[:-1].rstrip("\\").strip(), "%"
    if (match := _P["degrees"].search(text)) and match.start() and not _P["function"].search(text):
        # 96^\circ + 10^\circ: one unit for both
        return text[: match.start()].replace("^\\circ", "").strip(), "deg" + (match["scale"] or match["bare"] or "")
    whole, text = text, _P["denominator"].sub(lambda m: "/" + m[1].replace("\\cdot", " "), text)
    text = _P["bracketed_text"].sub(r"\1", text)
    for pattern in (_P["text_unit"], _P["inverse_unit"], _P["letters"], _P["remark"], _P["word_unit"]):
        match = pattern.search(text)
        if match is None or not text[: match.start()].strip():
            continue
        words = match["words"]
        if pattern in (_P["text_unit"], _P["inverse_unit"]):
            words = without_text(words).replace("\\cdot", " ")
            words = re.sub(r"\^\s*\{?\s*(-?[1-4])\s*\}?", r"^\1", words)
        unit = canonical_unit(words, bare=pattern in (_P["word_unit"], _P["remark"]) and words.isascii())
        if unit is None:
            continue
        if pattern is _P["word_unit"] and match["power"]:
            unit = f"{unit}^{match['power']}"
        return text[: match.start()].strip(), unit
    return whole, None


def canonical_unit(words: str, *, bare: bool = False) -> str | None:
    """One spelling for a unit, "" for empty words, None for words that are no unit.

    `bare` words stand in the formula without `\\text`: there `m` is a variable and not a metre, `abc` is a product.
    """
    words = " ".join(re.sub(r"(?<=[A-Za-z])[-*](?=[A-Za-z])", " ", words).split()).strip(" .,\\()")
    words = _P["share"].sub("", words)
    if not words:
        return None if bare else ""
    if words.lower() in ("percent", "percentage", "pct", "per cent"):
        return "%"
    words = _P["inverse"].sub(lambda m: f"/{m[1]}" + (f"^{m[2]}" if m[2] != "1" else ""), words)  # m s^{-1}
    parts = re.split("[ /]", words)
    if len(parts) > 2 and "of" in parts[1:-1] and parts[0] not in _NO_UNIT:  # 20 cups of feed
        words, parts = words.partition(" of ")[0], parts[: parts.index("of")]
    if len(parts) > 5 or any(part.lower() in _NO_UNIT or part in FUNCTIONS for part in parts):
        return None
    compound = "/" in words and len(parts) > 1 and all(part.partition("^")[0] in _IN_COMPOUNDS for part in parts)  # m/s
    if bare and not compound and not any(len(part) > 3 or (len(part) > 1 and part in _NAMES) for part in parts):
        return None
    return "/".join(_canonical_power(part.strip()) for part in _P["per"].split(words))


def _canonical_power(words: str) -> str:
    words = _P["cube"].sub(r"\1\2\3^3", _P["square"].sub(r"\1\2\3^2", words))
    name, caret, power = words.partition("^")
    return " ".join(_COMPOUNDS.get(word) or _canonical_word(word) for word in name.split()) + caret + power.strip()


def _canonical_word(word: str) -> str:
    word = word.strip(".")
    lowered = word.lower()
    for spelling in (word, lowered, lowered.removesuffix("s"), lowered.removesuffix("es")):
        if spelling in _NAMES:
            return _NAMES[spelling]
    if lowered.endswith("ies"):
        return lowered[:-3] + "y"
    return lowered.removesuffix("s") if not lowered.endswith("ss") else lowered
