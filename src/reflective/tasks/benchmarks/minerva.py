"""Minerva Math: problems of university courses in science (MIT OpenCourseWare); answers are numbers and formulas."""

from __future__ import annotations

from reflective.tasks.benchmarks.base import Benchmark, Options, Question, first
from reflective.tasks.files.gold import gold_answer, question_text
from reflective.tasks.files.hub import HubSource
from reflective.tasks.files.rows import Row


def read(row: Row, index: int, options: Options) -> Question | None:
    """`question` or `problem`; `answer`, else the box of `solution`; `type` is the course."""
    course = str(row.get("type") or "")
    if options.subjects and course not in options.subjects:
        return None
    return Question(
        question_text(first(row, "question", "problem")),
        gold_answer(first(row, "answer", "solution")),
        {"subject": course} if course else {},
    )


MINERVA = Benchmark(
    name="minerva_math",
    description="university problems in physics, chemistry, astronomy and economics",
    kind="math",
    split="test",
    source=HubSource("math-ai/minervamath", ("test*.parquet", "data/test*.parquet", "test.jsonl")),
    read=read,
    size=272,
    options=("subjects",),
)
