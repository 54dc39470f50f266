"""OlympiadBench, its open-ended, text-only mathematics in English: competition problems with one or several answers.

The authors' own prompt names the type of the answer; here the common boxed prompt is the default, as in the
evaluations of the models' makers.
"""

from __future__ import annotations

from reflective.tasks.benchmarks.base import Benchmark, Options, Question, first
from reflective.tasks.benchmarks.gold import gold_answer, question_text
from reflective.tasks.benchmarks.hub import HubSource
from reflective.tasks.benchmarks.rows import Row


def read(row: Row, index: int, options: Options) -> Question | None:
    """`question`, `context`, `final_answer` (a list of texts in dollars), `unit`, `subfield`.

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
        {"subject": subfield} if subfield else {},
    )


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
)
