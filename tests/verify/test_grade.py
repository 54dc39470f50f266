"""The contract of `grade` and `self_check`, whatever the kind."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from reflective import verify
from reflective.errors import InputError
from reflective.types import Problem, Verdict
from reflective.verify import GRADERS, WITHOUT_GOLD, extract_answer, grade, self_check


@pytest.mark.parametrize("kind", sorted(GRADERS))
@pytest.mark.parametrize("answer", [None, "", "  \n"])
def test_no_final_answer_is_wrong(kind: str, answer: str | None) -> None:
    problem = Problem("", "B", kind=kind, metadata={"numbers": [1], "target": 1})
    assert grade(problem, answer) == Verdict("wrong", "no final answer")


@pytest.mark.parametrize("kind", sorted(set(GRADERS) - WITHOUT_GOLD))
@pytest.mark.parametrize("gold", [None, "", " "])
def test_no_gold_answer_is_ungradable(kind: str, gold: str | None) -> None:
    assert grade(Problem("", gold, kind=kind), "5").kind == "ungradable"
    assert grade(Problem("", gold, kind=kind), None).kind == "ungradable"


def test_an_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"'maths'.*Did you mean 'math'\?.*expression"):
        grade(Problem("", "5", kind="maths"), "5")


def test_a_grader_that_raises_makes_the_answer_ungradable(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(problem: Problem, answer: str, *, time_limit_s: float) -> Verdict:
        raise RuntimeError("boom")

    monkeypatch.setattr(verify, "GRADERS", {"math": broken})
    assert grade(Problem("", "5"), "5") == Verdict("ungradable", "the grader failed: RuntimeError: boom")


@pytest.mark.parametrize("gold", ["2x +", "\\frac{1}{0}", "\\frac{1}{2", "\\sum_{k} k", "5 \\foo{3}"])
def test_an_unreadable_gold_answer_is_ungradable_and_found_by_self_check(gold: str) -> None:
    assert grade(Problem("", gold), "7", time_limit_s=30.0).kind == "ungradable"
    ((problem, verdict),) = self_check([Problem("", gold), Problem("", "7")], time_limit_s=30.0)
    assert problem.answer == gold and verdict.kind == "ungradable" and "can't be read" in verdict.reason


def test_self_check_finds_golds_that_are_missing_or_no_solution() -> None:
    task: dict[str, Any] = {"numbers": [1, 5, 5, 5], "target": 24}
    good = [
        Problem("", "5 * (5 - 1/5)", kind="expression", metadata=task),
        Problem("", None, kind="expression", metadata=task),
        Problem("", "C", kind="choice"),
        Problem("", "x \\in [-2,7]"),
    ]
    bad = [
        Problem("", "5 * 5 - 1", kind="expression", metadata=task),
        Problem("", None),
        Problem("", "?", kind="choice"),
    ]
    assert [(problem, verdict.kind) for problem, verdict in self_check(good + bad)] == [
        (bad[0], "wrong"),
        (bad[1], "ungradable"),
        (bad[2], "ungradable"),
    ]


def test_a_gold_answer_inside_a_worked_solution_is_read_from_its_box() -> None:
    assert grade(Problem("", "We add, and $2 + 2 = \\boxed{4}$."), "4").kind == "right"
    assert extract_answer("2 + 2 = 4\n#### 4") == "4"


def test_the_verdict_says_why() -> None:
    assert grade(Problem("", "5 \\text{ cm}"), "5 mm").reason == "another unit: mm, not cm"
    assert grade(Problem("", "(1,2]"), "(1,2)").reason == "other brackets: (), not (]"
    assert grade(Problem("", "C", kind="choice"), "B").reason == "B, not C"


def test_importing_and_grading_numbers_loads_neither_torch_nor_sympy() -> None:
    code = (
        "import sys; from reflective.types import Problem; from reflective.verify import grade\n"
        "assert grade(Problem('', '27'), '27.0').right and grade(Problem('', '1/2'), '0.5').right\n"
        "assert not {'torch', 'sympy', 'math_verify'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
