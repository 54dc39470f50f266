"""The certificate: p-values that hold, a path that ends at the first failure, and what can't be fitted."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reflective.errors import CheckpointError, InputError
from reflective.evaluate.policies import Everything, Policy, compare_policies, play_all
from reflective.judge.calibrate import fit_calibration
from reflective.judge.config import JudgeConfig
from reflective.judge.format import whole_response
from reflective.judge.judge import Judge
from reflective.judge.schedule import Schedule
from reflective.search import AutoEffort, BestOfN, Weighted, certify, get_strategy
from reflective.search.auto_effort import leader_at_high
from reflective.search.auto_fit import fit_auto
from reflective.search.certify import fit_schedule, path_of
from reflective.search.courses import Courses, Deck, learn
from reflective.search.majority import QUORUM
from reflective.search.risk import BETS, DELTA, Played, Setting, certified, risk_p_value, smallest_risk
from reflective.search.simulate import simulate
from scripted_traces import problems


@pytest.fixture(scope="module", autouse=True)
def few_are_enough():
    """Let a third of 90 problems be learnt from."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certify, "LEARNABLE", 30)
        yield


@pytest.fixture(scope="module")
def sampled():
    return problems(90, k=6, endless=0.0)


@pytest.fixture(scope="module")
def schedule(sampled):
    return fit_schedule(sampled, 6, every=8, head="abc", sampling={"temperature": 0.7})


def test_the_p_value_by_hand():
    """Two problems, one lost and one won by half: the mean over the bets λ of (1 + λ (r − 1)) (1 + λ (r + ½))."""
    wealth = sum((1 - bet * 0.8) * (1 + bet * 0.7) for bet in BETS) / len(BETS)
    assert risk_p_value(np.array([1.0, -0.5]), 0.2) == pytest.approx(min(1.0, 1 / wealth))
    assert risk_p_value(np.zeros(400), 0.01) == pytest.approx(len(BETS) / sum((1 + b * 0.01) ** 400 for b in BETS))
    assert risk_p_value(np.zeros(0), 0.01) == 1.0, "no problem certifies nothing"


def test_bets_count_by_what_they_won_on_the_problems_learnt_from():
    learnt, loss = np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.5])
    won = [(1 + bet * 0.2) ** 2 * (1 - bet * 0.8) for bet in BETS]
    wealth = sum(w * (1 + bet * 0.2) * (1 - bet * 0.3) for w, bet in zip(won, BETS, strict=True)) / sum(won)
    assert risk_p_value(loss, 0.2, learnt) == pytest.approx(min(1.0, 1 / wealth))
    assert smallest_risk(np.zeros(400), np.zeros(200)) < smallest_risk(np.zeros(400))


@pytest.mark.parametrize("learnt", [0, 150])
@pytest.mark.parametrize("orders", [1, 8])
def test_a_certificate_is_wrong_as_rarely_as_it_says(orders, learnt):
    """A rule that loses exactly the risk is certified in at most 5 % of draws."""
    rng, risk, n = np.random.default_rng(0), 0.03, 300

    def draw(n):
        kind = rng.random(n)  # a tenth may be lost, in half of the orders, 4 % may be won
        share = rng.binomial(orders, 0.5, n) / orders
        return np.where(kind < 0.1, share, np.where(kind < 0.14, -share, 0.0))

    wrong = sum(risk_p_value(draw(n), risk, draw(learnt)) <= DELTA for _ in range(600))
    assert wrong / 600 <= DELTA


losses = st.lists(st.integers(-8, 8).map(lambda eighths: eighths / 8), max_size=60).map(np.array)


@given(losses, st.floats(0.0001, 0.9999), st.floats(0.0001, 0.9999))
@example(np.full(10, -1.0), 0.1, 0.2)
def test_a_larger_risk_is_certified_where_a_smaller_one_is(loss, one, other):
    low, high = sorted((one, other))
    assert 0.0 <= risk_p_value(loss, high) <= risk_p_value(loss, low) <= 1.0
    smallest = smallest_risk(loss)
    assert risk_p_value(loss, smallest) <= DELTA
    assert smallest == 0.0001 or risk_p_value(loss, smallest - 0.0001) > DELTA  # gains alone certify even 0


@given(losses, st.floats(0.01, 0.5))
def test_a_further_loss_never_helps_and_a_gain_never_harms(loss, risk):
    before = risk_p_value(loss, risk)
    assert risk_p_value(np.append(loss, 1.0), risk) >= before >= risk_p_value(np.append(loss, -1.0), risk)


