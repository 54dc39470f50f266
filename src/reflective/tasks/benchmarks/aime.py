"""AIME 2024 and 2025: thirty competition problems a year, whose answers are whole numbers from 0 to 999."""

from __future__ import annotations

from reflective.tasks.benchmarks.base import Benchmark, Options, Question, first
from reflective.tasks.files.gold import gold_answer, question_text
from reflective.tasks.files.hub import HubSource
from reflective.tasks.files.rows import Row


def read(row: Row, index: int, options: Options) -> Question:
    """`problem` and `answer` in their many spellings; verl's files keep the answer in `reward_model`."""
    verl = row.get("reward_model") or {}
    answer = verl["ground_truth"] if verl else first(row, "answer", "Answer", "expected_answer", "solution", "Solution")
    if isinstance(answer, dict):
        answer = first(answer, "target")
    text = first(row, "problem", "Problem", "question", "prompt")
    number = gold_answer(answer)
    if not number.isdecimal() or int(number) > 999:
        raise ValueError(f"an AIME answer is a whole number from 0 to 999, got {number!r}")
    return Question(question_text(text), str(int(number)))


AIME24 = Benchmark(
    name="aime24",
    description="American Invitational Mathematics Examination 2024, I and II",
    kind="math",
    split="test",
    source=HubSource("math-ai/aime24", ("test-00000-of-00001.parquet",), "83a7f387baaa524a8bda0022eac0541582297103"),
    read=read,
    size=30,
)

AIME25 = Benchmark(
    name="aime25",
    description="American Invitational Mathematics Examination 2025, I and II",
    kind="math",
    split="test",
    source=HubSource("math-ai/aime25", ("test.jsonl",), "563bb8404243c5f09de6ec262f2db674fe5bce9b"),
    read=read,
    size=30,
)
