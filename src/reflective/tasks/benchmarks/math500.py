"""MATH-500: five hundred of the competition problems of MATH, with answers in LaTeX, five levels, seven subjects."""

from __future__ import annotations

from reflective.tasks.benchmarks.base import Benchmark, Options, Question, first
from reflective.tasks.files.gold import gold_answer, question_text
from reflective.tasks.files.hub import HubSource
from reflective.tasks.files.rows import Row


def read(row: Row, index: int, options: Options) -> Question | None:
    """`problem`, `answer` (else the box of `solution`), `level` ("Level 3" or 3) and `subject`."""
    subject = str(row.get("subject") or row.get("type") or "")
    if options.subjects and subject not in options.subjects:
        return None
    level = str(row.get("level", "")).removeprefix("Level ").strip()
    metadata = {"subject": subject} if subject else {}
    return Question(
        question_text(first(row, "problem", "question")),
        gold_answer(first(row, "answer", "solution")),
        {**metadata, **({"level": int(level)} if level.isdecimal() else {})},
    )


MATH500 = Benchmark(
    name="math500",
    description="500 competition problems of MATH, five levels",
    kind="math",
    split="test",
    source=HubSource("HuggingFaceH4/MATH-500", ("test.jsonl",), "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be"),
    read=read,
    size=500,
    options=("subjects", "levels"),
)
