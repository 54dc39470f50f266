"""The final answer in what a model wrote: the one definition, for every engine, grader and reward.

Only the answer part counts, which is what stands behind `</think>`; unfinished thinking has none, whatever numbers
are in it. In the answer part, the first of these that there is:

 1. the last `\\boxed{}` (or `\\fbox{}`, or `\\boxed 5`); boxes with nothing but "and", "or", a comma or space between
    them are one list, so that offering two answers is not offering the right one. A box that the text ends in the
    middle of is an answer that was cut off: there is none. Empty boxes and boxes that name themselves are no answers,
    and for "choice" boxes without a letter.
 2. the last `<answer>X</answer>`, "#### X", "final answer is X", "answer: X", "答案是X", "选X", "wait, actually X".
 3. what the kind allows: for "math" the whole text if it is one short formula, else the list at its end, what is in
    bold in its last line, or its last formula or number, with dollars or without; for "choice" the last letter that
    stands out; for "expression" the last line that is arithmetic; for "gym" the text itself, or the last fenced block
    in it; for the others the text itself, if it is one line.

What stands between <answer> and </answer> is taken whole, except for "math" and "choice", which look for it there.
For these two, what is only denied ("not 5", "can't be (C)") is passed over in 2 and 3, and so are programs, whose
numbers answer nothing; for "math" also what only explains or checks an answer ("(= 3 + 2)", "Check: ..."). Where
`</think>` comes again, the answer is looked for behind the last one first.

A program (kind "code") is the last fenced block of Python (`fences.py`); none of the above applies to it.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Mapping

from reflective.verify import prose
from reflective.verify.choice import stated_letters
from reflective.verify.code.fences import fenced_blocks, stated_program, without_programs
from reflective.verify.text import patterns, strip_delimiters

MAX_LINE_CHARS = 600  # of a line that is taken for an answer as it stands
MAX_CUES = 20  # from the end, of which one must be followed by an answer
MAX_GYM_CHARS = 20_000  # of a text that is an answer as it stands, however many lines it has
MAX_BOLD_WORDS = 4  # of what is in bold in the last line and is the answer
TAIL_CHARS = 4_000  # of the end of a text without a stated answer, in which one is looked for

_THINK_CLOSE = "</think>"
_THINK_AGAIN = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)

_P = patterns("extract.toml")
_LETTERS = [pattern for name, pattern in _P.items() if name.startswith("letter_")]  # kind "choice", nothing stated


def answer_part(response: str) -> str | None:
    """What stands behind the thinking, or None where the thinking was not finished."""
    _, closed, rest = response.partition(_THINK_CLOSE)
    return _THINK_AGAIN.sub("", rest).strip() if closed else None


def extract_answer(answer_text: str, kind: str = "math") -> str | None:
    """The final answer stated in an answer part (see `answer_part`), or None."""
    if kind == "code":
        return stated_program(answer_text)
    if _THINK_CLOSE in answer_text:
        before, _, last = answer_text.rpartition(_THINK_CLOSE)
        found, earlier = (extract_answer(text, kind) for text in (last, before.replace(_THINK_CLOSE, "\n")))
        only_words = kind == "math" and found is not None and not re.search(r"[\d\\$]", found)  # "Done."
        return (earlier or found) if only_words else (found or earlier)
    boxed, cut_off = _boxes(answer_text)
    if cut_off:
        return None
    found = "" if kind == "choice" and stated_letters(boxed) is None else boxed
    if not found:
        if kind in ("math", "choice"):
            answer_text = _P["denied"].sub(" ", without_programs(answer_text))
        if kind == "math":
            answer_text = _without_sections(_P["smiles"].sub("", answer_text))
            if part := _P["first_part"].search(answer_text):
                answer_text = answer_text[: part.start()] + prose.without_labels(answer_text[part.end() :])
            retracted = [match.end() for match in _P["retracted"].finditer(answer_text)]
            if retracted and _P["digit"].search(answer_text, retracted[-1]):
                answer_text = answer_text[retracted[-1] :]
        found = _cued(answer_text, kind) or _FALLBACKS.get(kind, _single_line)(answer_text) or boxed
    if kind == "choice":
        found = stated_letters(found) or found
    elif kind == "math" and _P["comma_language"].search(answer_text, len(answer_text) - MAX_LINE_CHARS):
        found = _P["comma_number"].sub(lambda m: re.sub(r"\D", "", m[1]) + "." + m[2], found)
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
    for match in _P["braces"].finditer(text):
        if match["box"]:
            open_braces.append((match.start(), match.end()))
        elif match["brace"] == "{":
            open_braces.append(None)
        elif match["brace"] and open_braces and (box := open_braces.pop()) is not None:
            while closed and closed[-1][0] > box[0]:
                closed.pop()
            closed.append((box[0], match.end(), text[box[1] : match.start()]))
    starts = [box[0] for box in closed]
    for match in _P["bare_box"].finditer(text):
        before = bisect_right(starts, match.start()) - 1
        if before < 0 or closed[before][1] <= match.start():  # not inside another box
            closed.append((match.start(), match.end(), match[1].rstrip(".,;:!?)]")))
    closed = sorted(box for box in closed if not _P["own_name"].fullmatch(box[2].strip()))
    cut_off = any(box is not None and (not closed or box[0] > closed[-1][0]) for box in open_braces)
    if cut_off or not closed:
        return "", cut_off
    first = len(closed) - 1
    while first and prose.are_one_list(text[closed[first - 1][1] : closed[first][0]]):
        first -= 1
    contents = [_P["inner_box"].sub(r"\1", content).strip() for _, _, content in closed[first:]]
    names = [
        name[1] for start, *_ in closed[first:] if (name := _P["named_box"].search(text[max(start - 20, 0) : start]))
    ]
    if 1 < len(contents) == len(set(names)):
        contents = [f"{name} = {content}" for name, content in zip(names, contents, strict=True)]
    return ", ".join(dict.fromkeys(contents)), False


def _cued(text: str, kind: str) -> str:
    """What follows the last "answer is", "答案：", "####" ... that is followed by an answer."""
    for cue in reversed(deque(_P["cue"].finditer(text), maxlen=MAX_CUES)):
        tagged: str | None = cue["tag"] or cue["json"] or cue["items"]
        if tagged is not None and tagged.strip() and kind not in ("math", "choice"):
            return tagged.strip()
        if stated := _stated(_following(text, cue.end()) if tagged is None else tagged, kind):
            return stated
    return ""


def _following(text: str, start: int) -> str:
    """The rest of the line, or the next line where the cue stands alone."""
    lines = text[start : start + MAX_LINE_CHARS].splitlines()[:4]
    return next(
        (prose.BULLET.sub("", line) if i else line for i, line in enumerate(lines) if line.strip(" \t*_:：>\\[$")), ""
    )


def _stated(text: str, kind: str) -> str:
    """The answer at the beginning of `text`, without the words around it."""
    if kind == "math":
        text = prose.without_emphasis(text)
        text = _without_remarks(text)
    text = _P["filler"].sub("", text.strip().strip("*_` ")).strip()
    if kind == "choice":
        return stated_letters(text) or ""
    found = prose.formulas(text)
    if found and found[0].start == 0 and not (found[0].name and len(found) > 1):
        return prose.with_magnitude(found[0], text)
    end = _P["sentence_end"].search(text)
    text = text[: end.start()] if end else text
    number = prose.NUMBER.search(text)
    if kind == "math" and (number or found) and prose.PROSE.search(text, 0, number.start() if number else len(text)):
        return _only_answer(text)
    return strip_delimiters(text)


def _only_answer(sentence: str) -> str:
    """Prose with answers in it: the only formula or number, or the only one behind the last verb; else none."""
    found = _answers(sentence)
    for start in (0, *(match.end() for match in _P["verb"].finditer(sentence))):
        behind = [one for one in found if one.start >= start]
        if len(behind) == 1:
            return prose.with_magnitude(behind[0], sentence)
    return ""


def _answers(text: str) -> list[prose.Found]:
    """The formulas, and the numbers outside them, in order; variables only where there is nothing else."""
    spans = prose.formulas(text, bare=True)
    inside = [(span.start, span.end) for span in spans]
    loose = [n for n in prose.numbers(text) if not any(start < n.end and n.start < end for start, end in inside)]
    found = sorted([*spans, *loose], key=lambda one: one.start)
    return [one for one in found if not one.name] or found


def _without_remarks(text: str) -> str:
    """`text` without what only checks or explains an answer that it gives before: "(= 3 + 2)", "instead of 5"."""
    text = _P["ratio"].sub(r"\1\2:\3", _P["chance"].sub(r"\1\2/\3", text))
    return _P["remark"].sub(_kept, prose.without_parentheses(text))


def _without_sections(text: str) -> str:
    """`text` without the paragraphs that check or explain an answer that it gives before."""
    return _P["section"].sub(
        lambda m: m[0] if not _P["digit"].search(text, 0, m.start()) or _P["turn"].search(m[0]) else "", text
    )


def _kept(remark: re.Match[str]) -> str:
    """What stays of a remark; all of it where no number stands before it in its line."""
    before = remark.string[: remark.start()].rpartition("\n")[2]
    return remark["kept"] or remark["unit"] or ("" if _P["digit"].search(before) else remark[0])


def _last_formula(text: str) -> str:
    """Kind "math": a short text without prose as it stands, else the list at its end, else what is in bold in the last
    line, else the last formula or number. A text that breaks off in a sum or a heading has none."""
    whole = prose.without_quotes(_without_remarks(text[-TAIL_CHARS:])).strip()
    text = prose.without_emphasis(whole)
    line = _single_line(text)
    if _P["cut_off"].search(text):
        return ""
    if line and (
        not prose.PROSE.search(_P["words_in_braces"].sub("", line))
        or (len(line.split()) <= 3 and not any(map(str.isdigit, line)) and not prose.formulas(line))
    ):
        return prose.words(line) or line
    if listed := prose.listed(text):
        return listed
    found = _answers(text := prose.without_bullets(text))
    if not found:
        return (prose.bold(whole) or [prose.words(text)])[-1]
    lines = [line for line in whole.splitlines() if line.strip()]
    while len(lines) > 1 and not prose.bold(lines[-1]) and prose.BULLET.match(lines[-1]):  # "**9** in all.\n- 4\n- 5"
        lines.pop()
    if len(emphasized := prose.bold(lines[-1])) == 1:
        inside = _answers(emphasized[0])
        if len(inside) == 1 and len(emphasized[0].split()) <= MAX_BOLD_WORDS:
            return prose.with_magnitude(inside[0], emphasized[0])
    return prose.with_magnitude(found[-1], text)


def _last_letter(text: str) -> str:
    """Kind "choice": the text itself, else the last letter (or list of them) that stands out."""
    tail = text[-TAIL_CHARS:]
    if not _LETTERS[0].search(tail) and (stated := stated_letters(_single_line(text))):
        return stated
    for pattern in _LETTERS:
        found = list(pattern.finditer(tail))
        if found:
            first = len(found) - 1
            while first and prose.are_one_list(tail[found[first - 1].end() : found[first].start()]):
                first -= 1
            return ", ".join(match[1] for match in found[first:])
    return ""


def _last_arithmetic(text: str) -> str:
    """Kind "expression": the last line that is nothing but arithmetic, perhaps behind a label and a colon."""
    for line in reversed(text[-TAIL_CHARS:].splitlines()):
        line = strip_delimiters(line.rpartition(":")[2])
        if _P["arithmetic"].fullmatch(line) and any(map(str.isdigit, line)):
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
