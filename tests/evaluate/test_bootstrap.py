"""Intervals: they cover what they should, they know their unit, and they never claim certainty."""

import math

import numpy as np
import pytest

from reflective.evaluate.bootstrap import Bootstrap, wilson
from reflective.evaluate.metrics.calibration import Reliability

NAN = float("nan")


def test_the_interval_of_a_mean_is_about_two_standard_errors():
    values = np.random.default_rng(0).standard_normal((400, 1))
    got = Bootstrap(400, resamples=4000).means(values)[0]
    assert got.value == pytest.approx(values.mean())
    error = values.std() / math.sqrt(400)
    assert (got.value - got.low, got.high - got.value) == pytest.approx((1.96 * error, 1.96 * error), rel=0.1)


def test_nineteen_of_twenty_intervals_hold_the_truth():
    rng, held = np.random.default_rng(1), 0
    for i in range(200):
        got = Bootstrap(50, resamples=300, seed=i).means((rng.random((50, 1)) < 0.3).astype(float))[0]
        held += got.low <= 0.3 <= got.high
    assert 178 <= held <= 200


def test_the_problem_is_the_unit_not_the_trajectory():
    # 20 problems whose 50 trajectories all agree: 1000 trajectories know no more than 20 problems
    right = np.repeat(np.random.default_rng(2).random((20, 1)) < 0.5, 50, axis=1).astype(float)
    clustered = Bootstrap(20).means(right.mean(1, keepdims=True))[0]
    loose = Bootstrap(1000).means(right.reshape(-1, 1))[0]
    assert clustered.high - clustered.low > 5 * (loose.high - loose.low)


def test_undefined_problems_are_left_out_and_nothing_is_undefined():
    got = Bootstrap(4).means(np.array([[1.0, NAN], [0.0, NAN], [NAN, NAN], [1.0, NAN]]))
    assert got[0].value == pytest.approx(2 / 3) and got[0].problems == 3
    assert math.isnan(got[1].value) and math.isnan(got[1].low) and got[1].problems == 0


def test_one_problem_has_no_interval():
    got = Bootstrap(1).means(np.array([[0.4]]))[0]
    assert got.value == 0.4 and math.isnan(got.low) and math.isnan(got.high)


def test_all_right_is_not_certainty():
    got = Bootstrap(10).means(np.ones((10, 1)), share=True)[0]
    assert (got.value, got.high) == (1.0, 1.0) and got.low == pytest.approx(0.7225, abs=1e-3)  # Wilson, 10 of 10
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-3)
    assert all(map(math.isnan, wilson(0.5, 0)))


def test_a_ratio_is_that_of_the_sums():
    above, below = np.array([[1.0], [0.0], [NAN]]), np.array([[2.0], [2.0], [5.0]])
    got = Bootstrap(3).ratios(above, below)[0]
    assert got.value == 0.25 and got.problems == 2
    assert math.isnan(Bootstrap(2).ratios(np.zeros((2, 1)), np.zeros((2, 1)))[0].value)


def test_the_same_seed_gives_the_same_interval_in_blocks_of_any_size(monkeypatch):
    values = np.random.default_rng(3).random((30, 2))
    first = Bootstrap(30, seed=4).means(values)
    assert Bootstrap(30, seed=4).means(values) == first != Bootstrap(30, seed=5).means(values)
    monkeypatch.setattr("reflective.evaluate.bootstrap.BLOCK_CELLS", 100)
    assert Bootstrap(30, seed=4).means(values)[0].low == pytest.approx(first[0].low)


def test_a_figure_that_no_resample_varies_has_no_interval():
    gain = Bootstrap(8).means(np.zeros((8, 1)))[0]
    assert gain.value == 0.0 and math.isnan(gain.low) and math.isnan(gain.high)
    alone = Bootstrap(8).means(np.array([[0.8], *[[NAN]] * 7]))[0]  # one problem that counts
    assert alone.value == 0.8 and alone.problems == 1 and math.isnan(alone.low)
    ratio = Bootstrap(4).ratios(np.full((4, 1), 0.5), np.ones((4, 1)))[0]
    assert ratio.value == 0.5 and math.isnan(ratio.low)


def test_a_ratio_of_one_is_not_certainty():
    got = Bootstrap(10).ratios(np.ones((10, 1)), np.ones((10, 1)))[0]
    assert (got.value, got.high) == (1.0, 1.0) and got.low == pytest.approx(0.7225, abs=1e-3)


def test_an_interval_of_errors_is_around_them():
    # stated 0.5, right half of the time: the true error is 0, and every resample only adds to it
    right = (np.random.default_rng(5).random((100, 1)) < 0.5).astype(float)
    reliability = Reliability.of(np.full((100, 1), 0.5), right)
    kept = Bootstrap(100).statistics([reliability.error], reliability.resampled, 100)[0]
    moved = Bootstrap(100).statistics([reliability.error], reliability.resampled, 100, centred=True)[0]
    assert kept.value == moved.value and moved.low <= moved.value <= moved.high
    assert moved.high - moved.low == pytest.approx(kept.high - kept.low)
