"""OlympiadBench, its open-ended, text-only mathematics in English: competition problems with one or several answers.

The authors' own prompt names the type of the answer; here the common boxed prompt is the default, as in the
evaluations of the models' makers. Where a row states an `error`, a number may differ from the gold one by so much, as
the authors' judge has it: absolutely, one for all answers or one for each, not within tuples.
"""

from __future__ import annotations

import math

from reflective.tasks.benchmarks.base import Benchmark, Options, Question, first
from reflective.tasks.files.gold import gold_answer, question_text
from reflective.tasks.files.hub import HubSource
from reflective.tasks.files.rows import Row

SLACK = 1.01  # on a stated tolerance (OlympiadBench, math_judger.py)
NONE_STATED = 1e-8  # of an answer without one, where others have one (OlympiadBench, judge.py)


def read(row: Row, index: int, options: Options) -> Question | None:
    """`question`, `context`, `final_answer` (a list of texts in dollars), `error`, `answer_type`, `subfield`.

    Rows with an image, proofs and other subjects or languages are left out, where the row says what it is.
    """
    if row.get("modality") not in (None, "Text-only") or row.get("question_type") not in (None, "Open-ended"):
        return None
    if row.get("language") not in (None, "English") or row.get("subject") not in (None, "Math"):
        return None
    subfield = str(row.get("subfield") or "")
    if options.subjects and subfield not in options.subjects:
        return None
    context = str(row.get("context") or "").strip()
    text = question_text(first(row, "question", "problem"))
    answer = gold_answer(first(row, "final_answer", "answer"))
    return Question(
        f"{context}\n\n{text}" if context else text,
        answer,
        {**({"subject": subfield} if subfield else {}), **_tolerances(row)},
    )


def _tolerances(row: Row) -> dict[str, list[str]]:
    """Those that the row states, as text: exact, and the same in every file."""
    stated = str(row.get("error") or "").strip()
    if not stated or "Tuple" in str(row.get("answer_type") or ""):
        return {}
    values = [float(part) * SLACK if part.strip() else NONE_STATED for part in stated.split(",")]
    if not all(math.isfinite(value) and value >= 0 for value in values):
        raise ValueError(f"error is {stated!r}; it must be numbers that are not negative")
    return {"tolerances": [f"{value:.12g}" for value in values]}


OLYMPIADBENCH = Benchmark(
    name="olympiadbench",
    description="olympiad mathematics, open-ended, text only, English",
    kind="math",
    split="test",
    source=HubSource(
        "Hothan/OlympiadBench",
        ("OlympiadBench/OE_TO_maths_en_COMP/OE_TO_maths_en_COMP.parquet",),
        "91184b52131e7fc9455fef848035173aea8cc01a",
    ),
    read=read,
    size=674,
    options=("subjects",),
)
