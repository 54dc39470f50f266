"""Kinds "choice", "expression", "exact" and "factors", by hand."""

from __future__ import annotations

from typing import Any

import pytest

from reflective.types import Problem
from reflective.verify import grade

COUNTDOWN: dict[str, Any] = {"numbers": [1, 5, 5, 5], "target": 24}
AT_MOST: dict[str, Any] = {"numbers": [2, 3, 7, 50], "target": 13, "use_all": False}


def expression(answer: str, metadata: dict[str, Any] = COUNTDOWN) -> str:
    return grade(Problem("", kind="expression", metadata=metadata), answer).kind


@pytest.mark.parametrize(
    "answer",
    [
        "5 * (5 - 1/5)",
        "5*(5-1/5)",
        "5 × (5 − 1 ÷ 5)",
        "(5 - 1/5) · 5",
        "5 \\times \\left(5 - \\frac{1}{5}\\right)",
        "$5 \\cdot (5 - 1/5)$",
        "[5 - (1/5)] * 5",
        "-(1/5 - 5) * 5",
        "5 * (5 - 1/5) = 24",
        "5 * (5 - 1/5) = 24.",
    ],
)
def test_an_expression_that_makes_the_target_is_right(answer: str) -> None:
    assert expression(answer) == "right"


@pytest.mark.parametrize(
    "answer",
    [
        "5 * 5 - 1",  # leaves a 5 out
        "5 * (5 - 1/5) * 1",  # uses 1 twice
        "5 * 5 - 5/5",  # 1 for 5
        "4 * 6",  # not given
        "24",
        "5 * (5 + 1/5)",
        "51 - 55 + 28",
        "1^5 * 5 + 5",
        "5 ** (5 - 1/5)",
        "5 * (5 - 1/5",
        "5 * (5 - 1/5))",
        "5 (5 - 1/5)",
        "5.0 * (5 - 1/5)",
        "5 * (5 - 1/5) = 25",
        "24 = 5 * (5 - 1/5)",
        "5 * (5 - 1/5) = 24 = 24",
        "5 * (5 - 1/5) = 4 * 6",
        "5 / (5 - 5) + 1",
        "5 // 5 + 5 - 1",
        "5 * (5 - 1/5) # comment",
        "__import__('os')",
        "",
        "*",
        "()",
    ],
)
def test_any_other_expression_is_wrong(answer: str) -> None:
    assert expression(answer) == "wrong"


def test_numbers_may_be_left_out_only_where_the_metadata_say_so() -> None:
    assert expression("2 * 3 + 7", AT_MOST) == "right"
    assert expression("2 * 3 + 7", {**AT_MOST, "use_all": True}) == "wrong"
    assert expression("3 + 3 + 7", AT_MOST) == "wrong"
    assert expression("2 * 3 + 7", {"numbers": [2, 3, 7, 50], "target": 13}) == "wrong"  # the default is all


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"numbers": [1, 2]},
        {"numbers": [], "target": 1},
        {"numbers": ["x"], "target": 1},
        {"numbers": 5, "target": 1},
    ],
)
def test_an_expression_without_a_task_is_ungradable(metadata: dict[str, Any]) -> None:
    assert expression("1 + 2", metadata) == "ungradable"


@pytest.mark.parametrize(
    ("gold", "answer", "verdict"),
    [
        ("C", "C", "right"),
        ("C", "(C)", "right"),
        ("(C)", "c", "right"),
        ("C", "\\text{C}", "right"),
        ("C", "C. the third", "right"),
        ("AC", "C, A", "right"),
        ("C", "B", "wrong"),
        ("C", "C or D", "wrong"),
        ("C", "Carbon", "wrong"),
        ("AC", "A", "wrong"),
        ("C", "3", "wrong"),
        ("seven", "A", "ungradable"),
    ],
)
def test_choice(gold: str, answer: str, verdict: str) -> None:
    assert grade(Problem("", gold, kind="choice"), answer).kind == verdict


@pytest.mark.parametrize(
    ("gold", "answer", "verdict"),
    [
        ("olleh", "olleh", "right"),
        ("olleh", " Olleh. ", "right"),
        ("olleh", "$\\text{olleh}$", "right"),
        ("olleh", '"olleh"', "right"),
        ("a  b", "a b", "right"),
        ("[1, 2]", "[1,2]", "right"),
        ("ﬁne", "fine", "right"),
        ("２０", "20", "right"),
        ("2 × 2 × 5", "2 * 2 * 5", "right"),
        ("2 × 2 × 5", "2 \\times 2 \\times 5", "right"),
        ("2 × 2 × 5", "2·2·5", "right"),
        ("2 × 2 × 5", "2 × 5 × 2", "wrong"),
        ("27", "27.0", "wrong"),
        ("x²", "x2", "wrong"),
        ("olleh", "olle", "wrong"),
        ("olleh", "o lleh", "wrong"),
        ("-5", "5", "wrong"),
        ("olleh", "olleh\x00", "wrong"),
    ],
)
def test_exact(gold: str, answer: str, verdict: str) -> None:
    assert grade(Problem("", gold, kind="exact"), answer).kind == verdict


@pytest.mark.parametrize(
    ("gold", "answer", "verdict"),
    [
        ("2 × 2 × 5", "2 * 5 * 2", "right"),
        ("2 × 2 × 5", "5 \\cdot 2^2", "right"),
        ("2 × 2 × 5", "2² × 5", "right"),
        ("2 × 2 × 5", "2^{2} \\times 5", "right"),
        ("2 × 2 × 5", "20 = 2 × 2 × 5", "right"),
        ("2 × 2 × 5", "$2 \\times 2 \\times 5$.", "right"),
        ("7", "7", "right"),
        ("2 × 2 × 5", "4 × 5", "wrong"),
        ("2 × 2 × 5", "2 × 5", "wrong"),
        ("2 × 2 × 5", "1 × 2 × 2 × 5", "wrong"),
        ("2 × 2 × 5", "20", "wrong"),
        ("2 × 2 × 5", "21 = 2 × 2 × 5", "wrong"),
        ("2 × 2 × 5", "2 × 2 × 5 × 7", "wrong"),
        ("2 × 2 × 5", "2 + 2 + 5", "wrong"),
        ("2 × 2 × 5", "2 × 2 × 5 or so", "wrong"),
        ("2 × 2 × 5", "2^9999 × 5", "wrong"),
        ("two", "2", "ungradable"),
    ],
)
def test_factors(gold: str, answer: str, verdict: str) -> None:
    assert grade(Problem("", gold, kind="factors"), answer).kind == verdict
