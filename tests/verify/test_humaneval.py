"""The canonical solutions of HumanEval are right by its own tests, and programs that return nothing are wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from reflective.tasks.benchmarks.base import Options
from reflective.tasks.benchmarks.evalplus import read_humaneval
from reflective.types import Problem
from reflective.verify import grade

FILE = Path(os.environ.get("REFLECTIVE_DATA") or Path(__file__).parents[3] / "shared" / "data") / "humaneval.jsonl"

pytestmark = pytest.mark.usefixtures("sandbox_for_our_programs")


@pytest.mark.slow
def test_solutions_are_right_and_stubs_are_wrong_also_where_the_tests_call_functions_of_the_prompt() -> None:
    if not FILE.exists():
        pytest.skip(f"no {FILE}")
    rows = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
    prompts = [row for row in rows if row["prompt"].count("\ndef ") > 1 or row["prompt"].startswith("def ")]
    helped = [row for row in prompts if row["task_id"].endswith(("/32", "/38", "/50"))]
    assert len(rows) == 164 and len(helped) == 3
    for index, row in enumerate([*helped, *rows[::16]]):
        metadata = read_humaneval(row, index, Options()).metadata
        problem = Problem("", None, kind="code", metadata=metadata)
        assert grade(problem, row["prompt"] + row["canonical_solution"]).kind == "right", row["task_id"]
        assert grade(problem, row["prompt"] + "    return None\n").kind == "wrong", row["task_id"]
