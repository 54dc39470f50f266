"""Figures of the reproduction, by hand-computed values."""

import math
from typing import Any

import numpy as np
import pytest

from tables import table

pytest.importorskip("trl")

import aha
import judges
import measures
import scaling
import writing

from reflective.errors import InputError
from reflective.evaluate.bootstrap import Interval

NAN = float("nan")


# ---- the scaling law


def test_points_on_a_line_give_the_line():
    compute = np.array([1e3, 1e4, 1e5, 1e6])
    # two problems, each on a line of its own over log10: 0.1 + 0.1 x and 0.3 + 0.05 x
    accuracy = np.stack([0.1 + 0.1 * np.log10(compute), 0.3 + 0.05 * np.log10(compute)])
    law = scaling.law(compute, [accuracy])
    assert law.a.value == pytest.approx(0.2)
    assert law.b.value == pytest.approx(0.075)
    assert law.at(1e5) == pytest.approx(0.2 + 0.075 * 5)
    assert law.residual == pytest.approx(0, abs=1e-12)
    assert law.explained == pytest.approx(1)
    # a resample of two problems has the one twice, each once, or the other twice: 1/4, 1/2, 1/4
    assert (law.b.low, law.b.high) == pytest.approx((0.05, 0.1))
    assert law.b_error == pytest.approx(math.sqrt(0.5) * 0.025, rel=0.1)


def test_what_lies_beside_the_line_is_told():
    # least squares through (1, 0), (2, 1), (3, 0): b = 0, a = 1/3, residuals -1/3, 2/3, -1/3
    law = scaling.law(np.array([1e1, 1e2, 1e3]), [np.array([[0.0, 1.0, 0.0]])])
    assert (law.a.value, law.b.value) == pytest.approx((1 / 3, 0))
    assert law.residual == pytest.approx(math.sqrt(2 / 9))
    assert law.explained == pytest.approx(0)


def test_a_law_over_seeds_is_their_mean_and_as_uncertain_as_they_differ():
    compute = np.array([1e1, 1e2, 1e3])
    line = np.log10(compute)
    # no problem differs from another, so all that varies are the seeds' slopes, 0.1 and 0.3
    law = scaling.law(compute, [np.stack([0.1 * line] * 4), np.stack([0.3 * line] * 4)])
    assert law.b.value == pytest.approx(0.2)
    assert (law.b.low, law.b.high) == pytest.approx((0.2 - 0.1 * math.sqrt(2), 0.2 + 0.1 * math.sqrt(2)))
    assert law.residual == pytest.approx(0, abs=1e-12)


def scaled(*logits: float) -> dict[str, list[Any]]:
    """Two seeds of a size under each of two heads: two problems, two trajectories each, the first right."""
    return {head: [table([[1, 0], [1, 0]], [[a, 0.5], [a, 0.5]])] * 2 for head, a in zip("xy", logits, strict=True)}


def test_a_size_has_a_point_for_every_power_of_two_and_every_way_to_choose():
    size = scaling._size(scaled(0.9, 0.1), parameters=10)
    assert size.ks == [1, 2]
    assert size.compute == pytest.approx([10 * size.tokens, 20 * size.tokens])
    assert size.accuracy["x"][0].mean(0) == pytest.approx([0.5, 1.0])  # this head likes what is right
    assert size.accuracy["y"][1].mean(0) == pytest.approx([0.5, 0.0])  # that one what is wrong
    assert size.accuracy["oracle (pass@k)"][0].mean(0) == pytest.approx([0.5, 1.0])
    assert [size.auc[head][0].mean() for head in "xy"] == [1.0, 0.0]


def test_a_law_over_sizes_joins_their_points():
    sizes = [scaling._size(scaled(0.9, 0.1), parameters=n) for n in (10, 100)]
    law = scaling._law(sizes, "x")
    x = np.log10(np.concatenate([size.compute for size in sizes]))
    assert law.b.value == pytest.approx(np.polyfit(x, [0.5, 1, 0.5, 1], 1)[0])
    assert scaling._law(sizes, "x", columns=1).b.value == pytest.approx(
        0
    )  # one sample of either size is right as often


