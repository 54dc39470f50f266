"""Units: what stands beside a number and is not part of it.

`split_unit` takes a final answer apart into its core and its unit. Units are compared by name, after plurals and
abbreviations; they are not converted (500 cm is not 5 m: an answer is asked for in one unit). Words of magnitude
(million, dozen) are factors, not units.
"""

from __future__ import annotations

import re

from reflective.verify.math.formula import FUNCTIONS

_NAMES: dict[str, str] = {}
for _canonical, _spellings in {
    "mm": "millimeter millimetre",
    "cm": "centimeter centimetre",
    "m": "meter metre",
    "km": "kilometer kilometre kms",
    "in": "inch inches",
    "ft": "foot feet",
    "yd": "yard",
    "mi": "mile",
    "mg": "milligram",
    "g": "gram gm gms",
    "kg": "kilogram kilo kgs",
    "lb": "pound lbs",
    "oz": "ounce",
    "ml": "milliliter millilitre mL",
    "l": "liter litre L",
    "gal": "gallon",
    "s": "second sec secs",
    "min": "minute mins",
    "h": "hour hr hrs",
    "d": "day",
    "wk": "week",
    "mo": "month",
    "yr": "year yrs",
    "deg": "degree",
    "rad": "radian",
    "dollar": "usd USD bucks buck",
    "cent": "",
    "euro": "eur EUR",
    "rupee": "rs Rs INR",
    "yuan": "RMB CNY 元",
    "N": "newton",
    "J": "joule",
    "W": "watt",
    "V": "volt",
    "Hz": "hertz",
    "mph": "",
    "unit": "",
}.items():
    for _spelling in (_canonical, *_spellings.split()):
        _NAMES[_spelling] = _canonical
_COMPOUNDS = {"mph": "mi/h", "kph": "km/h", "kmph": "km/h", "kmh": "km/h", "mps": "m/s", "cc": "cm^3"}
_CURRENCIES = {"\\$": "dollar", "$": "dollar", "€": "euro", "£": "pound sterling", "¥": "yuan", "₹": "rupee"}
MAGNITUDES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}

# words that turn "5 ..." into something else than five of something
_NO_UNIT = frozenset(
    "about above add added after all almost and approximately around as at because before below but by different "
    "divided each else equals even except fewer for from greater half if increase inf infinity is it least less "
    "minus mod modulo more most multiplied negative no none not odd of off or out over percentage pi plus point "
    "remainder root since so sqrt subtract than that then times to twice under undefined unless until up when "
    "where while with without".split()
)
_FUNCTION = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc|arc\w+|log|ln|exp)(?![A-Za-z])")
_POWER = r"(?:\s*\^\s*\{?\s*(?P<power>[23])\s*\}?)?"
_TEXT_UNIT = re.compile(rf"\s*\\text\s*\{{(?P<words>[^{{}}]*)\}}{_POWER}$")
_WORD_UNIT = re.compile(rf"(?<=[\d}})%\s])\s*(?P<words>[A-Za-z元][A-Za-z元./ ]*?){_POWER}$")
_DEGREES = re.compile(r"\s*\^\\circ\s*(?:\\text\s*\{\s*)?(?P<scale>[CF]?)\s*\}?$")
_SQUARED = (
    (re.compile(r"^(?:square|sq)\.?\s+(.+)$"), "2"),
    (re.compile(r"^(?:cubic|cu)\.?\s+(.+)$"), "3"),
    (re.compile(r"^(.+)\s+squared$"), "2"),
    (re.compile(r"^(.+)\s+cubed$"), "3"),
)


def split_unit(text: str) -> tuple[str, str | None]:
    """`text` (plain LaTeX) as (core, unit); a currency sign, a percent sign and degrees are units too.

    The unit is None where there is none, and the core is then the whole text.
    """
    for sign, name in _CURRENCIES.items():
        for prefix, rest in (("", text), ("-", text[1:].lstrip() if text.startswith("-") else "")):
            if rest.startswith(sign):
                core, unit = _split_trailing(rest[len(sign) :].strip())
                if unit is None or unit == name or unit.startswith("/"):  # \$18 per day
                    return prefix + core, name
                return prefix + core, f"{unit} {name}" if unit in MAGNITUDES else f"{name} {unit}"
        if text.endswith(sign):
            return text[: -len(sign)].strip(), name
    return _split_trailing(text)


def _split_trailing(text: str) -> tuple[str, str | None]:
    if text.endswith("%"):
        return text[:-1].rstrip("\\").strip(), "%"
    if (match := _DEGREES.search(text)) and match.start() and not _FUNCTION.search(text):
        return text[: match.start()].strip(), "deg" + match["scale"]
    for pattern in (_TEXT_UNIT, _WORD_UNIT):
        match = pattern.search(text)
        if match is None or not text[: match.start()].strip():
            continue
        unit = canonical_unit(match["words"], bare=pattern is _WORD_UNIT)
        if unit is None:
            continue
        if match["power"]:
            unit = f"{unit}^{match['power']}"
        return text[: match.start()].strip(), unit
    return text, None


def canonical_unit(words: str, *, bare: bool = False) -> str | None:
    """One spelling for a unit, "" for empty words, None for words that are no unit.

    `bare` words stand in the formula without `\\text`: there `m` is a variable and not a metre, `abc` is a product.
    """
    words = " ".join(words.replace("-", " ").split()).strip(" .,")
    if not words:
        return None if bare else ""
    if words.lower() in ("percent", "percentage", "pct", "per cent"):
        return "%"
    parts = re.split("[ /]", words)
    if len(parts) > 5 or any(part.lower() in _NO_UNIT or part in FUNCTIONS for part in parts):
        return None
    if bare and not any(len(part) > 3 or (len(part) > 1 and part in _NAMES) for part in parts):
        return None
    return "/".join(_canonical_power(part.strip()) for part in re.split(r"/|\bper ", words))


def _canonical_power(words: str) -> str:
    for pattern, power in _SQUARED:
        if match := pattern.match(words.lower()):
            return f"{_canonical_words(match[1])}^{power}"
    return _canonical_words(words)


def _canonical_words(words: str) -> str:
    return " ".join(_COMPOUNDS.get(word) or _canonical_word(word) for word in words.split())


def _canonical_word(word: str) -> str:
    word = word.strip(".")
    lowered = word.lower()
    for spelling in (word, lowered, lowered.removesuffix("s"), lowered.removesuffix("es")):
        if spelling in _NAMES:
            return _NAMES[spelling]
    if lowered.endswith("ies"):
        return lowered[:-3] + "y"
    return lowered.removesuffix("s") if not lowered.endswith("ss") else lowered
