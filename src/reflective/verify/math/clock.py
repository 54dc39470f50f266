"""Times of day (4:30 p.m., 16:30, 10 am, 20:34:00) and dates (March 5, the 5th of March, 1776-07-04)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from reflective.verify.text import without_text

_CLOCK = re.compile(r"^(\d{1,2})(?:\s*[:h]\s*([0-5]\d))?(?:\s*:\s*([0-5]\d))?\s*(?:([ap])\.?\s?m\.?)?$", re.IGNORECASE)
_HALVES = ((re.compile(r"in the morning"), "am"), (re.compile(r"in the (?:afternoon|evening)"), "pm"))
_MONTHS = "january february march april may june july august september october november december".split()
_MONTH = f"({'|'.join(f'{month[:3]}(?:{month[3:]})?' for month in _MONTHS)})"
_DATE = re.compile(
    rf"(?:on |the )*(?:{_MONTH}\.? (\d\d?)(?:st|nd|rd|th)?|(\d\d?)(?:st|nd|rd|th)?(?: of)? {_MONTH})(?:,? (\d{{4}}))?"
    r"|(\d{4})[-/年](\d\d?)[-/月](\d\d?)日?|(\d\d?)月(\d\d?)日"
)
_HALF_DAY = 12 * 3600
_NOON = 12 * 3600  # 12:30 is written for half past noon and half past midnight


@dataclass(frozen=True, slots=True)
class Clock:
    """A time of day, in seconds; on a clock of 24 hours where `certain`, else as it is written."""

    seconds: int
    certain: bool

    def fits(self, other: Clock) -> bool:
        """4:30 p.m. is 16:30, and 4:30 where the half of the day is left out."""
        if self.certain == other.certain:
            return self.seconds == other.seconds
        known, written = (self, other) if self.certain else (other, self)
        return written.seconds in (known.seconds, known.seconds % _HALF_DAY, known.seconds % _HALF_DAY + _NOON)


def read_clock(text: str) -> Clock | None:
    """The time that `text` (plain LaTeX) writes, if it does."""
    text = without_text(text).strip()
    for words, half_of_day in _HALVES:
        text = words.sub(half_of_day, text)
    match = _CLOCK.match(text)
    if match is None or not (match[2] or match[4]):
        return None
    hours, half = int(match[1]), (match[4] or "").lower()
    if hours > (12 if half else 24):
        return None
    if half:
        hours = hours % 12 + (12 if half == "p" else 0)
    return Clock(
        hours * 3600 + int(match[2] or 0) * 60 + int(match[3] or 0), bool(half) or hours > 12 or match[1][0] == "0"
    )


def read_date(text: str) -> str | None:
    """One spelling for the date that `text` (plain LaTeX) writes, if it does."""
    match = _DATE.fullmatch(" ".join(without_text(text).lower().split()))
    if match is None:
        return None
    month, day, day_before, month_behind, year, *numbers = match.groups()
    if name := month or month_behind:
        numbers = [year, str([known[:3] for known in _MONTHS].index(name[:3]) + 1), day or day_before]
    return "date " + " ".join(str(int(number)) for number in numbers if number)
