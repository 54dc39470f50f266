"""Budgets of a problem: tokens are never passed, a deadline is kept, and the best within is answered."""

import time

import pytest

from reflective import Scripted, ScriptedEngine
from reflective.errors import InputError
from reflective.search import AutoEffort, BestOfN, Majority, Prune, Settings, solve
from scripted_traces import PROBLEM, varied


@pytest.mark.parametrize("strategy", [BestOfN(), Majority(), AutoEffort(), Prune(every=4)], ids=lambda s: s.name)
@pytest.mark.parametrize("tokens", [1, 5, 20, 60, 100, 300, 1000])
def test_a_token_budget_is_never_passed(strategy, tokens):
    engine = ScriptedEngine(varied(3))
    settings = Settings(max_tokens=90, max_total_tokens=tokens, answer_tokens=20)
    solution = solve(engine, PROBLEM, 12, strategy=strategy, settings=settings)
    assert solution.usage.completion_tokens == engine.tokens_written <= tokens


@pytest.mark.parametrize("strategy", [BestOfN(), AutoEffort(), Prune(every=4)], ids=lambda s: s.name)
def test_a_budget_in_which_nothing_can_begin_is_told(strategy):
    solution = solve(ScriptedEngine(varied(3)), PROBLEM, 4, strategy=strategy, settings=Settings(max_total_tokens=1))
    assert not solution.trajectories and "stopped at the budget of 1 tokens" in solution.notes


def test_an_ample_budget_changes_nothing():
    plain, bounded = (
        solve(ScriptedEngine(varied(3)), PROBLEM, 4, settings=Settings(max_tokens=90, max_total_tokens=most))
        for most in (None, 100_000)
    )
    assert plain.answer == bounded.answer and plain.usage == bounded.usage and plain.notes == bounded.notes


def test_a_tight_budget_lets_the_worst_go_and_still_answers():
    script = [Scripted("Go.\n\n" + "on " * 20 + "on.\n\n</think>\\boxed{4}", logits=[float(i), 9.0]) for i in range(8)]
    settings = Settings(max_total_tokens=120, answer_tokens=8)
    solution = solve(ScriptedEngine(script), PROBLEM, 8, settings=settings)
    assert solution.answer == "4" and solution.usage.completion_tokens <= 120
    gone = [t.index for t in solution.trajectories if "token budget" in t.let_go]
    assert gone and max(gone) < solution.selected


def test_a_deadline_is_kept_and_says_so():
    engine = ScriptedEngine([Scripted("on", endless=True)], on_step=lambda step: time.sleep(0.002))
    began = time.perf_counter()
    solution = solve(engine, PROBLEM, 4, settings=Settings(deadline=0.2))
    assert time.perf_counter() - began < 2.0
    assert solution.answer is None and "stopped at the deadline of 0.2 s" in solution.notes


def test_a_deadline_that_passes_at_once_gives_no_answer():
    solution = solve(ScriptedEngine(varied(3)), PROBLEM, 4, settings=Settings(deadline=1e-9))
    assert solution.answer is None and not solution.interrupted


@pytest.mark.parametrize("deadline", [0.0, -1.0, float("nan"), float("inf"), "soon", []])
def test_a_deadline_in_the_past_is_refused(deadline):
    with pytest.raises(InputError, match="deadline"):
        Settings(deadline=deadline)
