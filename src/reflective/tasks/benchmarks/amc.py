"""AMC 2023: forty problems of the American Mathematics Competitions (12), posed with numbers for answers."""

from __future__ import annotations

from reflective.tasks.benchmarks.base import Benchmark, Options, Question, first
from reflective.tasks.benchmarks.gold import gold_answer, question_text
from reflective.tasks.benchmarks.hub import HubSource
from reflective.tasks.benchmarks.rows import Row


def read(row: Row, index: int, options: Options) -> Question:
    """`question` (or `problem`) and `answer`, which some files write as 27.0."""
    return Question(question_text(first(row, "question", "problem")), gold_answer(first(row, "answer", "final_answer")))


AMC23 = Benchmark(
    name="amc23",
    description="American Mathematics Competitions 12, 2023",
    kind="math",
    split="test",
    source=HubSource("math-ai/amc23", ("test*.parquet", "data/test*.parquet", "test.jsonl")),
    read=read,
    size=40,
)