def test_more_problems_and_fewer_losses_certify_less():
    def lost(count, problems, won=0):
        return np.array([1.0] * count + [-1.0] * won + [0.0] * (problems - count - won))

    assert smallest_risk(lost(0, 1000)) < smallest_risk(lost(0, 300)) < smallest_risk(lost(3, 300))
    assert smallest_risk(lost(3, 300, won=3)) < smallest_risk(lost(3, 300))
    assert risk_p_value(lost(0, 400), 0.01) > DELTA > risk_p_value(lost(0, 410), 0.01)


def test_losses_that_some_orders_alone_have_certify_less_than_whole_ones():
    """Eight problems, each lost in one order of eight, against one problem that is lost in all."""
    spread, whole = np.zeros(600), np.zeros(600)
    spread[:8], whole[0] = 1 / 8, 1.0
    assert smallest_risk(spread) < smallest_risk(whole)


def played(lost, won, problems, tokens):
    return Played(np.array([1.0] * lost + [-1.0] * won + [0.0] * (problems - lost - won)), tokens)


def test_testing_ends_at_the_first_setting_that_fails():
    path = [Setting(-1.0), Setting(0.1), Setting(0.2), Setting(0.3)]
    results = [played(0, 0, 500, 1.0), played(1, 1, 500, 0.5), played(30, 0, 500, 0.4), played(0, 0, 500, 0.3)]
    limits = certified(results, path, [0.02, 0.2])
    assert [limit.regret for limit in limits if limit.risk == 0.02] == [0.1]
    assert [limit.regret for limit in limits if limit.risk == 0.2] == [0.3]
    assert limits[0].risk == smallest_risk(results[0].loss) and limits[0].tokens == 1.0


settings = st.lists(st.lists(st.integers(-8, 8), min_size=40, max_size=40), min_size=1, max_size=5)


@given(settings, st.lists(st.floats(0.001, 0.9), max_size=4))
@example([[0] * 39 + [8], [0] * 40], [0.3])
def test_no_risk_at_which_further_settings_are_tested_depends_on_the_losses(rows, risks):
    """Fixed sequence testing holds for a fixed risk; one that is read off the losses is of the safest setting alone."""
    results = [Played(np.array(row) / 8, 1.0 - i / 10) for i, row in enumerate(rows)]
    path = [Setting(i / 10) for i in range(len(rows))]
    found = certified(results, path, risks)
    fixed = {smallest_risk(np.zeros(40)), *risks}
    assert [limit.risk for limit in found] == sorted({limit.risk for limit in found})
    assert min(limit.risk for limit in found) >= min(fixed)
    for limit in found:
        tested = results[: path.index(Setting(limit.regret)) + 1]
        assert all(risk_p_value(result.loss, limit.risk) <= DELTA for result in tested)
        assert limit.risk in fixed or (len(tested) == 1 and limit is found[0])


def test_a_path_of_ever_riskier_settings_is_certified_wrongly_as_rarely_as_it_says():
    """Nested losses, the safest setting loses, too, as a vote may: no risk of the list nor the smallest is exceeded."""
    rng, n, draws = np.random.default_rng(1), 100, 2000
    true, listed = (0.02, 0.03, 0.05, 0.08, 0.1), (0.05, 0.08, 0.1)
    path = [Setting(share) for share in true]
    wrong = dict.fromkeys((*listed, "smallest"), 0)
    for _ in range(draws):
        fate = rng.random(n)
        results = [Played((fate < share).astype(float), 1.0 - share) for share in true]
        for limit in certified(results, path, listed):
            wrong[limit.risk if limit.risk in listed else "smallest"] += limit.regret >= limit.risk
    assert sum(wrong.values()) > 0, "some certificates are wrong, so that the shares mean something"
    assert max(wrong.values()) / draws <= DELTA


def test_a_path_goes_from_safe_to_cheap():
    found = {
        Setting(0.1): played(0, 0, 9, 0.6),
        Setting(0.2): played(0, 0, 9, 0.5),
        Setting(-1.0, keep=0.7): played(0, 0, 9, 0.45),
        Setting(0.2, 0.1): played(2, 0, 9, 0.3),
        Setting(0.3): played(2, 1, 9, 0.4),
    }
    assert path_of(found) == [Setting(0.1), Setting(0.2), Setting(-1.0, keep=0.7), Setting(0.2, 0.1)]


def sparse(sampled):
    """The same where two of three trajectories state no answer."""
    return [
        [
            replace(t, whole=replace(t.whole, group=t.whole.group if i % 3 == 0 else None, mean_logprob=-1 / (i + 1)))
            for i, t in enumerate(traces)
        ]
        for traces in sampled
    ]


