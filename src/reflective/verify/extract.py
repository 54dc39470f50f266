"""The final answer in what a model wrote: the one definition, for every engine, grader and reward.

Only the answer part counts, which is what stands behind `</think>`; unfinished thinking has none, whatever numbers
are in it. In the answer part, the first of these that there is:

 1. the last `\\boxed{}` (or `\\fbox{}`, or `\\boxed 5`); boxes with nothing but "and", "or" or a comma between them are
    one list, so that offering two answers is not offering the right one. A box that the text ends in the middle of
    is an answer that was cut off: there is none.
 2. the last `<answer>X</answer>`, "#### X", "final answer is X", "answer: X", "答案是X", "答案：X", "选X".
 3. what the kind allows: for "math" the whole text if it is one short formula, else the last $...$ or number; for
    "choice" the last letter in bold or in parentheses; for "expression" the last line that is arithmetic; for "gym"
    the text itself, or the last fenced block in it; for the others the text itself, if it is one line.

What stands between <answer> and </answer> is taken whole, except for "math" and "choice", which look for it there.
For these two, what is only denied ("not 5", "can't be (C)") is passed over in 2 and 3.

A program (kind "code") is the last fenced block of Python (`fences.py`); none of the above applies to it.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Mapping

from reflective.verify.choice import stated_letters
from reflective.verify.code.fences import fenced_blocks, stated_program
from reflective.verify.text import strip_delimiters

MAX_LINE_CHARS = 600  # of a line that is taken for an answer as it stands
MAX_GAP_CHARS = 40  # between two boxes of one list
MAX_CUES = 20  # from the end, of which one must be followed by an answer
MAX_GYM_CHARS = 20_000  # of a text that is an answer as it stands, however many lines it has
TAIL_CHARS = 4_000  # of the end of a text without a stated answer, in which one is looked for

_THINK_CLOSE = "</think>"
_THINK_AGAIN = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)

_BRACES = re.compile(r"(?P<box>\\+(?:boxed|fbox)\s*\{)|\\[^A-Za-z]|(?P<brace>[{}])")
_BARE_BOX = re.compile(r"\\(?:boxed|fbox)\s*([^\s{}$\\]+|\\[A-Za-z]+(?:\{[^{}]*\})*)")
_INNER_BOX = re.compile(r"\\+(?:boxed|fbox)\s*(?:\{([^{}]*)\})?")
_BETWEEN_BOXES = re.compile(r"[\s$,;&\\()\[\]]*(?:(?:and|or|和|或|、|,)[\s$,;\\()\[\]]*)?")

_CUE = re.compile(
    r"<answer>(?P<tag>[^<]*(?:<(?!/?answer>)[^<]*)*)</answer>"
    r"|####[ \t]*"
    r"|(?:最终|正确)?答案(?:是|为|应为|应该是)?\s*[:：=]?\s*"
    r"|(?:应选|故选|选择|选)\s*[:：]?\s*(?=[(（]?[A-J](?![A-Za-z]))"
    r"|(?<![A-Za-z])(?:final\s+|correct\s+)?answers?(?:\s+to\s+(?:the|this)\s+(?:question|problem))?"
    r"[*_]*\s*(?:(?:is|are)(?![A-Za-z])\s*[:=]?|[:=：])",
    re.IGNORECASE,
)
_FILLER = re.compile(
    r"^(?:(?:therefore|thus|simply|just|then|hence|equal to|as follows)\b|[:=：,\s*_>])+", re.IGNORECASE
)
_SENTENCE_END = re.compile(
    r"[.?](?=\s|$)|(?<=[A-Za-z])!(?=\s|$)|[。！？；]|,?\s+(?:because|since|which|as|where|when|after|for|I hope)\b"
)
_MATH_SPAN = re.compile(
    r"\$\$(.{1,500}?)\$\$|\$(?!\s)([^$\n]{1,500}?)(?<!\s)\$(?!\d)|\\\((.{1,500}?)\\\)|\\\[(.{1,500}?)\\\]", re.DOTALL
)
_MAGNITUDE = re.compile(r"\s*(?:(?:hundred|thousand|million|billion|trillion|dozen|percent)\b|\\?%)")
_NUMBER = re.compile(r"(?<![\w.])(?:(?<![\d)\]}])-\s?)?(?:\\?\$)?\d[\d,]*(?:\.\d+)?(?:/\d+)?(?:\s?\\?%)?(?![A-Za-z_])")
_DENIED = re.compile(  # "not 5", "isn't $5$", "can't be (C)": named, but not as the answer
    r"(?:(?<![A-Za-z])not|n['’]t)[ \t]{1,3}(?!only)(?:[a-z]{1,20}[ \t]{1,3}){0,2}"
    r"(?:\$[^$\n]{1,100}\$|\\\([^\n]{1,100}?\\\)|-?\d[\d,]{0,40}(?:\.\d+)?(?![\w^/\\])|[(（]?[A-J][)）]?(?![A-Za-z]))"
)
_PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_ARITHMETIC = re.compile(r"(?:[\d\s+\-*/().=×÷−·\[\]{}]|\\(?:times|cdot|div|frac|left|right))+")
_BOLD_LETTER = re.compile(r"\*\*\s*[(（]?([A-J])[)）]?(?:[.:：、)][^*\n]{0,200})?\*\*")
_BRACKETED_LETTER = re.compile(r"[(（]([A-J])[)）]")


def answer_part(response: str) -> str | None:
    """What stands behind the thinking, or None where the thinking was not finished."""
    _, closed, rest = response.partition(_THINK_CLOSE)
    return _THINK_AGAIN.sub("", rest).strip() if closed else None


def extract_answer(answer_text: str, kind: str = "math") -> str | None:
    """The final answer stated in an answer part (see `answer_part`), or None."""
    if kind == "code":
        return stated_program(answer_text)
    found, cut_off = _boxes(answer_text)
    if cut_off:
        return None
    if not found:
        if kind in ("math", "choice"):
            answer_text = _DENIED.sub(" ", answer_text)
        found = _cued(answer_text, kind) or _FALLBACKS.get(kind, _single_line)(answer_text) or ""
    if kind == "choice":
        found = stated_letters(found) or found
    return found.strip() or None


def last_boxed(text: str) -> str | None:
    """The content of the last box in `text`; None where there is none or it was cut off."""
    found, cut_off = _boxes(text)
    return None if cut_off else found or None


def _boxes(text: str) -> tuple[str, bool]:
    """The content of the last box or list of boxes, and whether a later one was cut off. One pass, in linear time."""
    if "boxed" not in text and "fbox" not in text:
        return "", False
    closed: list[tuple[int, int, str]] = []  # outermost boxes: start, end, content
    open_braces: list[tuple[int, int] | None] = []  # (start of the box, start of its content), None for a plain brace
    for match in _BRACES.finditer(text):
        if match["box"]:
            open_braces.append((match.start(), match.end()))
        elif match["brace"] == "{":
            open_braces.append(None)
        elif match["brace"] and open_braces and (box := open_braces.pop()) is not None:
            while closed and closed[-1][0] > box[0]:
                closed.pop()
            closed.append((box[0], match.end(), text[box[1] : match.start()]))
    starts = [box[0] for box in closed]
    for match in _BARE_BOX.finditer(text):
        before = bisect_right(starts, match.start()) - 1
        if before < 0 or closed[before][1] <= match.start():  # not inside another box
            closed.append((match.start(), match.end(), match[1].rstrip(".,;:!?)]")))
    closed = sorted(box for box in closed if box[2].strip())
    cut_off = any(box is not None and (not closed or box[0] > closed[-1][0]) for box in open_braces)
    if cut_off or not closed:
        return "", cut_off
    first = len(closed) - 1
    while first and _are_one_list(text[closed[first - 1][1] : closed[first][0]]):
        first -= 1
    contents = dict.fromkeys(_INNER_BOX.sub(r"\1", content).strip() for _, _, content in closed[first:])
    return ", ".join(contents), False


def _are_one_list(between: str) -> bool:
    return len(between) <= MAX_GAP_CHARS and _BETWEEN_BOXES.fullmatch(between) is not None


def _cued(text: str, kind: str) -> str:
    """What follows the last "answer is", "答案：", "####" ... that is followed by an answer."""
    for cue in reversed(deque(_CUE.finditer(text), maxlen=MAX_CUES)):
        tagged: str | None = cue["tag"]
        if tagged is not None and tagged.strip() and kind not in ("math", "choice"):
            return tagged.strip()
        if stated := _stated(_following(text, cue.end()) if tagged is None else tagged, kind):
            return stated
    return ""


def _following(text: str, start: int) -> str:
    """The rest of the line, or the next line where the cue stands alone."""
    lines = text[start : start + MAX_LINE_CHARS].splitlines()[:4]
    return next((line for line in lines if line.strip(" \t*_:：>")), "")


def _stated(text: str, kind: str) -> str:
    """The answer at the beginning of `text`, without the words around it."""
    text = _FILLER.sub("", text.strip().strip("*_ ")).strip()
    if kind == "choice":
        return stated_letters(text) or ""
    runs = _span_runs(text)
    if runs and runs[0][0] == 0:
        behind = _MAGNITUDE.match(text, runs[0][1])
        return runs[0][2] + (behind[0] if behind else "")
    end = _SENTENCE_END.search(text)
    text = text[: end.start()] if end else text
    number = _NUMBER.search(text)
    if kind == "math" and number and _PROSE.search(text, 0, number.start()):
        # prose with a number in it: its only formula or its only number; of several, none is the answer
        runs = _span_runs(text)
        if len(runs) == 1:
            return runs[0][2]
        return number[0].rstrip(",") if _NUMBER.search(text, number.end()) is None else ""
    return strip_delimiters(text)


def _span_runs(text: str) -> list[tuple[int, int, str]]:
    """The $...$ of `text` as (start, end, content); those with only "and", "or" or a comma between them are one."""
    runs: list[tuple[int, int, str]] = []
    for match in _MATH_SPAN.finditer(text):
        content = match[match.lastindex or 0].strip()
        if runs and _are_one_list(text[runs[-1][1] : match.start()]):
            runs[-1] = (runs[-1][0], match.end(), f"{runs[-1][2]}, {content}")
        else:
            runs.append((match.start(), match.end(), content))
    return runs


def _last_formula(text: str) -> str:
    """Kind "math": a short text without prose as it stands, else the last formula or number."""
    line = _single_line(text)
    if line and (not _PROSE.search(line) or (len(line.split()) <= 3 and not any(map(str.isdigit, line)))):
        return line
    tail = text[-TAIL_CHARS:]
    runs, numbers = _span_runs(tail), list(_NUMBER.finditer(tail))
    if runs and (not numbers or numbers[-1].start() < runs[-1][1]):
        return runs[-1][2]
    if len(numbers) > 1 and _are_one_list(tail[numbers[-2].end() : numbers[-1].start()]):
        return f"{numbers[-2][0]}, {numbers[-1][0]}"  # "3 or 5" is two answers
    return numbers[-1][0].rstrip(",") if numbers else ""


def _last_letter(text: str) -> str:
    """Kind "choice": the text itself, else the last letter in bold, else the last in parentheses."""
    tail = text[-TAIL_CHARS:]
    found = _BOLD_LETTER.findall(tail) or _BRACKETED_LETTER.findall(tail)
    return stated_letters(_single_line(text)) or (found[-1] if found else "")


def _last_arithmetic(text: str) -> str:
    """Kind "expression": the last line that is nothing but arithmetic, perhaps behind a label and a colon."""
    for line in reversed(text[-TAIL_CHARS:].splitlines()):
        line = strip_delimiters(line.rpartition(":")[2])
        if _ARITHMETIC.fullmatch(line) and any(map(str.isdigit, line)):
            return line
    return ""


def _single_line(text: str) -> str:
    text = text.strip()
    return strip_delimiters(text) if len(text) <= MAX_LINE_CHARS and "\n" not in text else ""


def _fenced_or_whole(text: str) -> str:
    """Kind "gym", whose answers may have many lines: the last fenced block, else the text."""
    text = text.strip()
    blocks = [block for block in fenced_blocks(text[-MAX_GYM_CHARS:]) if block.strip()]
    return blocks[-1].strip("\n") if blocks else text if len(text) <= MAX_GYM_CHARS else ""


_FALLBACKS: Mapping[str, Callable[[str], str]] = {
    "math": _last_formula,
    "choice": _last_letter,
    "expression": _last_arithmetic,
    "gym": _fenced_or_whole,
}
