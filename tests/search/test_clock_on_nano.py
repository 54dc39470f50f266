"""nano: what the simulator says of an early-stopping policy is what the live engine does, trajectory by trajectory."""

from dataclasses import replace

import pytest

from reflective import Reflective
from reflective.evaluate.policies import Everything, Policy, policies
from reflective.grading import record_of
from reflective.search import DeepConf, Majority, Settings, solve
from reflective.search.simulate import simulate, traces_of
from reflective.tasks import mixture

pytestmark = pytest.mark.slow

K = 8
SETTINGS = Settings(seed=3, max_tokens=200)
PROBLEMS = 2


@pytest.fixture(scope="module")
def nano():
    return Reflective.from_pretrained("nano")


@pytest.fixture(scope="module")
def written(nano):
    """Each problem with all its trajectories, and their traces."""
    found = []
    engine = Reflective.from_pretrained("nano", keep_confidences=True).engine
    for problem in mixture("validation", PROBLEMS, (1, 2), ["countdown", "lcm"], seed=4):
        solution = solve(engine, problem, K, strategy=Majority(), settings=SETTINGS)
        traces = traces_of(record_of(solution, 0), [t.token_confidences for t in solution.trajectories])
        found.append((problem, solution.trajectories, traces))
    return found


def stopping_policies(schedule):
    """One of each family that `reflective report --policies` plays, but for what writes everything.

    DeepConf with a shorter warm-up than there, since it stops nothing before.
    """
    found = policies(K, scored=True, confident=False, schedule=replace(schedule, k=K))
    found.append(Policy("DeepConf, warm-up 3", "DeepConf", DeepConf(10.0, 3)))
    return {policy.family: policy for policy in reversed(found) if not isinstance(policy.strategy, Everything)}


def test_the_live_engine_does_what_the_simulator_says(nano, written):
    played = stopping_policies(nano.engine.judge.config.schedule)
    assert set(played) == {"prune", "adaptive consistency", "ESC", "DeepConf", "auto", "auto by agreement"}
    saved = dict.fromkeys(played, 0)
    for policy in played.values():
        for problem, whole, traces in written:
            outcome = simulate(policy.strategy, traces)
            live = solve(nano.engine, problem, K, strategy=policy.strategy, settings=SETTINGS)
            where = f"{policy.name}: {problem.text!r}"
            assert live.selected == outcome.choice.index, where
            assert live.answer == whole[live.selected].answer, where
            assert len(live.trajectories) == outcome.started, where
            told = {index: (f"token {tokens}", why) for index, (tokens, why) in outcome.let_go.items()}
            assert {t.index: tuple(t.let_go.split(": ", 1)) for t in live.trajectories if t.let_go} == told, where
            for t in live.trajectories:
                assert t.token_ids == whole[t.index].token_ids[: t.tokens], where
                assert t.let_go or t.tokens == whole[t.index].tokens, where
            kept = sum(t.tokens for t in live.trajectories if not t.let_go)
            assert kept + sum(tokens for tokens, _ in outcome.let_go.values()) == outcome.tokens, where
            assert outcome.tokens <= live.usage.completion_tokens <= sum(t.tokens for t in whole), where
            saved[policy.family] += sum(t.tokens for t in whole) - outcome.tokens
    assert min(saved.values()) > 0, "each of them stopped something"
