"""Stop strings: texts that end a response where it holds them, also across tokens. They are not part of the answer.

In a response with reasoning between marks they are looked for behind the closing mark alone, so that reasoning may hold
them. Strings alone; the bookkeeping is in `sequence.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

SLACK: Final = 8  # tokens that a window is longer by: special ones have no text, and half characters stand at its edge


def before_stop(text: str, stops: Sequence[str]) -> str:
    """The text up to the first stop string in it."""
    return text[: min((at for at in map(text.find, stops) if at >= 0), default=len(text))]


def holds_stop(text: str, stops: Sequence[str]) -> bool:
    """Whether any stop string stands in the text."""
    return any(stop in text for stop in stops)


def may_begin_stop(text: str, stops: Sequence[str]) -> bool:
    """Whether the text ends in what may become a stop string, so that its end can't be shown yet."""
    return any(text.endswith(stop[:n]) for stop in stops for n in range(1, min(len(stop), len(text) + 1)))


def window(stops: Sequence[str]) -> int:
    """Last tokens of a text that hold any stop string which the very last one completes: each has a byte or more."""
    return max(len(stop.encode()) for stop in stops) + SLACK