def test_where_most_state_no_answer_effort_auto_at_its_safest_answers_as_effort_high(sampled):
    few = sparse(sampled)
    high = [outcome.choice.index for outcome in play_all(few, Policy("", "", Everything("weighted", QUORUM)))]
    asked = [outcome.choice.index for outcome in play_all(few, Policy("", "", Everything("weighted")))]
    fitted = fit_schedule(few, 6, every=8, high="vote", risk=0.3)
    safest = replace(fitted.limits[0], regret=-1.0, behind=0.0, keep=1.0)
    assert [simulate(AutoEffort(fitted, safest), traces).choice.index for traces in few] == high != asked
    agreed = [simulate(AutoEffort(), traces) for traces in few]
    assert [outcome.choice.index for outcome in agreed] == high, "too few agree for a stop"


@pytest.mark.parametrize("stated", ["all", "few"])
@pytest.mark.parametrize("leader", ["score", "vote"])
@pytest.mark.parametrize(("first", "growth"), [(2, 1.0), (3, 0.5), (1, 2.0)])
def test_the_fit_plays_as_the_strategy_does(sampled, stated, leader, first, growth):
    """Loss and tokens of a limit are those of simulating effort auto with it, in the recorded and in another order."""
    every, k = 8, 6
    recorded = Deck.of(sampled[:30] if stated == "all" else sparse(sampled[:30]), k, every, leader)
    for deck in (recorded, recorded.shuffled(np.random.default_rng(3))):
        ways = ((0.0, 1.0), (0.3, 1.0), (0.9, 1.0), (0.0, 0.5), (0.0, 0.8))
        by_way = {way: deck.play(first, growth, way[0], leader, way[1]) for way in ways}
        weights = learn(list(by_way.values()))
        chosen = (Setting(0.05), Setting(0.2, 0.3), Setting(0.3, 0.9), Setting(-1.0, 0.9))
        for setting in (*chosen, Setting(-1.0, keep=0.5), Setting(0.2, keep=0.8)):
            found = by_way[setting[1:]].played(weights, [setting.regret])[0]
            limits = (setting.limit(0.5, found),)
            fitted = Schedule(k, first, growth, every, leader, weights, limits, 0.95, 60)
            outcomes = [simulate(AutoEffort(fitted), renumbered(traces)) for traces in deck.traces]
            right = np.array([outcome.right is True for outcome in outcomes], dtype=float)
            assert (found.loss == by_way[ways[0]].high - right).all()
            assert found.tokens == pytest.approx(sum(o.tokens for o in outcomes) / by_way[ways[0]].full.sum())


def renumbered(traces):
    return [replace(trace, whole=replace(trace.whole, index=i)) for i, trace in enumerate(traces)]


def test_from_too_few_problems_shares_to_keep_are_tested_on_all_of_them(sampled, monkeypatch):
    monkeypatch.setattr(certify, "LEARNABLE", 31)
    fitted = fit_schedule(sampled, 6, every=8, risk=0.3)
    assert fitted.problems == 90 and fitted.smallest_risk == smallest_risk(np.zeros(90))
    cheapest = min(fitted.limits, key=lambda limit: limit.tokens)
    assert cheapest.keep < 1.0 and all(limit.regret < 0.0 and limit.behind == 0.0 for limit in fitted.limits)
    outcomes = [simulate(AutoEffort(fitted, cheapest), traces) for traces in sampled]
    whole = sum(trace.whole.tokens for traces in sampled for trace in traces)
    assert cheapest.tokens == pytest.approx(sum(outcome.tokens for outcome in outcomes) / whole)
    assert all(outcome.started == 6 for outcome in outcomes) and any(outcome.let_go for outcome in outcomes)


def test_all_problems_are_tested_where_others_are_learnt_from(sampled):
    fitted = fit_schedule(sampled, 6, every=8, learnt=sampled[:50], seed=3)
    assert fitted.problems == 90 and fitted.smallest_risk == smallest_risk(np.zeros(90), np.zeros(50))
    again = fit_schedule(sampled[::-1], 6, every=8, learnt=sampled[:50], seed=3)
    assert again.weights == fitted.weights, "the tested problems have no part in what is learnt"
    with pytest.raises(InputError, match="29 graded problems with 6 trajectories are too few to learn from"):
        fit_schedule(sampled, 6, learnt=sampled[:29])


