"""AUC and average precision against their other definition and by hand."""

import numpy as np
import pytest

from reflective.evaluate.metrics.ranking import Pooled, within_problems
from reflective.judge.metrics import auc, within_problem_auc
from tables import random_table, table


def rows(t):
    """(score, right) of each problem, as the pure Python definition takes them."""
    none = lambda v: None if np.isnan(v) else float(v)  # noqa: E731
    return [
        [(none(s), None if np.isnan(r) else bool(r)) for s, r in zip(score, right, strict=True)]
        for score, right in zip(t.scores["score"], t.right, strict=True)
    ]


@pytest.mark.parametrize("seed", range(3))
def test_areas_are_those_of_the_definition_used_in_training(seed):
    t = random_table(seed, ungradable=0.1)
    t.scores["score"][0, :3] = np.nan
    groups = rows(t)
    within, _ = within_problems(t, t.scores["score"])
    assert np.nanmean(within) == pytest.approx(within_problem_auc(groups))
    flat = [pair for group in groups for pair in group]
    assert Pooled(t, t.scores["score"]).area == pytest.approx(auc([s for s, _ in flat], [r for _, r in flat]))


def test_average_precision_by_hand():
    # thresholds best first: right (1/1), wrong, right (2/3): AP = (1 + 2/3) / 2
    t = table([[1, 0, 1]], [[0.9, 0.5, 0.1]])
    _, within = within_problems(t, t.scores["score"])
    assert within[0] == pytest.approx((1 + 2 / 3) / 2) == Pooled(t, t.scores["score"]).precision


def test_tied_thresholds_count_at_once():
    t = table([[1, 0]], [[0.5, 0.5]])
    area, precision = within_problems(t, t.scores["score"])
    assert (area[0], precision[0]) == (0.5, 0.5)
    assert (Pooled(t, t.scores["score"]).area, Pooled(t, t.scores["score"]).precision) == (0.5, 0.5)


def test_one_class_is_undefined_not_zero_or_one():
    t = table([[1, 1], [0, 0]], [[0.9, 0.5], [0.1, 0.2]])
    area, precision = within_problems(t, t.scores["score"])
    assert np.isnan(area).all() and np.isnan(precision).all()
    assert Pooled(t, t.scores["score"]).area == 1.0
    alone = Pooled(table([[1, 1]], [[0.9, 0.5]]), np.array([[0.9, 0.5]]))
    assert np.isnan(alone.area) and np.isnan(alone.precision)


def test_binned_resamples_agree_with_exact_ones():
    t = random_table(7, problems=60)
    t.scores["score"][:] += np.random.default_rng(0).random(t.right.shape) / 100  # more thresholds than bins
    pooled = Pooled(t, t.scores["score"])
    twice = np.ones((1, 60))
    twice[0, :30] = 2
    area, precision = pooled.resampled(twice)
    doubled = t.take([*range(30), *range(60)])
    exact = Pooled(doubled, doubled.scores["score"])
    assert area[0] == pytest.approx(exact.area, abs=2e-3) and precision[0] == pytest.approx(exact.precision, abs=4e-3)


def test_the_curve_goes_from_nothing_to_everything():
    alarm, hit = Pooled(*(lambda t: (t, t.scores["score"]))(table([[1, 0, 1]], [[0.9, 0.5, 0.1]]))).curve()
    assert alarm.tolist() == [0, 0, 1, 1] and hit.tolist() == [0, 0.5, 0.5, 1]
