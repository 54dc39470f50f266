"""GSM8K: grade-school word problems; the gold answer is the number behind "####" of a worked solution."""

from __future__ import annotations

from reflective.tasks.benchmarks.base import Benchmark, Options, Question, first
from reflective.tasks.benchmarks.gold import gold_answer, question_text
from reflective.tasks.benchmarks.hub import HubSource
from reflective.tasks.benchmarks.rows import Row


def read(row: Row, index: int, options: Options) -> Question:
    """`question` and `answer`."""
    return Question(question_text(first(row, "question", "problem")), gold_answer(first(row, "answer", "solution")))


GSM8K = Benchmark(
    name="gsm8k",
    description="grade-school word problems",
    kind="math",
    split="test",
    source=HubSource("openai/gsm8k", ("main/test-00000-of-00001.parquet",), "740312add88f781978c0658806c59bc2815b9866"),
    read=read,
    size=1319,
)
