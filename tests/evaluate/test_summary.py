"""The summary: figures by hand, undefined ones as NaN, and everything as JSON."""

import json
import math

import pytest

from reflective.cli.common import print_json
from reflective.evaluate.selectors import LABELS, SELECTORS
from reflective.evaluate.summary import summarise
from reflective.evaluate.table import SCORES
from reflective.records import finite
from tables import random_table, table


def test_figures_by_hand():
    t = table([[1, 0], [1, 1]], [[0.9, 0.1], [0.4, 0.6]], confidence=[0.8, 0.6], chosen=[1, 0])
    s = summarise(t)
    assert (s.problems, s.trajectories, s.budget) == (2, 4, 2)
    assert s.figures["chosen"].value == 0.5 and s.figures["single"].value == 0.75
    assert s.curves["oracle"].last.value == s.curves["best_of_n"].last.value == 1.0
    assert s.figures["gain"].value == 0.25
    assert s.figures["tokens_per_trajectory"].value == 10.0 and s.figures["seconds_per_problem"].value == 1.0
    assert s.figures["ece_confidence"].value == pytest.approx((0.2 + 0.6) / 2)
    assert s.selection["best_of_n"].last.value == 1.0
    assert s.ranking["best_of_n"]["auc_within"].value == 1.0 and s.ranking["best_of_n"]["auc_within"].problems == 1


def test_selection_is_judged_where_a_right_one_is_there():
    t = table([[1, 0], [0, 0]], [[0.1, 0.9], [0.5, 0.6]])
    s = summarise(t)
    assert s.curves["best_of_n"].last.value == 0.0 and s.curves["oracle"].last.value == 0.5
    assert s.selection["best_of_n"].last.value == 0.0 and s.selection["best_of_n"].points[0].value == 1.0


@pytest.mark.parametrize("ungradable", [0.0, 0.2])
def test_no_choice_is_right_more_often_than_a_right_one_is_there(ungradable):
    for seed in range(4):
        t = random_table(seed, problems=40, n=8, ungradable=ungradable / 4)
        s = summarise(t, resamples=50, draws=10)
        for curve in s.selection.values():
            assert all(p.value <= 1.0 and not p.high > 1.0 for p in curve.points)
        # one sample is right wherever a right one is there
        assert all(curve.points[0].value == 1.0 for curve in s.selection.values())


def test_a_problem_with_an_ungradable_answer_says_nothing_of_right_ones_that_are_there():
    # chosen of the first problem, given that it can be judged: right more often than a right one is known to be there
    t = table([[1, None, None, 0, 0, 0], [1, 0, 0, 0, 0, 0]], [[0.9, 0.8, 0.7, 0.1, 0.1, 0.1]] * 2)
    s = summarise(t)
    assert s.curves["best_of_n"].points[1].problems == 2
    assert s.selection["best_of_n"].points[1].value == 1.0 and s.selection["best_of_n"].points[1].problems == 1


def test_negative_scores_weigh_no_votes_and_rank_all_the_same():
    t = table([[1, 0, 0], [0, 1, 1]], [[-1.0, -2.0, -3.0], [20.0, 40.0, 30.0]])
    s = summarise(t)
    assert "weighted" not in s.curves and {"majority", "best_of_n"} <= set(s.curves)
    assert s.curves["best_of_n"].last.value == 1.0
    assert "weighted" in summarise(table([[1, 0]], [[20.0, 40.0]])).curves


def test_what_is_not_known_is_nan_and_null_and_never_zero_or_one(capsys):
    s = summarise(table([[None, None], [None, None]], confidence=None, chosen=[None, None]))
    assert math.isnan(s.figures["chosen"].value) and math.isnan(s.curves["oracle"].last.value)
    assert s.ranking == {} and "best_of_n" not in s.curves
    print_json(s.to_json())
    data = json.loads(capsys.readouterr().out)
    assert data["figures"]["chosen"]["value"] is None and data["accuracy"]["oracle"]["value"] == [None, None]


def test_no_problem_and_no_trajectory_are_no_error():
    empty = summarise(table([]))
    assert empty.problems == 0 and empty.curves == {} and math.isnan(empty.figures["chosen"].value)
    none = summarise(table([[], []], chosen=[0, 0]))
    assert none.budget == 0 and none.figures["chosen"].value == 0.0


def test_ungradable_answers_are_a_figure_of_their_own():
    t = table([[1, None], [0, 1]], [[0.1, 0.9], [0.2, 0.8]], [[0, 1], [0, 1]])
    s = summarise(t)
    assert s.figures["ungradable"].value == 0.25
    assert s.curves["best_of_n"].last.value == 1.0  # the first problem's choice can't be judged, the second's is right


def test_training_free_selectors_stand_beside_the_score():
    t = random_table(0)
    for name in SCORES:
        t.scores[name][:] = t.right + 0.0
    s = summarise(t, resamples=50, draws=10)
    assert set(SELECTORS) <= set(s.curves) <= set(LABELS)
    for name in SELECTORS:
        assert s.curves[name].last.value == s.curves["oracle"].last.value and s.ranking[name]["auc"].value == 1.0


def test_families_are_judged_apart():
    t = table([[1, 1], [0, 0], [1, 1]], [[0.5, 0.5]] * 3, families=["a", "b", "a"])
    s = summarise(t)
    assert s.families["a"]["best_of_n"].value == 1.0 and s.families["b"]["best_of_n"].value == 0.0
    assert s.families["a"]["single"].problems == 2


def test_the_same_table_gives_the_same_figures():
    t = random_table(4, ungradable=0.05)
    first, second = (finite(summarise(t, resamples=100).to_json()) for _ in range(2))  # NaN is not equal to itself
    assert first == second