def test_the_loss_is_against_what_effort_high_answers_by_default(sampled, monkeypatch):
    """The best by score between marks, the weighted vote where the whole response is the reasoning."""
    high = {}
    for whole, leader, how in ((False, "score", "best"), (True, "vote", "weighted")):
        assert leader_at_high(whole) == leader
        assert isinstance(get_strategy("auto", whole=whole), Weighted if leader == "vote" else BestOfN)
        deck = Deck.of(sampled, 6, 8, leader)
        played = play_all(sampled, Policy("", "", Everything(how)))
        high[leader] = [outcome.right is True for outcome in played]
        assert deck.high.tolist() == deck.shuffled(np.random.default_rng(0)).high.tolist() == high[leader]
    assert high["score"] != high["vote"]
    for learnable, learnt in ((30, 30), (31, 0)):  # learnt from, and too few for that
        monkeypatch.setattr(certify, "LEARNABLE", learnable)
        fitted = fit_schedule(sampled, 6, every=8, high="vote", risk=0.3)
        least = smallest_risk(np.zeros(fitted.problems), np.zeros(learnt))
        assert fitted.leader == "vote" and fitted.limits[0].risk == least
    row = compare_policies(sampled, [Policy("", "", Everything("weighted"))], high="vote")[0]
    assert (row.loss.value, row.accuracy.value) == (0.0, np.mean(high["vote"]))


def test_where_a_vote_leads_its_confidence_is_that_of_the_weighted_vote(sampled):
    """From one k, whose shares seldom come near 1, a unanimous vote would be called certain."""
    voted = [(Weighted.name, share, k, right) for share in (0.4, 1.0) for k in (1, 6) for right in (True, False)]
    known = fit_calibration(voted)
    judge = Judge(JudgeConfig(1, whole_response((), end_ids=[0]), calibration=known))
    fitted, schedule = fit_auto(judge, sampled, sampling={})
    calibration = fitted.config.calibration
    assert schedule.leader == "vote" and calibration is not None
    for share in (0.4, 1.0):
        assert calibration.confidence(AutoEffort.name, share, 6) == known.confidence(Weighted.name, share, 6)


def test_another_order_holds_the_same_trajectories(sampled):
    deck = Deck.of(sampled, 6, 8)
    other = deck.shuffled(np.random.default_rng(0))
    assert (other.tokens != deck.tokens).any() and (np.sort(other.tokens) == np.sort(deck.tokens)).all()
    assert all({id(t) for t in one} == {id(t) for t in two} for one, two in zip(deck.traces, other.traces))
    assert (deck.play(2, 1.0, 0.0, "score").high == other.play(2, 1.0, 0.0, "score").high).all()


def test_all_trajectories_lose_nothing(sampled):
    courses = Deck.of(sampled, 6, 8).play(2, 1.0, 0.0, "score")
    found = courses.played([0.0] * 10, [-1.0])[0]
    assert not found.loss.any() and found.tokens == 1.0
    assert isinstance(courses.take([0, 3]), Courses) and len(courses.take([0, 3]).last) == 2


def test_a_schedule_survives_json(schedule):
    assert Schedule.from_json(schedule.to_json()) == schedule
    kept = replace(schedule, limits=tuple(replace(limit, keep=0.7) for limit in schedule.limits))
    assert Schedule.from_json(kept.to_json()) == kept
    older = {**schedule.to_json(), "drop_steps": 2}
    older["limits"] = [{name: value for name, value in limit.items() if name != "keep"} for limit in older["limits"]]
    assert Schedule.from_json(older) == schedule
    renamed = [{"drop" if n == "behind" else n: value for n, value in limit.items()} for limit in older["limits"]]
    older["limits"] = [{**limit, "drop": 0.0} for limit in renamed[:2]] + [{**limit, "drop": 0.06} for limit in renamed]
    kept = tuple(replace(limit, behind=0.0) for limit in schedule.limits[:2])
    assert Schedule.from_json(older).limits == kept, "a score below which to let go is not a share of the leader's"
    older["limits"] = older["limits"][2:]
    assert Schedule.from_json(older) is None
    config = JudgeConfig(1, whole_response((5,)), schedule=schedule).to_json()
    read = JudgeConfig.from_json({**config, "format_version": 5, "schedule": older})
    assert read == JudgeConfig(1, whole_response((5,))), "the head loads without its schedule"


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
    with pytest.raises(InputError, match="smallest that 60 validation problems certify"):
        fit_schedule(sampled, 6, risk=0.01)
    unknown = [[replace(trace, right=None) for trace in traces] for traces in sampled[:80]]
    with pytest.raises(InputError, match="10 graded problems"):  # what is never right loses nothing, and says nothing
        fit_schedule([*unknown, *sampled[80:]], 6)


@pytest.mark.parametrize("right", [True, False])
def test_problems_that_are_all_alike_certify_what_so_many_can(sampled, right):
    alike = [[replace(trace, right=right) for trace in traces] for traces in sampled]
    fitted = fit_schedule(alike, 6)
    assert fitted.smallest_risk == smallest_risk(np.zeros(60), np.zeros(30)) and fitted.limits[0].tokens < 1.0


def test_one_trajectory_of_each_problem_leaves_nothing_to_save(sampled):
    assert {limit.tokens for limit in fit_schedule(sampled, 1).limits} == {1.0}
