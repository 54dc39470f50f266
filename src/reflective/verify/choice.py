"""Kind "choice": the letter (or letters) of a multiple-choice question.

Where several letters are right, all of them and no others are wanted, in any order: "A C", "AC", "A and C" are alike.
"""

from __future__ import annotations

import re
import unicodedata

from reflective.types import Problem, Verdict
from reflective.verify.text import MAX_ANSWER_CHARS, clean

_MARKUP = re.compile(
    r"\\(?:boxed|text|textbf|textit|textrm|mathrm|mathbf|bf|rm)(?![A-Za-z])|(?:[{}$*_`\"'“”‘’【】「」\s]|\\(?![a-z]))+"
)
_LEAD = r"(?:(?:both|only|options?|choices?|answers?|letters?|选项|选择|选)\s*[:：]?\s*)*"
_LETTER = r"[(\[]*\s*[A-J](?![A-Za-z])(?:\s*[)\]]+|\.(?=\s*(?:,|and\b|or\b)))?"
_JOINED = r"\s*(?:,\s*(?:and|or)\b|[,、/&+;]|and\b|or\b|和|或|与|及)\s*"
_STATED = re.compile(rf"{_LEAD}(?P<letters>{_LETTER}(?:{_JOINED}{_LETTER})*)(?P<rest>.*)", re.IGNORECASE)
_RUN = re.compile(rf"{_LEAD}(?P<letters>[A-J](?:\s*[A-J]){{1,9}}|{_LETTER}(?:\s*{_LETTER})+)(?:选项)?", re.IGNORECASE)
_ONE = re.compile(r"(?<![A-Za-z])[A-Ja-j](?![A-Za-z])")
# behind "A" or "I" a small letter would make it a word of a sentence
_REST = re.compile(r"\s*$|\s*[^\sA-Za-z(]|\s*\(|\s+(?:because|since|as|for|with|is|are|which)\b|\s+[A-Z]")


def stated_letters(text: str) -> str | None:
    """The letters that `text` begins with, in order and joined by commas; None where it states none.

    "B", "(B)", "\\text{B}", "**B**", "b", "B. the third one", "A or B" (two letters), "ACD", "A C D", "(A)(C)".
    """
    text = unicodedata.normalize("NFKC", clean(text[:MAX_ANSWER_CHARS]))
    text = _MARKUP.sub(" ", text).strip().rstrip(".。 ")
    if (run := _RUN.fullmatch(text)) and run["letters"].isupper():
        return ", ".join(sorted({c for c in run["letters"] if c.isalpha()}))
    match = _STATED.match(text)
    if match is None:
        return None
    letters = _ONE.findall(match["letters"])
    alone = not match["rest"].strip()
    if not alone and (any(c.islower() for c in letters) or not _REST.match(match["rest"])):
        return None
    if letters == ["I"] and not (alone or match["rest"].lstrip()[0] in ".,:;)"):
        return None
    return ", ".join(sorted({c.upper() for c in letters}))


def grade_choice(problem: Problem, answer: str, *, time_limit_s: float) -> Verdict:
    """Right when the same letters are stated, in any order."""
    gold = stated_letters(problem.answer or "")
    if gold is None:
        return Verdict("ungradable", "the gold answer is no letter")
    stated = stated_letters(answer)
    if stated is None:
        return Verdict("wrong", "no letter")
    return Verdict("right", "the same letter") if stated == gold else Verdict("wrong", f"{stated}, not {gold}")
