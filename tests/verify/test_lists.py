"""Kind "list", and antiderivatives, by hand."""

from __future__ import annotations

import pytest

from reflective.types import Problem
from reflective.verify import grade
from reflective.verify.math.integral import antiderivatives


def kind(gold: str, answer: str) -> str:
    return grade(Problem("", gold, kind="list"), answer).kind


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("['-92.5', '-81.9']", "[-92.50, -81.9]"),
        ("['a b', 'c']", 'a b, "c"'),
        ("[[1,0],[0,1]]", "[[1, 0], [0, 1]]"),
        ("[[1,0],[0,1]]", "((1, 0), (0, 1))"),
        ("[]", "[ ]"),
        ("[3]", "3"),
        ("1, 2, 3", "$[1, 2, 3]$"),
    ],
)
def test_the_same_items_are_right_however_they_are_written(gold: str, answer: str) -> None:
    assert kind(gold, answer) == "right"


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("[1, 2]", "[2, 1]"),
        ("[1, 2]", "[1, 2, 3]"),
        ("[1, 2]", "[1]"),
        ("[[1,0],[0,1]]", "[1, 0, 0, 1]"),
        ("[[1,0],[0,1]]", "[[1, 0, 0], [1]]"),
        ("[1, 2]", "[1, 2"),
        ("[1, 2]", "1 2"),
        ("[1, 2]", "[1, 2] or [3]"),
        ("[0.1]", "[0.10000001]"),
        ("['a']", "['A']"),
        ("[1]", "[" * 5000 + "1" + "]" * 5000),
        ("[1]", "1," * 50_000),
    ],
)
def test_other_items_or_none_are_wrong(gold: str, answer: str) -> None:
    assert kind(gold, answer) == "wrong"


def test_a_gold_that_is_no_list_is_ungradable() -> None:
    assert kind("[1, 2", "[1, 2]") == "ungradable"


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("x**2 + C", "x^2 + 7"),
        ("x**2 + C", "F(x) = x**2 + C"),
        ("sin(x)**2/2 + C", "-cos(x)**2/2 + C"),  # they differ by 1/2
        ("log(2*x) + C", "\\ln x"),  # by ln 2
        ("x*asin(3*x) + sqrt(1 - 9*x**2)/3 + C", "\\frac{\\sqrt{1 - 9x^2}}{3} + x \\arcsin(3x)"),
        ("exp(2*x)/2 + C", "\\frac{e^{2x}}{2} + K"),
    ],
)
def test_antiderivatives_differ_by_a_constant(gold: str, answer: str) -> None:
    assert antiderivatives(gold, answer, "x")[0] == "right"


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("x**2 + C", "x**2 + x"),
        ("x**2 + C", "2*x"),
        ("x**2 + C", "C"),
        ("x**2 + C", "y**2 + C"),
        ("x**2 + C", "x**2 +"),
        ("log(2*x) + C", "log(x)/log(10)"),
        ("sin(x) + C", "sin(x)**2"),
        ("x**2 + C", "x**2 + 10**-12 * x"),
        ("x**2 + C", "(" * 3000 + "x"),
    ],
)
def test_other_derivatives_are_wrong(gold: str, answer: str) -> None:
    assert antiderivatives(gold, answer, "x")[0] == "wrong"


def test_an_antiderivative_that_can_not_be_read_makes_the_problem_ungradable() -> None:
    assert antiderivatives("Integral(x)", "x**2", "x")[0] == "ungradable"
