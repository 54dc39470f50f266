"""Every strategy comes to an end: interrupted at any step, without room, with one trajectory, without a step."""

import os
import signal
from dataclasses import replace

import pytest

from reflective import Scripted, ScriptedEngine
from reflective.judge.schedule import Limit, Schedule
from reflective.search import STRATEGIES, AutoEffort, DeepConf, Settings, get_strategy, solve
from reflective.search.simulate import simulate
from scripted_traces import PROBLEM, recorded, varied

LIMIT = Limit(0.05, 0.3, 0.5, 0.0, 0.3)
SCHEDULE = Schedule(12, 3, 1.0, 4, "score", (-0.8, 0, -0.5, 0.8, 0.1, -0.3, 0, -0.5, 0, 0.4), (LIMIT,), 0.95, 100)
MADE = {
    **{name: get_strategy(name) for name in STRATEGIES},
    "auto": AutoEffort(SCHEDULE),
    "auto by agreement": AutoEffort(),
    "deepconf, early": DeepConf(20.0, 4, every=4),
}
every_strategy = pytest.mark.parametrize("strategy", MADE.values(), ids=MADE)


@every_strategy
@pytest.mark.parametrize("step", [0, 1, 3, 9, 30])
def test_ctrl_c_at_any_step_leaves_what_is_there(strategy, step):
    def press(number):
        if number == step:
            os.kill(os.getpid(), signal.SIGINT)

    engine = ScriptedEngine(varied(2, endless=1.0), on_step=press, max_rows=3)  # the others have no token
    solution = solve(engine, PROBLEM, 12, strategy=strategy, settings=Settings(max_tokens=60))
    assert solution.interrupted and not engine.busy
    assert solution.usage.completion_tokens == engine.tokens_written > 0
    assert not any(t.finish_reason == "step" for t in solution.trajectories)


@every_strategy
@pytest.mark.parametrize("limits", [{"deadline": 1e-9}, {"max_total_tokens": 1}, {"max_tokens": 1}], ids=str)
def test_no_room_gives_a_solution_all_the_same(strategy, limits):
    solution = solve(ScriptedEngine(varied(2)), PROBLEM, 12, strategy=strategy, settings=Settings(**limits))
    assert not solution.interrupted and solution.notes


@every_strategy
def test_one_trajectory_is_written_and_answers(strategy):
    strategy = AutoEffort(replace(SCHEDULE, k=1, first=1)) if strategy.budget(1) > 1 else strategy
    engine = ScriptedEngine([Scripted("So it is.\n\n</think>\\boxed{4}", [1.0], confidences=[2.0])])
    solution = solve(engine, PROBLEM, 1, strategy=strategy)
    assert (solution.answer, len(solution.trajectories), solution.usage.completion_tokens) == ("4", 1, 7)


@every_strategy
def test_what_closes_at_once_without_a_step_is_an_answer(strategy):
    engine = ScriptedEngine([Scripted("</think>\\boxed{4}", confidences=[2.0])])
    assert solve(engine, PROBLEM, 4, strategy=strategy).answer == "4"


def closing_at(tokens):
    """Reasoning of so many tokens: words, the step's end and the closing mark. The answer has 22 more."""

    def script(problem, index, seed):
        said = "go " * (tokens - 3) + f"go.\n\n</think>{' so' * 20} \\boxed{{{4 + index % 2}}}"
        return Scripted(said, [float(index)], confidences=[3.0 + index / 10, 1.0 + index % 3])

    return script


EARLY = DeepConf(50.0, 3, window=4, every=16)


def test_reasoning_that_closes_at_a_mark_is_seen_there():
    outcome = simulate(EARLY, recorded(closing_at(16), k=8))
    solution = solve(ScriptedEngine(closing_at(16)), PROBLEM, 8, strategy=EARLY, settings=Settings(max_tokens=90))
    gone = {t.index: t.let_go for t in solution.trajectories if t.let_go}
    assert gone == {index: f"token {tokens}: {why}" for index, (tokens, why) in outcome.let_go.items()} != {}
    assert all(t.tokens <= 18 for t in solution.trajectories if t.let_go), "stopped there, not at its end"
    assert solution.selected == outcome.choice.index


def test_a_token_budget_with_finer_marks_loses_no_confidence():
    settings = Settings(max_tokens=90, max_total_tokens=400, answer_tokens=30)
    solution = solve(ScriptedEngine(closing_at(12)), PROBLEM, 8, strategy=EARLY, settings=settings)
    assert solution.answer in ("4", "5") and solution.usage.completion_tokens <= 400
