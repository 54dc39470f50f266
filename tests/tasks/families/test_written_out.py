"""Each family's wording, with values computed by hand: one of its ways to write a problem out."""

from __future__ import annotations

import random
from textwrap import dedent

import pytest

from reflective.tasks import get_task
from reflective.types import Problem

pytest.importorskip("reasoning_gym")


def written_out(name: str, **metadata: object) -> set[str]:
    """The ways in which a family writes a problem out."""
    problem = Problem(text="With 6, 32, 8, 45 and 12.", answer="", family=name, metadata=metadata)
    return {"\n".join(get_task(name).trace(problem, random.Random(seed)).step_texts) for seed in range(500)}


def assert_written(expected: str, name: str, **metadata: object) -> None:
    assert dedent(expected).strip() in written_out(name, **metadata)


def test_a_sum() -> None:
    assert_written(
        """
        47 + 386 = 433, 433 - 386 = 47, right
        433 - 129 = 304, 304 + 129 = 433, right
        So 304, checked
        """,
        "chain_sum",
        expression="47 + 386 - 129",
    )


def test_a_slip_that_is_noticed_and_written_anew() -> None:
    assert_written(
        """
        47 + 386 = 434, 434 - 386 = 48, wrong
        Again 47 + 386 = 433, 433 - 386 = 47, right
        So 433, checked
        """,
        "chain_sum",
        expression="47 + 386",
    )


def test_a_product() -> None:
    assert_written(
        """
        47 * 30 = 1410, 1410 / 30 = 47, right
        47 * 6 = 282, 282 / 6 = 47, right
        1410 + 282 = 1692, 1692 - 282 = 1410, right
        So 1692, checked
        """,
        "products",
        factors=[47, 36],
    )


def test_an_equation() -> None:
    assert_written(
        """
        7 * x = 64 - 15 = 49, 49 + 15 = 64, right
        x = 49 / 7 = 7, 7 * 7 = 49, right
        So 7, checked
        """,
        "simple_equations",
        equation="7*x + 15 = 64",
    )


def test_an_equation_with_its_unknown_subtracted() -> None:
    assert_written(
        """
        4 * x = 15 - 3 = 12, 12 + 3 = 15, right
        x = 12 / 4 = 3, 3 * 4 = 12, right
        So 3, checked
        """,
        "simple_equations",
        equation="15 - 4*x = 3",
    )


def test_an_equation_that_goes_on_after_a_slip() -> None:
    assert_written(
        """
        7 * x = 64 - 15 = 59, 59 + 15 = 74, wrong
        x = 59 / 7 = 8 rest 3, 8 * 7 + 3 = 59, right
        So 8, doubtful
        """,
        "simple_equations",
        equation="7*x + 15 = 64",
    )


def test_legs() -> None:
    assert_written(
        """
        dog 3 * 4 = 12, 12 / 4 = 3, right
        sea slug 0
        bird 2 * 2 = 4, 4 / 2 = 2, right
        12 + 4 = 16, 16 - 4 = 12, right
        So 16, checked
        """,
        "leg_counting",
        animals=[["dog", 3], ["sea slug", 2], ["bird", 2]],
    )


def test_no_legs() -> None:
    assert written_out("leg_counting", animals=[["sea slug", 2]]) == {"sea slug 0\nSo 0, checked"}


def test_a_greatest_common_divisor() -> None:
    assert_written(
        """
        84 / 36 = 2 rest 12, 2 * 36 + 12 = 84, right
        36 / 12 = 3, 3 * 12 = 36, right
        So 12, checked
        """,
        "gcd",
        numbers=[36, 84],
    )


def test_a_least_common_multiple() -> None:
    assert_written(
        """
        84 / 36 = 2 rest 12, 2 * 36 + 12 = 84, right
        36 / 12 = 3, 3 * 12 = 36, right
        84 / 12 = 7, 7 * 12 = 84, right
        7 * 36 = 252, 252 / 7 = 36, right
        So 252, checked
        """,
        "lcm",
        numbers=[36, 84],
    )


def test_prime_factors() -> None:
    assert_written(
        """
        58 / 2 = 29, 29 * 2 = 58, right
        29 / 3 = 9 rest 2, 9 * 3 + 2 = 29, right
        29 prime
        So 2 × 29, checked
        """,
        "prime_factorization",
        number=58,
    )


def test_prime_factors_with_a_divisor_that_is_none() -> None:
    assert_written(
        """
        58 / 2 = 29, 29 * 2 = 58, right
        29 / 3 = 9, 9 * 3 = 27, wrong
        9 / 3 = 3, 3 * 3 = 9, right
        3 prime
        So 2 × 3 × 3 × 3, doubtful
        """,
        "prime_factorization",
        number=58,
    )


def test_a_number_that_a_slip_has_called_prime_is_not_learned() -> None:
    problem = Problem(text="", answer="", family="prime_factorization", metadata={"number": 49})
    traces = [get_task("prime_factorization").trace(problem, random.Random(seed)) for seed in range(100)]
    steps = {step[0] for trace in traces for step in trace.steps if step[0].text.endswith(" prime")}
    assert {(step.text, step.learn) for step in steps} >= {("49 prime", False), ("7 prime", True)}


def test_a_word_problem() -> None:
    assert_written(
        """
        6 * 32 = 192 eggs, 192 / 6 = 32, right
        8 * 45 = 360, 360 / 8 = 45, right
        192 + 360 = 552, 552 - 360 = 192, right
        552 / 12 = 46 boxes, 46 * 12 = 552, right
        So 46, checked
        """,
        "gsm_symbolic",
        equations=[[[6, "*", 32, 192]], [[8, "*", 45, 360]], [[192, "+", 360, 552], [552, "/", 12, 46]]],
        nouns=["eggs", "", "boxes"],
    )


def test_a_search() -> None:
    assert_written(
        """
        8 - 5 = 3, 3 * 6 = 18 for 18, yes
        8 - 5 = 3, 3 + 5 = 8, right
        3 * 6 = 18, 18 / 6 = 3, right
        uses 5 6 8 for 5 6 8, right
        So (8 - 5) * 6, checked
        """,
        "countdown",
        numbers=[8, 5, 6],
        target=18,
    )


def test_a_wishful_search() -> None:
    assert_written(
        """
        8 + 5 = 13, 13 + 6 = 18 for 18, yes
        8 + 5 = 13, 13 - 5 = 8, right
        13 + 6 = 18, 18 - 6 = 12, wrong
        So 8 + 5 + 6, doubtful
        """,
        "countdown",
        numbers=[8, 5, 6],
        target=18,
    )
