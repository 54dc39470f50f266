"""The clock: a live search does what the simulation of its records says, and rules see only what was there."""

from dataclasses import replace

import pytest

from reflective import Problem, Scripted, ScriptedEngine
from reflective.errors import InputError
from reflective.judge.schedule import Limit, Schedule
from reflective.search import ESC, AdaptiveConsistency, AutoEffort, DeepConf, Prune, Settings, solve, solve_many
from reflective.search.adaptive_consistency import beta_above_half
from reflective.search.clock import Confidences, RunningScore
from reflective.search.deepconf import percentile
from reflective.search.simulate import simulate
from scripted_traces import PROBLEM, problems, recorded, varied

K = 12


def schedule(regret: float = 0.3, behind: float = 0.5, leader: str = "score") -> Schedule:
    weights = (-0.8, 0.0, -0.5, 0.8, 0.1, -0.3, 0.0, -0.5, 0.0, 0.4)
    return Schedule(K, 3, 1.0, 4, leader, weights, (Limit(0.05, regret, behind, 0.0, 0.3),), 0.95, 100)


STRATEGIES = [
    Prune(every=4),
    Prune(keep=0.3, survivors=1, every=8, marks=(8, 24)),
    AdaptiveConsistency(every=4),
    AdaptiveConsistency(0.8, width=3, every=4),
    ESC(3, every=4),
    DeepConf(20.0, 4, every=4),
    DeepConf(90.0, 6, window=5, every=4),
    AutoEffort(schedule()),
    AutoEffort(schedule(0.05, 0.9, "vote")),
    AutoEffort(),
]
IDS = [f"{strategy.name}-{i}" for i, strategy in enumerate(STRATEGIES)]


def let_go(solution) -> dict[int, int]:
    """Index -> the token at which it was let go."""
    return {t.index: int(t.let_go.split(":")[0].removeprefix("token ")) for t in solution.trajectories if t.let_go}


@pytest.mark.parametrize("rows", [64, 3], ids=["side by side", "three rows"])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=IDS)
def test_a_live_search_does_what_the_simulation_says(strategy, rows):
    for seed in range(4):
        outcome = simulate(strategy, recorded(varied(seed)))
        engine = ScriptedEngine(varied(seed), max_rows=rows)
        solution = solve(engine, PROBLEM, K, strategy=strategy, settings=Settings(max_tokens=90))
        assert solution.selected == outcome.choice.index
        assert let_go(solution) == {index: tokens for index, (tokens, _) in outcome.let_go.items()}
        assert len(solution.trajectories) == outcome.started
        assert solution.usage.completion_tokens == engine.tokens_written
        if rows == 64:
            assert solution.usage.completion_tokens - outcome.tokens <= len(outcome.let_go)
        else:
            assert solution.usage.completion_tokens >= outcome.tokens


@pytest.mark.parametrize("strategy", STRATEGIES, ids=IDS)
def test_what_else_is_in_flight_changes_nothing(strategy):
    texts = ["What is 2 + 2?", "What is 1 + 3?", "What is 3 + 1?"]
    settings = Settings(max_tokens=90)
    together = dict(solve_many(ScriptedEngine(varied(1), max_rows=5), texts, K, strategy=strategy, settings=settings))
    for text in texts:
        alone = solve(ScriptedEngine(varied(1)), text, K, strategy=strategy, settings=settings)
        assert (alone.selected, alone.answer, let_go(alone)) == (
            together[text].selected,
            together[text].answer,
            let_go(together[text]),
        )


@pytest.mark.parametrize(
    ("strategy", "beyond"), [(Prune(every=4), 1.0), (Prune(0.3, 1, every=4), 1.0), (AutoEffort(), 1.02)]
)
def test_rows_that_wait_hold_up_no_decision(strategy, beyond):
    """Of many problems on few rows, little more is written than simulations of them say."""
    problems = [Problem(f"What is {i} + 1?") for i in range(12)]
    engine = ScriptedEngine(varied(1), max_rows=16)
    settings = Settings(max_tokens=90)
    solved = list(solve_many(engine, problems, K, strategy=strategy, settings=settings, in_flight=16))
    told = sum(simulate(strategy, recorded(varied(1), problem)).tokens for problem in problems)
    assert len(solved) == 12 and told <= engine.tokens_written <= beyond * told


def test_every_decision_saves_tokens_and_none_costs_any():
    for traces in problems(4):
        whole = sum(trace.whole.tokens for trace in traces)
        for strategy in STRATEGIES:
            assert simulate(strategy, traces).tokens <= whole


def test_a_step_counts_from_its_own_token_on():
    trace = recorded([Scripted("One two.\n\nThree.\n\n</think>\\boxed{4}", logits=[0.0, 2.0])], k=1)[0]
    first = trace.positions[0]
    assert trace.at(first).steps == 0 and trace.at(first).score is None
    assert trace.at(first + 1).steps == 1 and trace.at(first + 1).score == pytest.approx(0.5)


