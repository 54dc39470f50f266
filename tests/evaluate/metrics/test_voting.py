"""Votes against the strategies of the search, and against all subsets."""

from itertools import combinations

import numpy as np
import pytest

from reflective import Problem, Step, Trajectory
from reflective.evaluate.metrics.voting import votes_at_k
from reflective.search import Majority, Weighted
from tables import random_table, table


def trajectories(score, group):
    return [
        Trajectory(
            i, (1,), "t", "a", (Step(0, 0.0),), None if np.isnan(s) else s, "eos", answer=None if g < 0 else f"a{g}"
        )
        for i, (s, g) in enumerate(zip(score, group, strict=True))
    ]


@pytest.mark.parametrize(("name", "strategy"), [("majority", Majority()), ("weighted", Weighted())])
@pytest.mark.parametrize("seed", range(4))
def test_at_k_equal_n_the_vote_is_that_of_the_search(name, strategy, seed):
    t = random_table(seed, problems=30, n=7)
    got = votes_at_k(t, [7], draws=3)[name][:, 0]
    for p in range(t.problems):
        choice = strategy.choose(trajectories(t.scores["score"][p], t.group[p]), Problem("q", kind="exact"))
        assert got[p] == t.right[p, choice.index], p


def test_majority_of_three_by_hand():
    # answers a a b b b, a is right: of the 10 subsets of three, {a, a, b} (3 of them) has a majority of a
    t = table([[1, 1, 0, 0, 0]], [[0.5] * 5], [[0, 0, 1, 1, 1]])
    got = votes_at_k(t, [1, 3, 5], draws=20_000)["majority"][0]
    assert got == pytest.approx([0.4, 0.3, 0.0], abs=0.015)


def test_weights_decide_against_numbers():
    t = table([[1, 0, 0]], [[0.9, 0.2, 0.3]], [[0, 1, 1]])
    votes = votes_at_k(t, [3], draws=1)
    assert (votes["majority"][0, 0], votes["weighted"][0, 0]) == (0.0, 1.0)


def test_who_states_no_answer_casts_no_vote_and_no_voter_is_wrong():
    t = table([[1, 0, 0]], [[0.1, 0.9, 0.9]], [[0, -1, -1]])
    assert votes_at_k(t, [3], draws=1)["majority"][0, 0] == 1.0
    got = votes_at_k(t, [2], draws=20_000)["majority"][0, 0]
    assert got == pytest.approx(2 / 3, abs=0.02)  # of the three pairs two hold the one that answers


def test_the_mean_over_draws_is_that_over_subsets():
    t = random_table(3, problems=5, n=6)
    got = votes_at_k(t, [3], draws=5000)["majority"][:, 0]
    for p in range(5):
        values = []
        for subset in combinations(range(6), 3):
            chosen = Majority().choose(
                [x for x in trajectories(t.scores["score"][p], t.group[p]) if x.index in subset],
                Problem("q", kind="exact"),
            )
            values.append(t.right[p, chosen.index])
        assert got[p] == pytest.approx(np.mean(values), abs=0.03)


def test_the_same_seed_gives_the_same_and_blocks_do_not_matter(monkeypatch):
    t = random_table(5)
    first = votes_at_k(t, [2, 4], seed=1)["weighted"]
    monkeypatch.setattr("reflective.evaluate.metrics.voting.CELLS", 1)
    assert (votes_at_k(t, [2, 4], seed=1)["weighted"] == first).all()
    assert (votes_at_k(t, [2, 4], seed=2)["weighted"] != first).any()


def test_at_k_one_a_vote_is_a_single_sample():
    t = random_table(6)
    for value in votes_at_k(t, [1, 2], draws=2).values():
        assert value[:, 0] == pytest.approx(t.right.mean(1))
