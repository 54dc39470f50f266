"""Tolerances that a problem states: absolute, one for all answers or one for each."""

from __future__ import annotations

import pytest

from reflective.types import Problem
from reflective.verify import grade


def kind(gold: str, answer: str, *tolerances: str) -> str:
    return grade(Problem("", gold, metadata={"tolerances": list(tolerances)}), answer).kind


@pytest.mark.parametrize(
    ("gold", "answer", "tolerances"),
    [
        ("2.3", "2.4", ["0.1"]),
        ("2.3", "2.2", ["0.1"]),
        ("\\pi", "3.14", ["0.01"]),
        ("3.14", "\\pi", ["0.01"]),
        ("3.14", "\\frac{22}{7}", ["0.01"]),
        ("1.5, 2.5", "2.51, 1.49", ["0.02"]),  # one for all
        ("1.5, 2.5", "2.51, 1.5", ["0", "0.02"]),  # one for each gold answer, whatever the order
        ("30\\%", "31\\%", ["1"]),
    ],
)
def test_within_the_tolerance_is_right(gold: str, answer: str, tolerances: list[str]) -> None:
    assert kind(gold, answer, *tolerances) == "right"
    assert kind(gold, answer) == "wrong"


@pytest.mark.parametrize(
    ("gold", "answer", "tolerances"),
    [
        ("2.3", "2.41", ["0.1"]),
        ("2.3", "-2.3", ["0.1"]),
        ("1.5, 2.5", "2.5, 1.51", ["0", "0.02"]),
        ("1.5, 2.5", "1.5", ["5"]),
        ("x + 1", "x + 1.01", ["0.1"]),
        ("30\\%", "0.31", ["0.1"]),  # of percentages or of ratios?
        ("5", "5.05 + i", ["0.1"]),
    ],
)
def test_beyond_it_is_wrong(gold: str, answer: str, tolerances: list[str]) -> None:
    assert kind(gold, answer, *tolerances) == "wrong"


def test_tolerances_that_are_none_make_the_problem_ungradable() -> None:
    assert kind("5", "5.1", "a bit") == "ungradable"
