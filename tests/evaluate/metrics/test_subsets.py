"""Expectations over subsets against all subsets, counted one by one."""

import math
from itertools import combinations

import numpy as np
import pytest

from reflective.evaluate.metrics.subsets import best_of_k, budgets, pass_at_k, prefix_probability
from reflective.evaluate.selectors import order_keys
from tables import random_table, table

NAN = float("nan")


def test_pass_at_k_is_the_unbiased_estimator():
    # 1 - C(n-c, k) / C(n, k) with n = 5, c = 2
    got = pass_at_k(table([[1, 1, 0, 0, 0]]), [1, 2, 3, 4, 5])[0]
    assert got == pytest.approx([0.4, 1 - 3 / 10, 1 - 1 / 10, 1.0, 1.0])


def test_pass_at_k_stays_exact_for_many_trajectories():
    f = prefix_probability(1000, [1, 100, 1000])
    assert f[1] == pytest.approx([1 / 1000, 100 / 1000, 1.0])
    assert (np.diff(f, axis=0) >= -1e-12).all() and f[0] == pytest.approx([0, 0, 0])


def best_by_hand(score, right, k):
    """The mean over all subsets of the share of right ones among the highest."""
    values = []
    for subset in combinations(range(len(score)), k):
        top = max(score[i] for i in subset)
        values.append(np.mean([right[i] for i in subset if score[i] == top]))
    return float(np.mean(values))


@pytest.mark.parametrize("seed", range(5))
def test_best_of_k_is_the_mean_over_all_subsets_with_ties_shared(seed):
    t = random_table(seed, problems=6, n=6)
    got = best_of_k(t, order_keys(t, "best_of_n"), [1, 2, 3, 6])
    for p in range(6):
        for j, k in enumerate([1, 2, 3, 6]):
            # a tie is shared by expectation over the subset's tied ones: drawn fairly, one of them is taken
            assert got[p, j] == pytest.approx(best_by_hand(t.scores["score"][p], t.right[p], k)), (p, k)


def test_one_of_one_is_a_single_sample_and_equal_scores_do_not_select():
    t = random_table(1)
    assert best_of_k(t, order_keys(t, "best_of_n"), [1])[:, 0] == pytest.approx(t.right.mean(1))
    flat = table([[1, 0, 0, 0]], [[0.5] * 4])
    assert best_of_k(flat, order_keys(flat, "best_of_n"), [1, 2, 4])[0] == pytest.approx([0.25] * 3)


def test_an_unclosed_thinking_ranks_below_closed_ones_and_an_unscored_one_below_scored_ones():
    t = table([[0, 1]], [[0.9, 0.1]], closed=[[0, 1]])
    assert best_of_k(t, order_keys(t, "best_of_n"), [2])[0, 0] == 1.0
    t = table([[0, 1]], [[None, 0.01]])
    assert best_of_k(t, order_keys(t, "best_of_n"), [2])[0, 0] == 1.0


def test_without_any_score_the_log_probability_decides_as_in_search():
    t = table([[0, 1, 0]], mean_logprob=[[-2.0, -1.0, -3.0]])
    assert best_of_k(t, order_keys(t, "best_of_n"), [3])[0, 0] == 1.0


def test_ungradable_choices_say_nothing():
    t = table([[None, 1, 0]], [[0.9, 0.5, 0.1]])
    # k=1: right or wrong, each with 1/2; k=2: {0,1} and {0,2} choose the ungradable one, {1,2} the right one
    assert best_of_k(t, order_keys(t, "best_of_n"), [1, 2])[0] == pytest.approx([0.5, 1.0])
    assert math.isnan(best_of_k(t, order_keys(t, "best_of_n"), [3])[0, 0])
    assert pass_at_k(t, [1, 2])[0] == pytest.approx([0.5, 1.0])
    nothing = table([[None, None]], [[0.1, 0.2]])
    assert np.isnan(pass_at_k(nothing, [1, 2])).all()


def test_problems_may_have_different_numbers_of_trajectories_and_none():
    t = table([[1, 0, 0], [0, 1], []], [[0.9, 0.1, 0.2], [0.3, 0.8], []], chosen=[1, 1, 0])
    got = best_of_k(t, order_keys(t, "best_of_n"), [1, 2])
    assert got[:2, 1] == pytest.approx([2 / 3, 1.0])
    assert got[2].tolist() == [0.0, 0.0] == pass_at_k(t, [1, 2])[2].tolist()
    assert t.budget == 2


def test_budgets_are_dense_where_they_are_small_and_end_at_n():
    assert budgets(5) == [1, 2, 3, 4, 5] and budgets(0) == []
    assert budgets(100) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 100]
