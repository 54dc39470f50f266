"""The order, equal answers and the vote, by hand; and the arrays' versions against those of single problems."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from reflective import Problem, Trajectory
from reflective.evaluate.metrics.voting import votes_at_k
from reflective.records import TrajectoryRecord
from reflective.selection import (
    NEGATIVE_WEIGHT,
    NO_WEIGHT,
    answer_groups,
    best_by_logprob,
    best_by_score,
    best_closed,
    by_score,
    order_keys,
    score_ranks,
    vote,
)
from tables import by_first, table

NAN = float("nan")
MATH = Problem("?")
TEXT = Problem("?", kind="exact")


@dataclass(frozen=True)
class T:
    """What a selection sees."""

    index: int
    score: float | None = None
    answer: str | None = None
    mean_logprob: float | None = None
    closed: bool = True


def indices(ts):
    return [t.index for t in ts]


def voted(*ballots, weighted=False, problem=TEXT):
    """The vote of (score, answer) pairs, numbered from 0."""
    ts = [T(i, score, answer) for i, (score, answer) in enumerate(ballots)]
    return vote(ts, answer_groups(ts, problem), weighted=weighted)


# ---- the order


def test_the_order_is_closed_then_score_then_log_probability_then_index():
    ts = [
        T(0, 0.99, closed=False),
        T(1, mean_logprob=-2.0),
        T(2, mean_logprob=-1.0),
        T(3),
        T(4, 0.1),
        T(5, 0.8),
        T(6, 0.8),
    ]
    assert indices(by_score(ts)) == [5, 6, 4, 2, 1, 3, 0]
    assert indices(by_score(ts[::-1])) == [5, 6, 4, 2, 1, 3, 0], "whatever order they are given in"
    assert best_by_score(ts).index == 5


@pytest.mark.parametrize("scores", [(-3.0, -1.0), (20.0, 40.0), (-1.0, 0.0), (1e300, 1e301), (0.5, 0.5 + 1e-15)])
def test_any_finite_score_is_ranked_and_ranks_above_none(scores):
    low, high = scores
    ts = [T(0, low), T(1, high), T(2, None, mean_logprob=-0.01), T(3, NAN), T(4, float("inf"))]
    assert indices(by_score(ts)) == [1, 0, 2, 3, 4]


def test_trajectories_and_their_records_are_closed_alike():
    for reason in ("think_end", "eos", "length", "cancelled"):
        for text, answer in (("", None), (" \n", None), ("so", None), ("so", "4")):
            t = Trajectory(0, (1,), "r", text, (), None, reason, answer)
            assert t.closed == TrajectoryRecord.of(t).closed == (reason == "think_end" or text == "so")
    without_texts = TrajectoryRecord.of(Trajectory(0, (1,), "r", "so", (), None, "eos", "4"), texts=False)
    assert without_texts.closed


def test_only_a_closed_one_is_answered_from():
    assert best_closed([T(0, 0.9, closed=False)]) == (None, ())
    assert best_closed([T(0, 0.9, closed=False), T(1)])[0] == T(1)


def test_the_log_probability_selects_among_closed_ones():
    ts = [T(0, mean_logprob=-0.1, closed=False), T(1), T(2, mean_logprob=-0.5), T(3, mean_logprob=-0.5)]
    assert best_by_logprob(ts).index == 2


# ---- equal answers


def test_a_half_and_0_5_are_one_answer_of_three():
    ts = [T(0, None, "1/2"), T(1, None, "0.5"), T(2, None, "3"), T(3)]
    assert answer_groups(ts, TEXT) == [0, 0, 1, None]
    assert vote(ts, answer_groups(ts, TEXT)).share == pytest.approx(2 / 3)


def test_answers_are_numbered_by_their_first_trajectory_whatever_order_they_are_given_in():
    ts = [T(2, None, "7"), T(0, None, "8"), T(1, None, "7.0")]
    assert answer_groups(ts, TEXT) == [1, 0, 1]


@pytest.mark.parametrize(
    ("one", "other"), [("27", "27.0"), ("1/2", "0.5"), ("1,000", "1000"), ("$5$", "5."), ("x + 1", "x+1")]
)
def test_equal_answers_are_counted_together(one, other):
    assert answer_groups([T(0, None, one), T(1, None, other)], TEXT) == [0, 0]


@pytest.mark.parametrize(("one", "other"), [("3", "-3"), ("1,2", "12"), ("(1,2)", "(2,1)"), ("A", "B"), ("1/2", "1/3")])
def test_different_answers_are_not(one, other):
    assert answer_groups([T(0, None, one), T(1, None, other)], TEXT) == [0, 1]


def test_the_grader_joins_equal_formulas_of_math_problems():
    ts = [T(0, None, "\\frac{1}{2}"), T(1, None, "0.5"), T(2, None, "\\sqrt{2}"), T(3, None, "1/2")]
    assert answer_groups(ts, MATH) == [0, 0, 1, 0]
    assert answer_groups(ts, TEXT) == [0, 1, 2, 1]


def test_the_grader_is_asked_a_bounded_number_of_times(monkeypatch):
    asked = []
    monkeypatch.setattr("reflective.selection._same", lambda *answers: bool(asked.append(answers)))
    groups = answer_groups([T(i, None, f"x_{i}") for i in range(40)], MATH)
    assert groups == list(range(40)) and len(asked) == 100


# ---- the vote


def test_votes_count_and_their_best_member_speaks():
    found = voted((0.9, "1"), (0.2, "2"), (0.3, "2"), (0.1, None))
    assert (found.winner.index, found.share, indices(found.members)) == (2, pytest.approx(2 / 3), [1, 2])
    assert voted((0.9, None)) is None


@pytest.mark.parametrize("scores", [(0.2, 0.4), (20.0, 40.0), (-4.0, -2.0), (None, -2.0), (None, 0.0)])
def test_a_tie_goes_to_the_higher_score_and_any_score_is_above_none(scores):
    low, high = scores
    assert voted((low, "1"), (high, "2")).winner.answer == "2"
    assert voted((high, "1"), (low, "2")).winner.answer == "1"
    assert voted((low, "1"), (low, "2")).winner.answer == "1", "then to the first"


def test_weights_decide_against_numbers():
    found = voted((0.9, "1"), (0.3, "2"), (0.3, "2"), (None, "2"), weighted=True)
    assert (found.winner.answer, found.share, found.notes) == ("1", pytest.approx(0.9 / 1.5), ())


def test_equal_sums_are_a_tie_whatever_their_rounding():
    # 0.1 + 0.2 > 0.3 in floating point; the best member decides
    assert voted((0.1, "1"), (0.2, "1"), (0.3, "2"), weighted=True).winner.answer == "2"
    assert voted((0.3, "2"), (0.1, "1"), (0.2, "1"), weighted=True).winner.answer == "2"


def test_negative_scores_do_not_punish_agreement():
    # as weights, -1 alone would beat -1 twice
    found = voted((-1.0, "1"), (-1.0, "1"), (-1.0, "2"), weighted=True)
    assert (found.winner.answer, found.share, found.notes) == ("1", None, (NEGATIVE_WEIGHT,))


def test_an_unscored_answer_does_not_beat_a_negative_one():
    assert voted((None, "1"), (-1.0, "2"), weighted=True).winner.answer == "2"


@pytest.mark.parametrize("score", [None, 0.0, NAN])
def test_without_any_weight_votes_count_one(score):
    found = voted((score, "1"), (score, "2"), (score, "2"), weighted=True)
    assert (found.winner.answer, found.share, found.notes) == ("2", None, (NO_WEIGHT,))


# ---- arrays


def random_problem(rng, n):
    """Scores with ties, unknown and negative ones; answers, some missing; closed or not."""
    low = rng.choice([-2, 0, 1])
    score = rng.integers(low, 4, n) / rng.choice([1.0, 3.0])
    score = np.where(rng.random(n) < 0.2, NAN, score)
    group = np.array(by_first(np.where(rng.random(n) < 0.2, -1, rng.integers(0, 4, n)).tolist()))
    answered = rng.random(n) < 0.8
    return score, np.array(by_first_answered(np.where(answered, group, -1).tolist())), rng.random(n) < 0.8


def by_first_answered(groups):
    numbers = {}
    return [-1 if g < 0 else numbers.setdefault(g, len(numbers)) for g in groups]


def known(value):
    return None if np.isnan(value) else float(value)


@pytest.mark.parametrize("seed", range(40))
def test_the_best_of_arrays_is_the_best_of_the_single_problem(seed):
    rng = np.random.default_rng(seed)
    score, _, closed = random_problem(rng, 7)
    logprob = np.where(rng.random(7) < 0.3, NAN, -rng.integers(1, 4, 7).astype(float))
    keys = order_keys(closed[None], score[None], logprob[None])
    place = -np.arange(7)  # the lower index, which arrays leave to their users
    best = int(np.lexsort((place, *(key[0] for key in reversed(keys))))[-1])
    ts = [T(i, known(score[i]), None, known(logprob[i]), bool(closed[i])) for i in range(7)]
    chosen, _ = best_closed(ts)
    assert best_by_score(ts).index == best if chosen is not None else not closed.any()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(60))
def test_the_vote_of_arrays_is_the_vote_of_the_single_problem(seed, weighted):
    rng = np.random.default_rng(seed)
    n = 8
    score, group, _ = random_problem(rng, n)
    right = np.where(group == 0, 1.0, 0.0)
    for winner in range(group.max() + 1):  # whichever answer is right, so that the winner is known
        right = np.where(group == winner, 1.0, 0.0)
        t = table([right.tolist()], [[known(s) for s in score]], [group.tolist()])
        got = votes_at_k(t, [n], draws=2)["weighted" if weighted else "majority"][0, 0]
        ts = [T(i, known(score[i])) for i in range(n)]
        found = vote(ts, [None if g < 0 else int(g) for g in group], weighted=weighted)
        assert got == float(found is not None and group[found.winner.index] == winner)


def test_score_ranks_keep_what_a_sigmoid_would_not():
    ranks = score_ranks(np.array([[20.0, 40.0, NAN, 20.0, -1.0], [NAN] * 5]))
    assert ranks.tolist() == [[2, 3, 0, 2, 1], [0] * 5]


def test_no_vote_exceeds_what_is_possible_in_the_same_draws():
    rng = np.random.default_rng(0)
    right = rng.random((50, 9)) < rng.random((50, 1))
    group = np.where(right, 0, rng.integers(1, 4, (50, 9)))
    t = table(right.astype(float).tolist(), rng.random((50, 9)).tolist(), [by_first(row) for row in group.tolist()])
    found = votes_at_k(t, list(range(1, 10)), draws=20)
    assert (found["majority"] <= found["possible"]).all() and (found["weighted"] <= found["possible"]).all()
    assert found["possible"][:, [0, 8]] == pytest.approx(np.stack([right.mean(1), right.any(1)], axis=1))
