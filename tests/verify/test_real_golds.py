"""Every gold answer of the real benchmark files is right against itself, bare and in a response.

The files are looked for in $REFLECTIVE_DATA, else in shared/data beside the checkout; without them this is skipped.
"""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest

from reflective.types import Problem
from reflective.verify import answer_part, extract_answer, grade, self_check

DATA = Path(os.environ.get("REFLECTIVE_DATA") or Path(__file__).parents[3] / "shared" / "data")

RESPONSES = {
    "math": (
        "<think>\nLet me see, 7 or 8.\n\n</think>\n\nAdding both, the answer is\n\n\\[\n\\boxed{GOLD}\n\\]",
        "So it is 3, no.</think>Therefore $x + 1$ gives $\\boxed{GOLD}$.",
        "hm</think>Step 1: 12.\n\n**Final Answer:** $GOLD$",
        "hm</think>The final answer is $GOLD$. I hope it is correct.",
        "hm</think>\n因此，答案是 $GOLD$。",
        "hm</think>\\[ \\fbox{GOLD} \\]",
        "hm</think>\\boxed{GOLD}",
        "hm</think>GOLD",
    ),
    "choice": (
        "<think>\nA or B?\n</think>\n\nThe answer is \\boxed{\\text{GOLD}}.",
        "hm</think>(A) and (B) fail.\nThe answer is GOLD",
        "hm</think>A. 不对。\nANSWER: GOLD",
        "hm</think>排除其他选项。\n答案：GOLD",
        "hm</think>所以选GOLD。",
        "hm</think>It is\n\n**GOLD**",
    ),
}


def _lines(name: str) -> list[dict[str, Any]]:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"no {name} in {DATA}")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _golds(name: str) -> list[Problem]:
    if name == "ceval_sample.json":
        path = DATA / name
        if not path.exists():
            pytest.skip(f"no {name} in {DATA}")
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [Problem(row["model_input"], row["answer"], kind="choice") for row in rows]
    if name == "aime24_verl.parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        if not (DATA / name).exists():
            pytest.skip(f"no {name} in {DATA}")
        targets = [row["ground_truth"]["target"] for row in parquet.read_table(DATA / name)["reward_model"].to_pylist()]
        return [Problem("", str(target[0] if isinstance(target, list) else target)) for target in targets]
    if name == "gsm8k_test.jsonl":
        return [Problem("", extract_answer(row["answer"])) for row in _lines(name)]
    return [Problem("", str(row["answer"])) for row in _lines(name)]


FILES = {
    "aime24.jsonl": 30,
    "aime24_verl.parquet": 30,
    "math500.jsonl": 500,
    "gsm8k_test.jsonl": 1319,
    "ceval_sample.json": 100,
}


@pytest.mark.parametrize("name", FILES)
def test_every_gold_is_right_against_itself(name: str) -> None:
    problems = _golds(name)
    assert len(problems) >= FILES[name]
    assert self_check(problems, time_limit_s=60.0) == []


@pytest.mark.parametrize("name", FILES)
def test_every_gold_is_found_and_right_in_a_response(name: str) -> None:
    faults = []
    for problem in _golds(name):
        for response in RESPONSES[problem.kind]:
            part = answer_part(response.replace("GOLD", problem.answer or ""))
            assert part is not None
            answer = extract_answer(part, problem.kind)
            if grade(problem, answer, time_limit_s=60.0).kind != "right":
                faults.append((problem.answer, answer, response))
    assert faults == []


def test_gsm8k_golds_are_the_numbers_behind_the_hashes() -> None:
    for row, problem in zip(_lines("gsm8k_test.jsonl"), _golds("gsm8k_test.jsonl"), strict=True):
        assert problem.answer == row["answer"].rpartition("#### ")[2].strip()


@pytest.mark.slow
def test_no_two_golds_are_taken_for_each_other_unless_their_numbers_agree() -> None:
    """All pairs of MATH-500's answers: what is right must differ in units, percent or notation only."""
    golds = sorted({problem.answer for problem in _golds("math500.jsonl") if problem.answer})
    right = {pair for pair in itertools.permutations(golds, 2) if grade(Problem("", pair[0]), pair[1]).kind == "right"}
    same = {
        frozenset(pair)
        for pair in [
            ("120", "120^\\circ"), ("30", "30^\\circ"), ("36", "36^\\circ"), ("36", "\\$36"),
            ("90", "90^\\circ"), ("15", "15\\mbox{ cm}^2"), ("5", "x=5"), ("-2,1", "1,-2"),
            ("2 \\sqrt{5}", "2\\sqrt{5}"), ("\\frac14", "\\frac{1}{4}"), ("10080", "10,\\!080"), ("40", "40_9"),
        ]
    }  # fmt: skip
    assert {frozenset(pair) for pair in right} == same
