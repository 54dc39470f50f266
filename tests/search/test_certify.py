"""The certificate: exact p-values, a path that ends at the first failure, and what can't be fitted."""

import itertools
import math
import random
from dataclasses import replace

import pytest

from reflective.errors import CheckpointError, InputError
from reflective.judge.schedule import Limit, Schedule
from reflective.search import AutoEffort
from reflective.search.certify import fit_schedule, learn_then_test, path_of
from reflective.search.courses import Courses, Deck
from reflective.search.risk import DELTA, GAMMA, Played, certified, risk_p_value, smallest_risk
from reflective.search.simulate import simulate
from scripted_traces import problems


@pytest.fixture(scope="module")
def sampled():
    return problems(90, k=6, endless=0.0)


@pytest.fixture(scope="module")
def schedule(sampled):
    return fit_schedule(sampled, 6, every=8, head="abc", sampling={"temperature": 0.7})


def chance_of(total: int, n: int, d: float, risk: float) -> float:
    """P(Σ L ≤ total) by going through all outcomes."""
    up, down = (d + risk) / 2, (d - risk) / 2
    found = 0.0
    for ups, downs in itertools.product(range(n + 1), repeat=2):
        if ups + downs <= n and ups - downs <= total:
            ways = math.factorial(n) // math.factorial(ups) // math.factorial(downs) // math.factorial(n - ups - downs)
            found += ways * up**ups * down**downs * (1 - d) ** (n - ups - downs)
    return found


def test_the_p_value_is_that_of_all_outcomes():
    """No loss in 8 problems: the largest chance over shares of disagreement up to the bound of its confidence set."""
    highest = 1 - GAMMA ** (1 / 8)
    shares = [0.2 + i * (highest - 0.2) / 5 for i in range(6)]
    assert risk_p_value(0, 0, 8, 0.2) == pytest.approx(GAMMA + max(chance_of(0, 8, d, 0.2) for d in shares), abs=1e-9)


def test_a_certificate_is_wrong_as_rarely_as_it_says():
    """A rule that loses exactly the risk is certified in at most 5 % of draws."""
    rng, risk, n = random.Random(0), 0.03, 300
    wrong = 0
    for _ in range(400):
        drawn = [rng.random() for _ in range(n)]
        losses, gains = sum(x < 0.05 for x in drawn), sum(0.05 <= x < 0.07 for x in drawn)
        wrong += risk_p_value(losses, gains, n, risk) <= DELTA
    assert wrong / 400 <= DELTA + 0.02


def test_more_problems_and_fewer_losses_certify_less():
    assert smallest_risk(0, 0, 1000) < smallest_risk(0, 0, 300) < smallest_risk(3, 0, 300)
    assert smallest_risk(3, 3, 300) < smallest_risk(3, 0, 300)
    assert risk_p_value(0, 0, 300, 0.01) > DELTA > risk_p_value(0, 0, 700, 0.01)


def test_testing_ends_at_the_first_setting_that_fails():
    path = [(-1.0, 0.0), (0.1, 0.0), (0.2, 0.0), (0.3, 0.0)]
    results = [Played(0, 0, 1.0), Played(1, 1, 0.5), Played(30, 0, 0.4), Played(0, 0, 0.3)]
    limits = certified(results, path, 500, [0.02, 0.2])
    assert [limit.regret for limit in limits if limit.risk == 0.02] == [0.1]
    assert [limit.regret for limit in limits if limit.risk == 0.2] == [0.3]
    assert limits[0].risk == smallest_risk(0, 0, 500) and limits[0].tokens == 1.0


def test_a_path_goes_from_safe_to_cheap():
    found = {
        (0.1, 0.0): Played(0, 0, 0.6),
        (0.2, 0.0): Played(0, 0, 0.5),
        (0.1, 0.1): Played(0, 0, 0.45),
        (0.2, 0.1): Played(2, 0, 0.3),
        (0.3, 0.0): Played(2, 0, 0.4),
    }
    assert path_of(found) == [(0.1, 0.0), (0.2, 0.0), (0.1, 0.1), (0.2, 0.1)]


def test_the_fit_plays_as_the_strategy_does(sampled):
    """Losses and tokens of a limit are those of simulating effort auto with it."""
    every, k = 8, 6
    deck = Deck.of(sampled, k, every)
    by_drop = {drop: deck.play(2, 1.0, drop, "score") for drop in (0.0, 0.1)}
    weights, _ = learn_then_test(by_drop, range(30), range(30, 90), [0.5])
    for limit, drop in ((0.05, 0.0), (0.2, 0.1)):
        found = by_drop[drop].played(weights, [limit])[0]
        fitted = Schedule(k, 2, 1.0, every, 2, "score", weights, (Limit(0.5, limit, drop, 0, 0),), 0.95, 60)
        outcomes = [simulate(AutoEffort(fitted), traces) for traces in sampled]
        high = by_drop[0.0].high
        assert found.losses == sum(h and o.right is not True for h, o in zip(high, outcomes))
        assert found.tokens == pytest.approx(sum(o.tokens for o in outcomes) / by_drop[0.0].full.sum())


def test_all_trajectories_lose_nothing(sampled):
    courses = Deck.of(sampled, 6, 8).play(2, 1.0, 0.0, "score")
    found = courses.played([0.0] * 10, [-1.0])[0]
    assert (found.losses, found.gains, found.tokens) == (0, 0, 1.0)
    assert isinstance(courses.take([0, 3]), Courses) and len(courses.take([0, 3]).last) == 2


def test_a_schedule_survives_json(schedule):
    assert Schedule.from_json(schedule.to_json()) == schedule


@pytest.mark.parametrize("change", [{"weights": ["x"]}, {"limits": []}, {"leader": "luck"}, {"first": 99}])
def test_a_damaged_schedule_is_refused(schedule, change):
    with pytest.raises(CheckpointError, match="schedule"):
        Schedule.from_json({**schedule.to_json(), **change})


def test_a_schedule_is_refused_elsewhere(schedule):
    assert schedule.refusal(head="abc", sampling={"temperature": 0.7}, k=6) == ""
    assert "another head" in schedule.refusal(head="def")
    assert "temperature 0.7, not 1" in schedule.refusal(sampling={})
    assert "6 trajectories, not 32" in schedule.refusal(k=32)


@pytest.mark.parametrize("risk", [0.0, 1.0, -0.1, 2.0, float("nan")])
def test_a_risk_of_nothing_or_everything_is_refused(schedule, risk):
    with pytest.raises(InputError, match="between 0 and 1"):
        schedule.limit(risk)


def test_a_risk_below_the_smallest_is_refused(schedule):
    assert schedule.smallest_risk > 0.01  # 60 problems
    with pytest.raises(InputError, match="smallest that 60 validation problems certify"):
        schedule.limit(0.01)
    assert schedule.limit().risk == schedule.smallest_risk or schedule.limit().risk >= 0.01


def test_records_that_can_not_be_fitted_are_refused(sampled):
    def scored(score):
        return [[replace_score(trace, score) for trace in traces] for traces in sampled]

    def replace_score(trace, score):
        return replace(trace, whole=replace(trace.whole, score=score))

    with pytest.raises(InputError, match="no step scores"):
        fit_schedule(scored(None), 6)
    with pytest.raises(InputError, match="all scores"):
        fit_schedule(scored(0.5), 6)
    with pytest.raises(InputError, match="a fit needs 30"):
        fit_schedule(sampled[:10], 6)
    with pytest.raises(InputError, match="between 0 and 1"):
        fit_schedule(sampled, 6, risk=1.0)
