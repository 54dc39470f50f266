"""The scribe: what a step holds, ways back computed by hand, slips, and traces that say how their checks came out."""

from __future__ import annotations

import random

import pytest

from reflective.tasks.base import Segment
from reflective.tasks.families.scribe import Scribe, checked_trace, compute, slip, way_back, write_product


@pytest.mark.parametrize(
    ("left", "sign", "right", "result", "back"),
    [
        (47, "+", 386, (433, 0), "433 - 386 = 47"),
        (433, "-", 129, (304, 0), "304 + 129 = 433"),
        (12, "-", 40, (-28, 0), "-28 + 40 = 12"),
        (47, "*", 30, (1410, 0), "1410 / 30 = 47"),
        (6, "*", 32, (192, 0), "192 / 6 = 32"),
        (7, "*", 40, (280, 0), "280 / 40 = 7"),
        (12, "*", 14, (168, 0), "168 / 14 = 12"),
        (5, "*", 0, (0, 0), "0 / 5 = 0"),
        (84, "/", 12, (7, 0), "7 * 12 = 84"),
        (85, "/", 12, (7, 1), "7 * 12 + 1 = 85"),
    ],
)
def test_the_way_back_leads_to_where_the_operation_began(
    left: int, sign: str, right: int, result: tuple[int, int], back: str
) -> None:
    assert compute(left, sign, right) == result
    assert way_back(left, sign, right, result) == (back, True)


@pytest.mark.parametrize(
    ("left", "sign", "right", "result", "back"),
    [
        (47, "+", 386, (423, 0), "423 - 386 = 37"),
        (433, "-", 129, (314, 0), "314 + 129 = 443"),
        (47, "*", 30, (1420, 0), "1420 / 30 = 47 rest 10"),
        (6, "*", 32, (186, 0), "186 / 6 = 31"),
        (85, "/", 12, (8, 1), "8 * 12 + 1 = 97"),
        (85, "/", 12, (7, 0), "7 * 12 = 84"),
    ],
)
def test_the_way_back_from_a_wrong_result_leads_elsewhere(
    left: int, sign: str, right: int, result: tuple[int, int], back: str
) -> None:
    assert way_back(left, sign, right, result) == (back, False)


def test_no_slip_of_any_operation_goes_unnoticed() -> None:
    rng = random.Random(0)
    for _ in range(2000):
        left, sign, right = rng.randint(0, 999), rng.choice("+-*/"), rng.randint(1, 99)
        value, rest = compute(left, sign, right)
        assert way_back(left, sign, right, (value, rest))[1]
        assert not way_back(left, sign, right, (slip(value, rng), rest))[1]


def test_a_slip_keeps_the_sign_and_is_never_nothing() -> None:
    rng = random.Random(1)
    for value in (-120, -7, 1, 5, 10, 99, 4321):
        for _ in range(200):
            wrong = slip(value, rng)
            assert wrong != value
            assert wrong * value > 0


def test_a_slip_is_the_one_piece_that_is_not_learned() -> None:
    scribe = Scribe(random.Random(0), slip_at=0)
    wrong = scribe.operation(47, "+", 386, before="sum ", after=" eggs")
    assert scribe.steps == [
        (
            Segment("sum 47 + 386"),
            Segment(" = "),
            Segment(str(wrong), learn=False),
            Segment(f" eggs, {wrong} - 386 = {wrong - 386}, wrong"),
        )
    ]
    assert scribe.failed


def test_a_repaired_step_leaves_no_doubt() -> None:
    scribe = Scribe(random.Random(0), slip_at=0, repairs=True)
    assert scribe.operation(47, "+", 386, before="sum ", after=" eggs") == 433
    assert "".join(s.text for s in scribe.steps[1]) == "Again sum 47 + 386 = 433 eggs, 433 - 386 = 47, right"
    assert not scribe.failed


def test_a_product_is_written_in_parts_where_both_factors_have_several_digits() -> None:
    scribe = Scribe(random.Random(0))
    assert write_product(scribe, 36, 147, after=" eggs") == 5292
    assert ["".join(s.text for s in step).split(",")[0] for step in scribe.steps] == [
        "147 * 30 = 4410",
        "147 * 6 = 882",
        "4410 + 882 = 5292 eggs",
    ]
    assert write_product(scribe, 147, 300) == 44100
    assert len(scribe.steps) == 4


def test_a_slip_that_makes_nonsense_is_not_taken() -> None:
    def attempt(scribe: Scribe) -> str | None:
        total = scribe.operation(2, "+", 2)
        return str(total) if total == 4 else None

    for seed in range(100):
        trace = checked_trace(attempt, random.Random(seed), slip_share=1.0)
        assert trace.step_texts[-1] == "So 4, checked"
        assert trace.learn_answer
