"""AMC 2023: forty problems of the American Mathematics Competitions (12), posed with numbers for answers."""

from __future__ import annotations

from reflective.tasks.benchmarks.base import Benchmark, plain_reader
from reflective.tasks.files.hub import HubSource

AMC23 = Benchmark(
    name="amc23",
    description="American Mathematics Competitions 12, 2023",
    kind="math",
    split="test",
    source=HubSource("math-ai/amc23", ("test*.parquet", "data/test*.parquet", "test.jsonl")),
    read=plain_reader("answer", "final_answer"),
    size=40,
)