# ---- the aha gap


def test_the_gap_is_the_mean_score_of_right_minus_that_of_wrong_trajectories():
    one = table([[1, 0], [1, 0]], [[0.9, 0.1], [0.5, 0.7]])
    found = aha.gap([one])
    # right: (0.9 + 0.5) / 2, wrong: (0.1 + 0.7) / 2
    assert found.value == pytest.approx(0.7 - 0.4)
    # resamples: the first problem alone 0.8, the second alone -0.2
    assert (found.low, found.high) == pytest.approx((-0.2, 0.8))


def test_the_gap_of_several_seeds_is_the_mean_of_theirs():
    one = table([[1, 0], [1, 0]], [[0.9, 0.1], [0.5, 0.3]])
    other = table([[1, 0], [0, 0]], [[0.3, 0.1], [0.2, 0.3]])
    nothing = table([[1, 1], [1, 1]], [[0.3, 0.1], [0.2, 0.3]])  # without wrong trajectories it has no gap
    assert aha.gap([one, other, nothing]).value == pytest.approx(((0.7 - 0.2) + (0.3 - 0.2)) / 2)


def test_ungradable_and_unscored_trajectories_are_not_in_the_gap():
    found = aha.gap([table([[1, 0, None, 1]], [[0.8, 0.2, 0.9, None]])])
    assert found.value == pytest.approx(0.6)


def test_without_wrong_trajectories_there_is_no_gap():
    assert math.isnan(aha.gap([table([[1, 1]], [[0.9, 0.1]])]).value)


def test_a_difference_of_gaps_is_taken_on_the_same_resamples():
    one = table([[1, 0], [1, 0]], [[0.9, 0.1], [0.5, 0.7]])
    shifted = table([[1, 0], [1, 0]], [[0.8, 0.1], [0.4, 0.7]])
    found = aha.gap_difference([one], [shifted])
    assert found.value == pytest.approx(0.1)
    assert math.isnan(found.low)  # the same in every resample: nothing varies


@pytest.mark.parametrize(
    ("intervals", "words"),
    [
        ([(-1, 1), (0.1, 0.2), (0.1, 0.3)], "the look after step 5 on"),
        ([(0.1, 0.2), (0.1, 0.2), (0.1, 0.2)], "the start on"),
        ([(0.1, 0.2), (-0.1, 0.2), (0.1, 0.2)], "the look after step 9 on"),
        ([(0.1, 0.2), (0.1, 0.2), (-0.1, 0.2)], "not opened for good within 9 steps"),
        ([(NAN, NAN), (NAN, NAN), (NAN, NAN)], "not opened for good within 9 steps"),
    ],
)
def test_a_gap_is_open_from_the_look_on_after_which_it_stays_above_zero(intervals, words):
    gaps = [Interval((low + high) / 2, low, high, 9) for low, high in intervals]
    assert words in aha.opening("plain", [0, 5, 9], gaps)


# ---- figures over seeds


def test_a_figure_is_the_mean_over_seeds_of_the_means_over_problems():
    found = measures.cell([np.array([0.0, 1.0]), np.array([1.0, 1.0])])
    assert found["value"] == pytest.approx(0.75)
    assert found["spread"] == pytest.approx(np.std([0.5, 1.0], ddof=1))
    assert found["problems"] == 2
    assert 0 <= found["low"] < 0.5 and found["high"] == 1.0


def test_what_was_not_trained_varies_over_problems_alone():
    values = np.array([0.0, 1.0, 1.0, 0.5])
    found, alone = measures.cell([values, values, values]), measures.cell([values])
    assert {key: found[key] for key in alone} == alone and found["spread"] == 0


def test_seeds_that_differ_widen_an_interval():
    # every problem is the same, so only the seeds, 0.2 and 0.4, vary: drawn are both of one, or one of each; what two
    # of two tell of their deviation from 0.3 is stretched by the square root of 2
    found = measures.interval([np.full(5, 0.2), np.full(5, 0.4)])
    assert (found.low, found.high) == pytest.approx((0.3 - 0.1 * math.sqrt(2), 0.3 + 0.1 * math.sqrt(2)))


