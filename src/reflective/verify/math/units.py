"""Units: what stands beside a number and is not part of it.

`split_unit` takes a final answer apart into its core and its unit. Units are compared by name, after plurals and
abbreviations; they are not converted (500 cm is not 5 m: an answer is asked for in one unit). Words of magnitude
(million, dozen) are factors, not units.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from reflective.verify.math.formula import FUNCTIONS
from reflective.verify.text import without_text

_TABLES = tomllib.loads((Path(__file__).parent / "units.toml").read_text(encoding="utf-8"))
_NAMES: dict[str, str] = {name: name for name in _TABLES["short"]["names"].split()}
for _unit, _spellings in _TABLES["names"].items():
    _NAMES.update(dict.fromkeys((_unit, *_spellings.split()), _unit))
UNIT_NAMES = frozenset(_NAMES)
_IN_COMPOUNDS = {*_NAMES, "K", "C"}  # J/(mol K): alone, one letter more may be a variable
_COMPOUNDS: dict[str, str] = _TABLES["compounds"]
_SIGNS: dict[str, str] = _TABLES["signs"]
_BEFORE = re.compile(
    r"^([-+]?)\s*(?:(?:US|CA?|AU?|HK|NZ|S)?(\\?\$)|([€£¥₹])|(USD|EUR|GBP|CNY|RMB|INR|Rs)(?:\.\s*|\s+|(?=\d)))\s*"
)
MAGNITUDES: dict[str, int] = _TABLES["magnitudes"]
_NO_UNIT = frozenset(_TABLES["no_unit"]["words"].split())
_FUNCTION = re.compile(r"\\(?:cis|sin|cos|tan|cot|sec|csc|arc\w+|log|ln|exp)(?![A-Za-z])")
_POWER = r"(?:\s*\^\s*\{?\s*(?P<power>[23])\s*\}?)?"
_TEXT = r"\\text\s*\{[^{}]*\}(?:\s*\^\s*\{?\s*-?[1-4]\s*\}?)?"
_TEXT_UNIT = re.compile(
    rf"\s*(?P<words>(?:\\(?:mu|Omega)\s*(?:\\cdot\s*)?)?{_TEXT}(?:\s*(?:/|\\cdot(?![A-Za-z]))?\s*{_TEXT})*)$"
)
_INVERSE_UNIT = re.compile(  # m s^{-1}
    r"(?<=[\d}])\s+(?P<words>(?:[A-Za-z]{1,3}\s+)*[A-Za-z]{1,3}\s*\^\s*\{\s*-\s*[1-4]\s*\})$"
)
_WORD_UNIT = re.compile(rf"(?<=[\d}})%\s])\s*(?P<words>[A-Za-z](?:[A-Za-z./ *]|\^[23](?=/))*?){_POWER}$")
_LETTERS = re.compile(  # 元, рублей, pájaros, 千米/时
    r"(?<=[\d}%])\s*(?P<words>\\Omega|¢|(?:(?<=\s)[A-Za-z]+)?[^\W\d_a-zA-Z](?:[^\W\d_]|[^\x00-\x7f])*"
    r"(?:(?:\s|\s?/\s?)[^\W\d_]+){0,2})\s*$"
)
_REMARK = re.compile(r"(?<=[\d}%])\s*[(\[]\s*(?P<words>[^\W\d_]+(?:[ /][^\W\d_]+)*)\s*[)\]]$")  # 9 (apples)
_DENOMINATOR = re.compile(r"/\s*\(([^()\d]+)\)$")  # J/(mol K)
_BRACKETED_TEXT = re.compile(r"\(\s*(\\text\s*\{[^{}]*\})\s*\)$")
_LEADING = re.compile(r"^\\text\s*\{([A-Za-z ]+)\}\s*(?=[-\d\\])")  # \text{There are } 12
_DEGREES = re.compile(r"\s*\^\\circ\s*(?:\\text\s*\{\s*(?P<scale>[CF])\s*\}|(?P<bare>[CF]))?$")
_SHARE = re.compile(r"^of (?:an?|the) ")  # 1/2 of the pie
_PER = re.compile(r"\s*/\s*|\s+per\s+|每")
_INVERSE = re.compile(r"\s*([A-Za-z]+)\s*\^\s*-\s*([1-4])$")
_SQUARE = re.compile(r"^(?:square|sq)\.?\s+(.+)$|^平方(.+)$|^(.+)\s+squared$", re.IGNORECASE)
_CUBE = re.compile(r"^(?:cubic|cu)\.?\s+(.+)$|^立方(.+)$|^(.+)\s+cubed$", re.IGNORECASE)


def split_unit(text: str) -> tuple[str, str | None]:
    """`text` (plain LaTeX) as (core, unit); a currency sign, a percent sign and degrees are units too.

    The unit is None where there is none, and the core is then the whole text.
    """
    if (match := _LEADING.match(text)) and canonical_unit(match[1]) is not None:
        text = text[match.end() :]
    if match := _BEFORE.match(text):
        sign = match[2] or match[3]
        name = _SIGNS[sign] if sign else _NAMES[match[4]]
        core, unit = _split_trailing(text[match.end() :].strip())
        if core and (unit is None or unit == name or unit.startswith("/")):  # \$18 per day
            return match[1] + core, name
        return match[1] + core, f"{unit} {name}" if unit in MAGNITUDES else f"{name} {unit}"
    for sign, name in _SIGNS.items():
        if text.endswith(sign):
            return text[: -len(sign)].strip(), name
    return _split_trailing(text)


def _split_trailing(text: str) -> tuple[str, str | None]:
    if text.endswith("%"):
        return text[:-1].rstrip("\\").strip(), "%"
    if (match := _DEGREES.search(text)) and match.start() and not _FUNCTION.search(text):
        # 96^\circ + 10^\circ: one unit for both
        return text[: match.start()].replace("^\\circ", "").strip(), "deg" + (match["scale"] or match["bare"] or "")
    whole, text = text, _DENOMINATOR.sub(lambda m: "/" + m[1].replace("\\cdot", " "), text)
    text = _BRACKETED_TEXT.sub(r"\1", text)
    for pattern in (_TEXT_UNIT, _INVERSE_UNIT, _LETTERS, _REMARK, _WORD_UNIT):
        match = pattern.search(text)
        if match is None or not text[: match.start()].strip():
            continue
        words = match["words"]
        if pattern in (_TEXT_UNIT, _INVERSE_UNIT):
            words = without_text(words).replace("\\cdot", " ")
            words = re.sub(r"\^\s*\{?\s*(-?[1-4])\s*\}?", r"^\1", words)
        unit = canonical_unit(words, bare=pattern in (_WORD_UNIT, _REMARK) and words.isascii())
        if unit is None:
            continue
        if pattern is _WORD_UNIT and match["power"]:
            unit = f"{unit}^{match['power']}"
        return text[: match.start()].strip(), unit
    return whole, None


def canonical_unit(words: str, *, bare: bool = False) -> str | None:
    """One spelling for a unit, "" for empty words, None for words that are no unit.

    `bare` words stand in the formula without `\\text`: there `m` is a variable and not a metre, `abc` is a product.
    """
    words = " ".join(re.sub(r"(?<=[A-Za-z])[-*](?=[A-Za-z])", " ", words).split()).strip(" .,\\()")
    words = _SHARE.sub("", words)
    if not words:
        return None if bare else ""
    if words.lower() in ("percent", "percentage", "pct", "per cent"):
        return "%"
    words = _INVERSE.sub(lambda m: f"/{m[1]}" + (f"^{m[2]}" if m[2] != "1" else ""), words)  # m s^{-1}
    parts = re.split("[ /]", words)
    if len(parts) > 5 or any(part.lower() in _NO_UNIT or part in FUNCTIONS for part in parts):
        return None
    compound = "/" in words and len(parts) > 1 and all(part.partition("^")[0] in _IN_COMPOUNDS for part in parts)  # m/s
    if bare and not compound and not any(len(part) > 3 or (len(part) > 1 and part in _NAMES) for part in parts):
        return None
    return "/".join(_canonical_power(part.strip()) for part in _PER.split(words))


def _canonical_power(words: str) -> str:
    words = _CUBE.sub(r"\1\2\3^3", _SQUARE.sub(r"\1\2\3^2", words))
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
