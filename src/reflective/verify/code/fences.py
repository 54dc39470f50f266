"""The program in an answer: what stands between the fences of a Markdown code block."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Collection, Iterator

LANGUAGES = ("", "python", "python3", "py")
TEXTS = ("", "text", "txt", "plaintext", "markdown", "md", "math", "latex", "tex", "output", "result", "json")
_STATEMENT = re.compile(r"\s*(?:(?:def|class|import|return)\s|print\()")


def fenced_blocks(text: str, languages: Collection[str] | None = None) -> Iterator[str]:
    """The fenced blocks in `text`, in order; those of other `languages` are left out, an unclosed block too."""
    opened: str | None = None
    lines: list[str] = []
    for line in text.splitlines():
        mark = line.strip()
        if opened is None:
            if mark.startswith("```") and "`" not in mark[3:]:
                opened, lines = mark[3:].strip().lower(), []
        elif mark == "```":
            if languages is None or opened in languages:
                yield "\n".join(lines)
            opened = None
        else:
            lines.append(line)


def without_programs(text: str) -> str:
    """Prose with its fenced blocks: of those that hold text or output the fences go, of programs everything."""
    if "```" not in text:
        return text
    kept: list[str] = []
    opened: int | None = None  # where the content of the block under way begins in `kept`
    language = ""
    for line in (*text.splitlines(), "```"):
        mark = line.strip()
        if opened is None:
            if mark.startswith("```") and "`" not in mark[3:]:
                opened, language = len(kept), mark[3:].strip().lower()
            else:
                kept.append(line)
        elif mark == "```":
            if language not in TEXTS or any(map(_STATEMENT.match, kept[opened:])):
                kept[opened:] = [""]
            opened = None
        else:
            kept.append(line)
    return "\n".join(kept)


def stated_program(text: str) -> str | None:
    """The last fenced block of Python in an answer; the whole text where it has no fence and is a program itself."""
    blocks = [block for block in fenced_blocks(text, LANGUAGES) if block.strip()]
    if blocks or "```" in text:
        return blocks[-1] if blocks else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Python would say of a text that is none
            ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return text if text.strip() else None
