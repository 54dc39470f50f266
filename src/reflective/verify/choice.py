"""Kind "choice": the letter (or letters) of a multiple-choice question.

Where several letters are right, all of them and no others are wanted, in any order: "A C", "AC", "A and C" are alike.
"""

from __future__ import annotations

import unicodedata

from reflective.types import Problem, Verdict
from reflective.verify.text import MAX_ANSWER_CHARS, clean, patterns

_P = patterns("choice.toml")


def stated_letters(text: str) -> str | None:
    """The letters that `text` begins with, in order and joined by commas; None where it states none.

    "B", "(B)", "\\text{B}", "**B**", "b", "B. the third one", "A or B" (two letters), "ACD", "A C D", "(A)(C)".
    """
    text = unicodedata.normalize("NFKC", clean(text[:MAX_ANSWER_CHARS]))
    text = _P["markup"].sub(" ", text).strip().rstrip(".。 ")
    if (run := _P["run"].fullmatch(text)) and run["letters"].isupper():
        return ", ".join(sorted({c for c in run["letters"] if c.isalpha()}))
    match = _P["stated"].match(text)
    if match is None:
        return None
    letters = _P["one"].findall(match["letters"])
    alone = not match["rest"].strip()
    labelled, marked = match["letters"].endswith((")", "]")), match["letters"].startswith("(")  # A) a liquid
    if not alone and not (labelled and (marked or letters[-1].isupper())):
        if any(c.islower() for c in letters) or not _P["rest"].match(match["rest"]):
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
