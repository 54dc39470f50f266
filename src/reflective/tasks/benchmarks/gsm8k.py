"""GSM8K: grade-school word problems; the gold answer is the number behind "####" of a worked solution."""

from __future__ import annotations

from reflective.tasks.benchmarks.base import Benchmark, plain_reader
from reflective.tasks.files.hub import HubSource

REVISION = "740312add88f781978c0658806c59bc2815b9866"

GSM8K = Benchmark(
    name="gsm8k",
    description="grade-school word problems",
    kind="math",
    split="test",
    source=HubSource("openai/gsm8k", ("main/test-00000-of-00001.parquet",), REVISION),
    training=HubSource("openai/gsm8k", ("main/train-00000-of-00001.parquet",), REVISION),
    read=plain_reader("answer", "solution"),
    size=1319,
)