def test_a_problem_counts_where_a_seed_knows_it():
    found = measures.cell([np.array([0.2, NAN, NAN]), np.array([0.4, 1.0, NAN])])
    assert found["value"] == pytest.approx((0.2 + 0.7) / 2)
    assert found["problems"] == 2
    assert "spread" not in measures.cell([np.array([0.2, 0.4])])


def test_a_difference_that_seeds_disagree_on_is_noise():
    problems, rng = 200, np.random.default_rng(0)
    base = rng.random(problems)
    same = measures.difference([base + 0.05 + 0.01 * rng.random(problems) for _ in range(3)], [base])
    assert same.outcome == "better" and same.problems == problems
    apart = measures.difference([base + 0.2, base + 0.01, base - 0.06], [base] * 3)
    assert apart.difference == pytest.approx(0.05) and apart.outcome == "noise" and apart.low < 0 < apart.high


def test_a_difference_is_of_the_problems_that_both_know():
    found = measures.difference([np.array([0.5, NAN, 1.0]), np.array([0.6, 0.0, 1.0])], [np.array([0.4, 0.3, NAN])])
    assert found.difference == pytest.approx((0.1 + (0.2 - 0.3) / 2) / 2)


# ---- judges side by side


def test_an_area_is_over_the_problems_that_every_judge_could_rank():
    one = table([[1, 0], [1, 0]], [[0.9, 0.1], [0.1, 0.9]])
    other = table([[1, 0], [1, 1]], [[0.9, 0.1], [0.1, 0.9]])  # nothing to rank in the second problem
    found = judges.side_by_side({"one": [one], "other": [other]}, "one")
    assert measures.cell(found["one"].auc)["value"] == 1.0 == measures.cell(found["other"].auc)["value"]
    assert list(found) == ["one", "other", judges.UNTRAINED]


def test_efforts_are_those_that_the_budget_allows_and_the_budget():
    assert measures.efforts_shown(32) == [2, 8, 32]
    assert measures.efforts_shown(16) == [2, 8, 16]
    assert [measures.effort_name(k) for k in (8, 16)] == ["effort medium (8)", "best of 16"]


def test_a_selection_ranks_by_score_and_averages_exactly():
    one = table([[1, 0, 0, 0]], [[0.9, 0.1, 0.2, 0.3]])
    found = measures.selection(one, [2, 4])
    assert found["auc"][0] == 1.0
    assert found["single"][0] == pytest.approx(0.25)
    assert found["best"][0] == pytest.approx([0.5, 1.0])  # the right one is in 3 of 6 pairs


def test_records_of_different_problems_are_not_averaged():
    with pytest.raises(InputError, match="different problems"):
        measures.same_problems([table([[1]]), table([[1], [0]])])


@pytest.mark.parametrize(
    ("value", "low", "high", "words"),
    [
        (0.1, 0.05, 0.2, "+0.100 (+0.050 to +0.200), beyond noise"),
        (-0.1, -0.2, -0.05, "beyond noise"),
        (0.1, -0.05, 0.2, "within noise"),
        (0.1, NAN, NAN, "without an interval"),
        (NAN, NAN, NAN, "undefined"),
    ],
)
def test_a_sentence_says_what_its_interval_allows(value, low, high, words):
    assert words in measures.sentence("it", {"value": value, "low": low, "high": high})


# ---- the page


def test_a_cell_shows_value_interval_and_spread():
    shown = {"value": 0.5812, "low": 0.5649, "high": 0.5971, "problems": 9, "unit": "share"}
    assert writing._cell(shown) == "0.581 (0.565 to 0.597)"
    assert writing._cell({**shown, "spread": 0.004}) == "0.581 (0.565 to 0.597) ± 0.004"
    assert writing._cell({**shown, "unit": "points", "spread": 0.01}) == "+58.1 (+56.5 to +59.7) ± 1.0"
    assert writing._cell({**shown, "low": None, "high": None}) == "0.581"
    assert writing._cell({**shown, "value": None}) == "—"
