"""The paired test: it sees differences, calls noise noise, and is exact where that can be counted."""

import math

import numpy as np
import pytest

from reflective.evaluate.paired import common, compare
from tables import random_table, table


def test_by_hand_all_flips_are_counted():
    # differences 1, 1, 1: of the 8 flips two are as extreme
    got = compare(np.array([1.0, 1.0, 1.0]), np.zeros(3))
    assert got.difference == 1.0 and got.p == 0.25 and got.outcome == "noise"


def test_five_of_five_is_noise_and_six_of_six_is_not():
    assert compare(np.ones(5), np.zeros(5)).outcome == "noise"  # 2 / 32
    six = compare(np.ones(6), np.zeros(6))
    assert six.p == 2 / 64 and six.outcome == "better"
    assert compare(np.zeros(6), np.ones(6)).outcome == "worse"


def test_the_same_run_is_no_different():
    values = np.random.default_rng(0).random(50)
    got = compare(values, values)
    assert (got.difference, got.p, got.outcome) == (0.0, 1.0, "noise")
    assert "beyond noise" in got.sentence("a", "b")


def test_a_difference_that_pairing_shows_though_problems_differ_more():
    rng = np.random.default_rng(1)
    hard = rng.random(200)
    got = compare(np.clip(hard + 0.02 + 0.02 * rng.standard_normal(200), 0, 2), hard)
    assert got.outcome == "better" and got.low > 0 and "a is better than b" in got.sentence("a", "b")


def test_equal_runs_are_told_apart_one_time_in_twenty():
    rng, found = np.random.default_rng(2), 0
    for i in range(100):
        a, b = ((rng.random((40, 2)) < 0.5).astype(float)).T
        found += compare(a, b, seed=i).outcome != "noise"
    assert found <= 12


def test_only_common_problems_count_and_none_is_unknown():
    a = table([[1], [0], [1]])
    b = a.take([2, 0])
    left, right = common(a, b)
    assert left.keys == right.keys == ("p0", "p2")
    nothing = compare(np.array([math.nan]), np.array([1.0]))
    assert nothing.outcome == "unknown" and nothing.problems == 0
    assert "no problem in common" in nothing.sentence("a", "b")


def test_the_random_flips_agree_with_the_exact_ones(monkeypatch):
    difference = random_table(3, problems=12).right.mean(1) - 0.4
    exact = compare(difference, np.zeros(12)).p
    monkeypatch.setattr("reflective.evaluate.paired.EXACT", 0)
    assert compare(difference, np.zeros(12)).p == pytest.approx(exact, abs=0.02)


def test_random_flips_never_make_a_p_of_zero():
    # one run is right in all of 100 problems, the other in none: no random flip is as extreme as the observed one
    assert compare(np.ones(100), np.zeros(100)).p == pytest.approx(1 / 10_001)
