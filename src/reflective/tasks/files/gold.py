"""Questions and gold answers, in the forms that files of problems use.

A gold answer may be a number, a text, a list of answers, or stand at the end of a worked solution: behind "####", in a
box, or alone on the last line. A question may be a text or a list of chat messages.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from reflective.verify.extract import last_boxed
from reflective.verify.text import strip_delimiters

HASHES: Final = "####"
MAX_DEPTH: Final = 100  # of lists in lists: far below where reading them would end in an error of Python's
_NUMBER: Final = re.compile(r"[-+]?[$€£]?\s?\d[\d,]*(?:\.\d+)?\s?%?")


class NoAnswer(ValueError):
    """A field that is there and holds no answer."""


def gold_answer(value: Any) -> str:
    """The final answer alone. Raises `NoAnswer` where `value` holds none, `ValueError` where it is not an answer at
    all."""
    if isinstance(value, bool) or value is None:
        raise ValueError(f"a gold answer is a number or a text, got {value!r}")
    if isinstance(value, int | float | Decimal):
        return _plain(value)
    if isinstance(value, str):
        text = value.rpartition(HASHES)[2] if HASHES in value else value
        if "boxed" in text or "fbox" in text:
            text = last_boxed(text) or ""
        if not text.strip():
            raise NoAnswer("the gold answer is empty")
        return text.strip()
    if isinstance(value, Sequence):
        answers = [strip_delimiters(gold_answer(item)) for item in value]
        if not answers:
            raise NoAnswer("the gold answer is an empty list")
        return answers[0] if len(answers) == 1 else ", ".join(answers)
    raise ValueError(f"a gold answer is a number or a text, got {type(value).__name__}")


def stated_result(answer: str) -> str:
    """The number that stands alone on the last line of a worked solution in words; any other answer unchanged."""
    first, _, last = answer.rpartition("\n")
    in_words = len(re.findall(r"[^\W\d_]{2,}", first)) >= 3
    return last.strip() if in_words and _NUMBER.fullmatch(last.strip()) else answer


def _plain(value: int | float | Decimal) -> str:
    if isinstance(value, int):
        return str(value)
    if not math.isfinite(value):
        raise NoAnswer("the gold answer is NaN or infinite")
    if isinstance(value, Decimal):
        return f"{value.normalize():f}"
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else json.dumps(value)


def question_text(value: Any) -> str:
    """A question's text: as it is, or the last message of the user. Raises `ValueError` where there is none."""
    return _question(value)[1]


def earlier_messages(value: Any) -> tuple[dict[str, str], ...]:
    """Of a question in messages, those before the last one of the user: a system message, earlier turns."""
    return tuple({"role": str(m["role"]), "content": str(m["content"])} for m in _question(value)[0])


def _question(value: Any) -> tuple[list[Any], str]:
    if isinstance(value, str) and value.strip():
        return [], value.strip()
    if isinstance(value, Sequence) and not isinstance(value, str):
        messages = [m for m in value if isinstance(m, Mapping)]
        spoken = [place for place, m in enumerate(messages) if m.get("role", "user") == "user"]
        text = messages[spoken[-1]].get("content") if spoken else None
        if isinstance(text, str) and text.strip():
            return messages[: spoken[-1]], text.strip()
    raise ValueError("the question is no text and no list of messages")


def check_depth(value: Any) -> None:
    """Raises `ValueError` where lists and mappings are nested more than `MAX_DEPTH` deep."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, list | Mapping)
            for inner in (outer.values() if isinstance(outer, Mapping) else outer)
        ]
        if not level:
            return
    raise ValueError("it is nested too deeply")


def check_texts(*values: Any) -> None:
    """Raises `ValueError` where a text in them can't be written: half a surrogate pair, as JSON's "\\ud800"."""
    try:
        json.dumps(values, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])
        raise ValueError(f"a text holds {half}, half of a surrogate pair, which is no character") from error
