"""AUC against its definition, and within problems against across them."""

from __future__ import annotations

import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflective.errors import InputError
from reflective.judge.metrics import auc, within_problem_auc

items = st.lists(
    st.tuples(st.one_of(st.none(), st.sampled_from([0.0, 0.25, 0.5, 1.0])), st.sampled_from([True, False, None])),
    max_size=15,
)


def test_auc_by_hand() -> None:
    # pairs (right, wrong): (0.9, 0.5) 1, (0.9, 0.1) 1, (0.5, 0.5) 1/2, (0.5, 0.1) 1
    assert auc([0.9, 0.5, 0.5, 0.1], [True, True, False, False]) == 3.5 / 4


def test_perfect_reversed_and_constant_scores() -> None:
    assert auc([3, 2, 1], [True, True, False]) == 1.0
    assert auc([1, 2, 3], [True, True, False]) == 0.0
    assert auc([1, 1, 1], [True, True, False]) == 0.5


def test_no_score_ranks_below_every_number() -> None:
    assert auc([None, 0.0], [False, True]) == 1.0
    assert auc([None, -1e9], [True, False]) == 0.0
    assert auc([None, None], [True, False]) == 0.5


def test_one_class_has_no_auc() -> None:
    assert auc([0.1, 0.2], [True, True]) is None
    assert auc([], []) is None


def test_ungradable_ones_are_left_out() -> None:
    assert auc([0.9, 0.5, 0.1], [True, None, False]) == 1.0


def test_nan_and_unequal_lengths_are_refused() -> None:
    with pytest.raises(InputError, match="NaN"):
        auc([math.nan, 0.1], [True, False])
    with pytest.raises(InputError, match="2 scores for 1 labels"):
        auc([0.1, 0.2], [True])


@given(items)
def test_auc_is_the_share_of_pairs_in_order(items: list[tuple[float | None, bool | None]]) -> None:
    right = [-1.0 if s is None else s for s, label in items if label is True]
    wrong = [-1.0 if s is None else s for s, label in items if label is False]
    pairs = [1.0 if r > w else 0.5 if r == w else 0.0 for r, w in product(right, wrong)]
    value = auc([s for s, _ in items], [label for _, label in items])
    assert value == (pytest.approx(sum(pairs) / len(pairs)) if pairs else None)


def test_telling_hard_problems_from_easy_ones_does_not_help_within() -> None:
    easy = [(0.9, True), (0.9, True), (0.9, False)]
    hard = [(0.1, False), (0.1, False), (0.1, True)]
    assert within_problem_auc([easy, hard]) == 0.5
    both = easy + hard
    assert (auc([s for s, _ in both], [label for _, label in both]) or 0) > 0.5


def test_problems_count_equally_whatever_their_number_of_trajectories() -> None:
    many = [(1.0, True)] * 9 + [(0.0, False)] * 9
    few = [(0.0, True), (1.0, False)]
    assert within_problem_auc([many, few]) == 0.5


def test_problems_without_both_kinds_are_left_out() -> None:
    assert within_problem_auc([[(0.1, True)], [(0.9, True), (0.5, False)], []]) == 1.0
    assert within_problem_auc([[(0.1, True)], []]) is None
