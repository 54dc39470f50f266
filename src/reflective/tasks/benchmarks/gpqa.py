"""GPQA-diamond: questions of graduate level in the natural sciences, four options each.

The file keeps the right option apart, so the options are shuffled: by the seed and the question's own text, so that
neither the order of the file nor what else is drawn matters.
"""

from __future__ import annotations

import random

from reflective.tasks.base import stable_hash
from reflective.tasks.benchmarks.base import Benchmark, Options, Question, first
from reflective.tasks.files.hub import HubSource
from reflective.tasks.files.rows import Row
from reflective.tasks.prompts import SLOT

LETTERS = "ABCD"
PROMPT = (
    "Answer the following multiple choice question. The last line of your response should be of the following format: "
    "'Answer: $LETTER' (without quotes) where LETTER is one of ABCD. Think step by step before answering.\n\n" + SLOT
)


def read(row: Row, index: int, options: Options) -> Question | None:
    """`Question`, `Correct Answer` and `Incorrect Answer 1` to 3."""
    subject = str(row.get("High-level domain") or "")
    if options.subjects and subject not in options.subjects:
        return None
    text = str(first(row, "Question")).strip()
    right = str(first(row, "Correct Answer")).strip()
    choices = [right, *(str(first(row, f"Incorrect Answer {n}")).strip() for n in (1, 2, 3))]
    order = list(range(4))
    random.Random(stable_hash(f"{options.seed}|{text}")).shuffle(order)
    listed = "\n".join(f"{letter}) {choices[place]}" for letter, place in zip(LETTERS, order, strict=True))
    return Question(
        f"{text}\n\n{listed}",
        LETTERS[order.index(0)],
        {"subject": subject} if subject else {},
    )


GPQA_DIAMOND = Benchmark(
    name="gpqa_diamond",
    description="graduate questions in physics, chemistry and biology, four options",
    kind="choice",
    split="test",
    source=HubSource("Idavidrein/gpqa", ("gpqa_diamond.csv",), "633f5ee89ab8ad4522a9f850766b73f62147ffdd", gated=True),
    read=read,
    prompt=PROMPT,
    prompt_source="simple-evals",
    size=198,
    options=("subjects", "seed"),
)
