"""Trajectory scores from step logits: values by hand, extremes, and what they have in common."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflective.errors import EngineError, InputError
from reflective.judge.aggregate import AGGREGATIONS, aggregate, logit, logsigmoid, sigmoid

ODDS_3, ODDS_THIRD = math.log(3), -math.log(3)  # σ = 3/4 and 1/4
logits = st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=30)


@pytest.mark.parametrize(
    ("how", "score"),
    [
        ("geometric_mean", math.sqrt(0.75 * 0.25)),
        ("min", 0.25),
        ("last", 0.25),
        ("mean", 0.5),
        ("product", 0.75 * 0.25),
    ],
)
def test_two_steps_by_hand(how: str, score: float) -> None:
    assert aggregate([ODDS_3, ODDS_THIRD], how) == pytest.approx(score, rel=1e-12)


def test_geometric_mean_is_the_default() -> None:
    assert aggregate([ODDS_3, ODDS_3, ODDS_THIRD]) == pytest.approx((0.75 * 0.75 * 0.25) ** (1 / 3))


@pytest.mark.parametrize("how", AGGREGATIONS)
def test_no_step_has_no_score(how: str) -> None:
    assert aggregate([], how) is None


@pytest.mark.parametrize("how", AGGREGATIONS)
def test_one_step_has_its_own_score(how: str) -> None:
    assert aggregate([ODDS_3], how) == pytest.approx(0.75)


def test_huge_logits_neither_overflow_nor_lose_their_order() -> None:
    assert aggregate([1e300, 1e300]) == 1.0
    assert aggregate([-1e300]) == 0.0
    assert aggregate([math.inf, -math.inf]) == 0.0
    # 50 steps of σ(-30) multiply to 1e-652, below the smallest float; their geometric mean is still σ(-30)
    assert aggregate([-30.0] * 50) == pytest.approx(math.exp(-30), rel=1e-9)
    assert logsigmoid(-1000.0) == -1000.0
    assert logsigmoid(40.0) == pytest.approx(-math.exp(-40.0), rel=1e-12)
    assert sigmoid(-1000.0) == 0.0 and sigmoid(1000.0) == 1.0


@pytest.mark.parametrize("how", AGGREGATIONS)
def test_nan_is_an_error_and_not_a_score(how: str) -> None:
    with pytest.raises(EngineError, match="step 1 is NaN"):
        aggregate([0.0, math.nan], how)


def test_unknown_aggregation_is_refused() -> None:
    with pytest.raises(InputError, match="Known: geometric_mean, min"):
        aggregate([0.0], "median")


@given(logits)
def test_scores_lie_in_the_unit_interval_and_in_their_order(steps: list[float]) -> None:
    scores = {how: aggregate(steps, how) for how in AGGREGATIONS}
    assert all(score is not None and 0.0 <= score <= 1.0 for score in scores.values())
    product, lowest, geometric, mean = (scores[how] or 0.0 for how in ("product", "min", "geometric_mean", "mean"))
    slack = 1 + 1e-9
    assert product <= lowest * slack and lowest <= geometric * slack and geometric <= mean * slack


@given(logits, st.randoms())
def test_order_of_steps_matters_to_the_last_alone(steps: list[float], random: object) -> None:
    shuffled = list(steps)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for how in AGGREGATIONS:
        if how != "last":
            assert aggregate(shuffled, how) == pytest.approx(aggregate(steps, how), rel=1e-12)


@given(st.floats(-700, 700))
def test_logsigmoid_is_the_logarithm_of_sigmoid(s: float) -> None:
    assert logsigmoid(s) == pytest.approx(math.log(sigmoid(s)), rel=1e-9, abs=1e-15)


def test_logit_undoes_sigmoid_and_ends_where_it_is_told() -> None:
    assert [logit(p, 1e-12) for p in (0.75, 0.25)] == pytest.approx([ODDS_3, ODDS_THIRD])
    assert logit(1.0, 1e-4) == pytest.approx(math.log(9999)) == pytest.approx(-logit(0.0, 1e-4))