def test_a_trajectory_that_ends_beyond_its_mark_has_no_vote():
    """Two short ones agree by token 8; the third ends at once after that, with another answer and a higher score."""
    script = [
        Scripted("Yes.\n\n</think>\\boxed{4}", logits=[1.0]),
        Scripted("Yes.\n\n</think>\\boxed{4}", logits=[1.0]),
        Scripted("No " * 8 + "no.\n\n</think>\\boxed{5}", logits=[9.0]),
    ]
    solution = solve(ScriptedEngine(script), PROBLEM, 3, strategy=ESC(2, every=8))
    assert solution.answer == "4" and len(solution.trajectories) == 2
    pruned = solve(ScriptedEngine(script), PROBLEM, 3, strategy=AdaptiveConsistency(0.8, width=3, every=8))
    assert pruned.answer == "4" and pruned.trajectories[2].let_go.startswith(
        "token 8: stopped early: the leading answer"
    )


def test_beta_posterior_by_hand():
    """P(p > 1/2) for Beta(4, 1) is 1 - 1/2^4; equal votes leave it open."""
    assert beta_above_half(3, 0) == pytest.approx(15 / 16)
    assert beta_above_half(2, 2) == pytest.approx(0.5)


def test_adaptive_consistency_needs_four_that_agree():
    script = [Scripted("Yes.\n\n</think>\\boxed{4}")]
    solution = solve(ScriptedEngine(script), PROBLEM, 32, strategy=AdaptiveConsistency())
    assert len(solution.trajectories) == 4  # 1 - 1/2^5 = 0.969 is the first above 0.95


def test_esc_stops_at_the_first_window_of_one_mind():
    answers = ["4", "5", "4", "4", "4"]
    script = [Scripted(f"Yes.\n\n</think>\\boxed{{{answer}}}") for answer in answers]
    solution = solve(ScriptedEngine(script), PROBLEM, 32, strategy=ESC(2))
    assert len(solution.trajectories) == 4 and solution.answer == "4"


def test_prune_keeps_the_best_half_at_each_mark():
    script = [Scripted("Go.\n\n" + " on" * 60 + "</think>\\boxed{4}", logits=[float(i)]) for i in range(8)]
    solution = solve(ScriptedEngine(script), PROBLEM, 8, strategy=Prune(every=4, marks=(4, 8), survivors=1))
    assert let_go(solution) == {0: 4, 1: 4, 2: 4, 3: 4, 4: 8, 5: 8}
    assert solution.selected == 7


def test_lowest_group_by_hand():
    """Windows of two over 4 1 3 0: 2.5, 2, 1.5."""
    sure = Confidences([4.0, 1.0])
    assert sure.lowest(1, 2) == 4.0 and sure.lowest(2, 2) == 2.5
    sure.extend([3.0, 0.0])
    assert sure.lowest(3, 2) == 2.0 and sure.lowest(4, 2) == 1.5 and sure.lowest(3, 3) == pytest.approx(8 / 3)


def test_percentile_is_numpys():
    np = pytest.importorskip("numpy")
    values = [3.0, 1.0, 2.0, 7.5, 4.0]
    for share in (0.0, 10.0, 33.0, 90.0, 100.0):
        assert percentile(values, share) == pytest.approx(np.percentile(values, share))


def test_the_running_score_is_the_geometric_mean():
    assert RunningScore([0.5, 0.125]).at(2) == pytest.approx(0.25)
    assert RunningScore([]).at(0) is None


def test_deepconf_without_confidences_says_what_to_do():
    script = [Scripted("word " * 40 + ".\n\n</think>\\boxed{4}")]
    with pytest.raises(InputError, match="which this engine does not tell. Use the engine torch"):
        solve(ScriptedEngine(script), PROBLEM, 20, strategy=DeepConf())


@pytest.mark.parametrize(
    "make",
    [
        lambda: Prune(keep=1.0),
        lambda: Prune(marks=(10,)),
        lambda: Prune(survivors=0),
        lambda: DeepConf(top=0.0),
        lambda: DeepConf(consensus=0.0),
        lambda: AdaptiveConsistency(1.0),
        lambda: ESC(0),
    ],
)
def test_options_that_mean_nothing_are_refused(make):
    with pytest.raises(InputError, match="must|small"):
        make()


def test_auto_without_a_schedule_says_so():
    script = [Scripted("Yes.\n\n</think>\\boxed{4}", logits=[1.0])]
    solution = solve(ScriptedEngine(script), PROBLEM, 32, strategy=AutoEffort())
    assert solution.answer == "4" and len(solution.trajectories) <= 8
    assert any("no stated risk" in note and "no schedule is fitted" in note for note in solution.notes)
    headless = solve(ScriptedEngine(script, scored=False), PROBLEM, 32, strategy=AutoEffort(scored=False))
    assert headless.answer == "4" and any("the model has no head" in note for note in headless.notes)


def test_policies_that_look_at_the_same_mark_of_a_record_share_what_is_seen():
    (trace,) = recorded(varied(1, endless=0.0), k=1)
    assert trace.at(4) is trace.at(4) and trace.at(4).tokens == 4
    moved = replace(trace, whole=replace(trace.whole, index=7))
    assert moved.at(4).index == 7


def test_without_a_schedule_only_an_answer_brings_a_decision(monkeypatch):
    seen = []
    decide = AutoEffort.decide
    monkeypatch.setattr(AutoEffort, "decide", lambda self, board: (seen.append(board.news), decide(self, board))[1])
    simulate(AutoEffort(), recorded(varied(3)))
    assert seen and all(seen)
