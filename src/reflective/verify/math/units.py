"""Units: what stands beside a number and is not part of it.

`split_unit` takes a final answer apart into its core and its unit. Units are compared by name, after plurals and
abbreviations; they are not converted (500 cm is not 5 m: an answer is asked for in one unit). Words of magnitude
(million, dozen) are factors, not units.
"""

from __future__ import annotations

import re

from reflective.verify.math.formula import FUNCTIONS
from reflective.verify.text import without_text

_NAMES: dict[str, str] = {}
for _canonical, _spellings in {
    "mm": "millimeter millimetre 毫米",
    "cm": "centimeter centimetre 厘米 公分",
    "m": "meter metre 米",
    "km": "kilometer kilometre kms 千米 公里",
    "in": "inch inches 英寸",
    "ft": "foot feet 英尺",
    "yd": "yard",
    "mi": "mile 英里",
    "mg": "milligram 毫克",
    "g": "gram gm gms 克",
    "kg": "kilogram kilo kgs 千克 公斤",
    "t": "ton tonne 吨",
    "lb": "pound lbs 磅",
    "oz": "ounce",
    "ml": "milliliter millilitre mL 毫升",
    "l": "liter litre L 升",
    "gal": "gallon",
    "s": "second sec secs 秒 秒钟",
    "min": "minute mins 分钟",
    "h": "hour hr hrs 小时 时",
    "d": "day 天 日",
    "wk": "week 周 星期",
    "mo": "month 月 个月",
    "yr": "year yrs 年 岁",
    "deg": "degree 度",
    "rad": "radian 弧度",
    "dollar": "usd USD bucks buck 美元",
    "cent": "¢ 美分",
    "euro": "eur EUR 欧元",
    "pound sterling": "gbp GBP 英镑",
    "rupee": "rs Rs INR",
    "yuan": "RMB CNY 元 人民币 块 块钱",
    "N": "newton",
    "J": "joule",
    "W": "watt",
    "V": "volt",
    "A": "ampere amp",
    "Hz": "hertz",
    "Pa": "pascal",
    "ohm": "Omega Ω",
    "mph": "",
    # what fits any unit: measure words and remarks
    "unit": " ".join("个只条本支张人名位颗棵件种次枚辆朵头匹把根套双页题分步倍组项对片粒盒袋瓶")
    + " approximately approx exactly",
}.items():
    for _spelling in (_canonical, *_spellings.split()):
        _NAMES.setdefault(_spelling, _canonical)
for _unit in "dm nm ms kW MW kWh kJ MJ kN mV mA kHz MHz GHz kPa MPa kB MB GB TB mol kcal cal eV rpm".split():
    _NAMES.setdefault(_unit, _unit)
UNIT_NAMES = frozenset(_NAMES)
_IN_COMPOUNDS = {*_NAMES, "K", "C"}  # J/(mol K): alone, one letter more may be a variable
_COMPOUNDS = {"mph": "mi/h", "kph": "km/h", "kmph": "km/h", "kmh": "km/h", "mps": "m/s", "cc": "cm^3"}
_SIGNS = {
    "\\$": "dollar",
    "$": "dollar",
    "€": "euro",
    "£": "pound sterling",
    "¥": "yuan",
    "₹": "rupee",
    "¢": "cent",
    "₽": "ruble",
}
_BEFORE = re.compile(
    r"^([-+]?)\s*(?:(?:US|CA?|AU?|HK|NZ|S)?(\\?\$)|([€£¥₹])|(USD|EUR|GBP|CNY|RMB|INR|Rs)(?:\.\s*|\s+|(?=\d)))\s*"
)
MAGNITUDES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}

# words that turn "5 ..." into something else than five of something
_NO_UNIT = frozenset(
    "about above add added after all almost and around as at because before below but by "
    "divided each else equals even except fewer for from greater half if increase inf infinity is it least less "
    "minus mod modulo more most multiplied negative no none not odd of off or out over percentage pi plus point "
    "remainder root since so sqrt subtract than that then times to twice under undefined unless until up when "
    "where while with without".split()
)
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
