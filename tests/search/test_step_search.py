"""Searches over steps, with scripted trajectories: what is kept, what is forked, what is paid, and what is refused."""

import math

import pytest

from reflective import EngineError, InputError, Problem, Reflective, Scripted, ScriptedEngine
from reflective.engines.scripted import WHOLE_RESPONSE
from reflective.records import Record
from reflective.search import DVTS, MCTS, Beam, Finished, Forked, Particles, Settings, get_strategy, solve, solve_many
from reflective.search.mcts import tree
from reflective.search.particles import softmax, systematic
from reflective.search.step_search import evenly
from reflective.types import Step, Trajectory

STRATEGIES = ("beam", "dvts", "particles", "mcts")


def logit(score):
    return math.log(score / (1 - score))


def scripted(scores, *, answer=None, steps=4, word=None):
    """A trajectory of that many steps with these scores, the last one for all that follow."""
    word = f"w{scores[0] if word is None else word}".replace(".", "")
    scores = [*scores, *[scores[-1]] * (steps - len(scores))]
    text = "".join(f"s{i} of {word}.\n\n" for i in range(steps))
    return Scripted(f"{text}</think>\\boxed{{{answer}}}", logits=[logit(s) for s in scores])


def lottery(problem, index, seed):
    """Every index has steps and scores of its own, a function of its seed."""
    scores = [0.1 + 0.8 * ((seed >> (7 * i)) % 97) / 97 for i in range(2 + seed % 4)]
    return scripted(scores, answer=seed % 3, steps=len(scores), word=seed)


def tokens_of(solution):
    return sum(t.tokens - t.at for t in solution.trajectories)


# ---- beam


def test_the_best_beams_go_on_in_all_rows():
    script = [scripted([s], answer=i) for i, s in enumerate((0.5, 0.9, 0.3, 0.7))] + [
        scripted([0.9, s], answer=4 + i) for i, s in enumerate((0.1, 0.95))
    ]
    solution = solve(ScriptedEngine(script), "what", 4, strategy=Beam(width=2))
    assert [t.let_go for t in solution.trajectories[:3]] == [
        "pruned: score 0.500 after step 1, others go on",
        "",
        "pruned: score 0.300 after step 1, others go on",
    ]
    # the second round: rows 1 and 3 go on, each with a fork; a step has four tokens
    first = solution.trajectories[:4]
    assert [t.tokens for t in (first[0], first[2])] == [4, 4]
    assert [t.finish_reason for t in (first[0], first[2])] == ["cancelled"] * 2
    assert [(t.parent, t.at) for t in solution.trajectories[4:6]] == [(1, 4), (3, 4)]
    # the third: of 1 (0.9, 0.9), 4 (0.9, 0.1), 3 (0.7, 0.7) and 5 (0.7, 0.95), 1 and 5 are the best
    assert [(t.parent, t.at) for t in solution.trajectories[6:8]] == [(1, 8), (5, 8)]
    assert solution.selected in (1, 6) and solution.answer is not None
    assert solution.trajectories[4].finish_reason == "cancelled"


@pytest.mark.parametrize(("width", "effort", "kept"), [(1, 4, 1), (4, 4, 4), (None, 8, 2), (None, 2, 1)])
def test_so_many_beams_are_kept(width, effort, kept):
    solution = solve(ScriptedEngine(lottery), "what", effort, strategy=Beam(width=width))
    dropped = [t for t in solution.trajectories if t.index < effort and t.tokens == 4]
    closed = sum(t.closed and len(t.steps) == 1 for t in solution.trajectories)
    assert len(dropped) == effort - kept - closed
    assert tokens_of(solution) == solution.usage.completion_tokens


def test_rows_are_shared_evenly():
    kept = [Trajectory(i, (i,), "", "", (), None, "step") for i in (5, 2, 9)]
    assert evenly(kept, 8) == {5: 3, 2: 3, 9: 2} and evenly(kept, 2) == {5: 1, 2: 1}


def test_rows_that_wrote_the_same_are_one_beam():
    script = [scripted([0.9]), scripted([0.9]), scripted([0.5])]
    solution = solve(ScriptedEngine(script), "what", 3, strategy=Beam(width=2))
    assert [t.finish_reason == "cancelled" and t.tokens == 4 for t in solution.trajectories[:3]] == [False, True, False]


def test_a_beam_that_has_closed_gives_up_its_row():
    script = [scripted([0.6], steps=1), scripted([0.9], steps=4), scripted([0.8], steps=4), scripted([0.7], steps=4)]
    solution = solve(ScriptedEngine(script), "what", 4, strategy=Beam(width=4))
    assert [t.finish_reason for t in solution.trajectories] == ["think_end", "eos", "think_end", "think_end"]
    assert solution.selected == 1


# ---- diverse verifier tree search


def test_subtrees_never_take_rows_of_each_other():
    script = [scripted([s], answer=i) for i, s in enumerate((0.9, 0.8, 0.2, 0.1))]
    solution = solve(ScriptedEngine(script), "what", 4, strategy=DVTS(width=2))
    home = {}
    for t in solution.trajectories:
        home[t.index] = t.index // 2 if t.parent is None else home[t.parent]
    assert {home[t.index] for t in solution.trajectories if t.closed} == {0, 1}
    assert [t.tokens == 4 for t in solution.trajectories[:4]] == [False, True, False, True]


def test_a_subtree_is_done_when_its_best_row_has_closed():
    script = [scripted([0.9, 0.9, 0.1], steps=1), scripted([0.3], steps=9)]
    solution = solve(ScriptedEngine(script), "what", 2, strategy=DVTS(width=2))
    assert [(len(t.steps), t.closed) for t in solution.trajectories] == [(1, True), (1, False), (1, True)]
    worse = [Scripted("</think>"), scripted([0.3], steps=3)]
    solution = solve(ScriptedEngine(worse), "what", 2, strategy=DVTS(width=2))
    assert [(len(t.steps), t.closed) for t in solution.trajectories] == [(0, True), (3, True)]


# ---- particles


def test_systematic_resampling_by_hand():
    # points 0.05, 0.30, 0.55, 0.80 in the cumulative 0.1, 0.7, 0.7, 1.0
    assert systematic([0.1, 0.6, 0.0, 0.3], 4, 0.2) == [0, 1, 1, 3]
    assert systematic([0.25] * 4, 4, 0.99) == [0, 1, 2, 3], "equal weights drop nobody"


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 1e-12])
def test_what_is_drawn_has_the_expected_copies_but_for_one(uniform):
    probabilities = softmax([0.3, -1.0, 2.0, 0.0, 1.1], 1.0)
    drawn = systematic(probabilities, 100, uniform)
    assert all(abs(drawn.count(i) - 100 * p) < 1 for i, p in enumerate(probabilities))


def test_probabilities_are_odds_and_annealing_flattens_them():
    slots = [Trajectory(i, (i,), "", "", (Step(0, logit(s)),), s, "step") for i, s in enumerate((0.9, 0.5, 0.5, 0.5))]
    # odds 9 : 1 : 1 : 1; Σp² = (81 + 3) / 144 = 7/12, so the effective sample size is 12/7 of 4
    assert Particles()._probabilities(slots, 1) == pytest.approx([9 / 12, 1 / 12, 1 / 12, 1 / 12])
    annealed = Particles(annealing=True)._probabilities(slots, 4)
    # T = 4 · 7/12 · (1 - 4/40) = 2.1
    weight = 9 ** (1 / 2.1)
    assert annealed == pytest.approx([weight / (weight + 3), *[1 / (weight + 3)] * 3])
    assert Particles(annealing=True)._probabilities(slots, 20)[0] == pytest.approx(9 / 12), "not late"
    assert Particles(annealing=True, spread=0.4)._probabilities(slots, 4)[0] == pytest.approx(9 / 12)


def test_equal_scores_drop_no_particle():
    solution = solve(ScriptedEngine([scripted([0.5], answer=i) for i in range(4)]), "what", 4, strategy=Particles())
    assert len(solution.trajectories) == 4 and all(t.closed for t in solution.trajectories)


def test_good_particles_take_the_place_of_bad_ones():
    script = [scripted([0.999], answer=1), *[scripted([0.001], answer=0)] * 7]
    solution = solve(ScriptedEngine(script), "what", 8, strategy=Particles())
    assert all(t.finish_reason == "cancelled" for t in solution.trajectories[1:8])
    assert [t.parent for t in solution.trajectories[8:15]] == [0] * 7
    assert solution.answer == "1"


def test_a_search_ends_when_only_closed_particles_are_drawn():
    script = [scripted([0.9999], steps=1, answer=7), scripted([0.0001], steps=3)]
    solution = solve(ScriptedEngine(script), "what", 2, strategy=Particles())
    assert solution.answer == "7" and solution.trajectories[1].finish_reason == "cancelled"


# ---- Monte Carlo tree search


def trajectory(index, scores, *, parent=None, at=0):
    steps = tuple(Step(2 * i + 1, logit(s)) for i, s in enumerate(scores))
    score = math.prod(scores) ** (1 / len(scores))
    return Trajectory(index, tuple(range(2 * len(scores) + 1)), "", "", steps, score, "think_end", parent=parent, at=at)


def test_a_tree_by_hand():
    thoughts = [
        trajectory(0, [0.9, 0.4, 0.6]),
        trajectory(1, [0.9, 0.8, 0.8], parent=0, at=2),
        trajectory(2, [0.5]),
        trajectory(3, [0.9, 0.8, 0.1], parent=1, at=4),
    ]
    root = tree(thoughts)
    first, last = root.children
    assert [(n.index, n.at, n.visits, n.end) for n in root.children] == [(0, 2, 3, False), (2, 2, 1, True)]
    assert [(n.index, n.at, n.visits) for n in first.children] == [(1, 4, 2)]
    assert [(n.index, n.at, n.end) for n in first.children[0].children] == [(3, 6, True)]
    assert first.value == pytest.approx(sum(thoughts[i].score for i in (0, 1, 3)) / 3)
    assert root.value == pytest.approx((3 * first.value + last.value) / 4)


def test_what_was_cut_is_worth_nothing():
    cut = trajectory(0, [0.9, 0.9])
    assert tree([cut]).value == pytest.approx(0.9)
    assert tree([Trajectory(0, cut.token_ids, "", "", cut.steps, 0.9, "length")]).value == 0.0


def test_the_way_leads_to_what_is_worth_most_or_was_tried_least():
    root = tree([trajectory(0, [0.8, 0.8]), trajectory(1, [0.2, 0.2])])
    # Q of the root is 0.5; its children have one simulation each, and a third child would be one of three
    assert [n.index for n in MCTS(exploration=0.0).way(root)] == [-1, 0]
    # 0.8 + c √2 / 2 against 0.5 + c √2 / 3: the way leads on at any c
    assert [n.index for n in MCTS(exploration=9.0).way(root)] == [-1, 0]
    root = tree([trajectory(0, [0.8, 0.8]), trajectory(1, [0.8, 0.3, 0.4], parent=0, at=2)])
    # child 0: Q = (0.8 + S_1) / 2 with S_1 = 0.458, as the root; one child of the root, but two simulations of child 0
    assert [n.index for n in MCTS(exploration=1.0).way(root)] == [-1], "a second beginning was tried less"


@pytest.mark.parametrize("parallel", [1, 3, 8, 50])
def test_there_are_as_many_leaves_as_effort_and_shared_tokens_count_once(parallel):
    engine = ScriptedEngine(lottery)
    solution = solve(engine, "what", 8, strategy=MCTS(parallel=parallel))
    assert len(solution.trajectories) == 8 and all(t.closed for t in solution.trajectories)
    assert solution.usage.completion_tokens == engine.tokens_written == tokens_of(solution)


# ---- all of them


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("select", ["score", "weighted", "majority"])
def test_results_depend_on_the_seed_alone(name, select):
    def told(engine, seed=3, others=()):
        options = {"select": select}
        strategy, settings = get_strategy(name, options=options), Settings(seed=seed)
        if others:
            found = dict(solve_many(engine, ["what", *others], 6, strategy=strategy, settings=settings))
            return shape(found["what"])
        return shape(solve(engine, "what", 6, strategy=strategy, settings=settings))

    def shape(solution):
        rows = [(t.token_ids, t.parent, t.at, t.finish_reason, t.seed) for t in solution.trajectories]
        return rows, solution.selected, solution.answer, solution.usage

    alone = told(ScriptedEngine(lottery))
    assert alone[2] is not None
    assert told(ScriptedEngine(lottery, max_rows=1)) == alone, "rows that wait for each other"
    assert told(ScriptedEngine(lottery), others=["one", "two", "three"]) == alone
    assert told(ScriptedEngine(lottery), seed=4) != alone


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("format", ["marks", "whole"])
def test_nothing_is_left_behind_and_all_that_is_written_is_counted(name, format):
    engine = ScriptedEngine(lottery, **({"format": WHOLE_RESPONSE} if format == "whole" else {}))
    solution = solve(engine, "what", 5, strategy=get_strategy(name))
    assert solution.usage.completion_tokens == engine.tokens_written == tokens_of(solution)
    assert not engine.busy and not engine._finished
    assert not any(t.finish_reason == "step" for t in solution.trajectories)
    for t in solution.trajectories:
        if t.parent is not None:
            assert t.token_ids[: t.at] == solution.trajectories[t.parent].token_ids[: t.at] and t.parent < t.index


@pytest.mark.parametrize("name", STRATEGIES)
def test_forks_have_seeds_of_their_own(name):
    solution = solve(ScriptedEngine(lottery), "what", 8, strategy=get_strategy(name))
    assert any(t.parent is not None for t in solution.trajectories)
    assert len({t.seed for t in solution.trajectories}) == len(solution.trajectories)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_trajectory_without_a_step_ranks_below_every_other(name):
    script = [Scripted("</think>\\boxed{0}"), scripted([0.01], answer=1)]
    solution = solve(ScriptedEngine(script), "what", 2, strategy=get_strategy(name))
    assert solution.answer == "1"
    nothing = solve(ScriptedEngine([Scripted("</think>\\boxed{0}")]), "what", 2, strategy=get_strategy(name))
    assert nothing.answer == "0" and nothing.notes


@pytest.mark.parametrize("name", STRATEGIES)
def test_steps_that_never_end_are_judged_without_them_and_cut_in_the_end(name):
    script = [Scripted("on and on", endless=True), scripted([0.7], answer=3)]
    options = {} if name == "mcts" else {"step_tokens": 5}
    strategy = get_strategy(name, options=options)
    solution = solve(ScriptedEngine(script), "what", 2, strategy=strategy, settings=Settings(max_tokens=40))
    assert solution.answer == "3"
    all_endless = solve(ScriptedEngine(script[:1]), "what", 2, strategy=strategy, settings=Settings(max_tokens=40))
    assert (
        all_endless.answer is None and "no trajectory finished its reasoning within 40 tokens" in all_endless.notes[0]
    )
    assert max(t.tokens for t in all_endless.trajectories) == 40


def test_after_the_last_round_what_is_left_is_written_to_its_end():
    script = [scripted([0.5 + i / 10], answer=i, steps=6) for i in range(4)]
    solution = solve(ScriptedEngine(script), "what", 4, strategy=Beam(width=2, steps=2))
    assert {t.at for t in solution.trajectories if t.parent is not None} == {4}
    assert sum(t.closed for t in solution.trajectories) == 4 and len(solution.best.steps) == 6


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_model_without_a_head_is_refused_with_what_helps(name):
    engine = ScriptedEngine(lottery, scored=False)
    engine.unscored = "Train one with: reflective train head"
    with pytest.raises(EngineError, match=f"'{name}' selects by step scores.*strategy majority.*train head$"):
        Reflective(engine).solve("what", strategy=name)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("beam", {"width": 0}, "width of beam is 0; it must be 1 or more"),
        ("beam", {"width": 5}, "width of beam is 5, but effort 4 writes 4 rows"),
        ("dvts", {"width": 0}, "width of dvts is 0"),
        ("dvts", {"width": 9}, "width of dvts is 9, but effort 4"),
        ("beam", {"steps": 0}, "steps of beam is 0"),
        ("particles", {"step_tokens": 0}, "step_tokens of particles is 0"),
        ("particles", {"early": 1.5}, "early of particles is 1.5; it must be between 0 and 1"),
        ("particles", {"spread": float("nan")}, "spread of particles is nan"),
        ("mcts", {"parallel": 0}, "parallel of mcts is 0"),
        ("mcts", {"exploration": -1.0}, "exploration of mcts is -1.0"),
        ("mcts", {"exploration": float("inf")}, "exploration of mcts is inf"),
        ("beam", {"select": "best"}, "must be one of 'score', 'weighted', 'majority'"),
        ("beam", {"rank": "first"}, "must be one of 'score', 'last_step'"),
    ],
)
def test_options_that_can_not_be_are_refused(name, options, message):
    with pytest.raises(InputError, match=message):
        Reflective(ScriptedEngine(lottery)).solve("what", effort=4, strategy=name, strategy_options=options)


@pytest.mark.parametrize(("rank", "kept"), [("score", 0), ("last_step", 1)])
def test_by_the_last_step_another_beam_is_the_best(rank, kept):
    script = [scripted([0.9, 0.9, 0.4], steps=3), scripted([0.5, 0.6], steps=3)]
    solution = solve(ScriptedEngine(script), "what", 2, strategy=Beam(width=2, steps=2, rank=rank))
    assert [t.parent for t in solution.trajectories] == [None, None]  # both are kept, and written to their ends
    first, second = solution.trajectories
    assert [t.index for t in Beam(rank=rank).best_first([second, first])] == [kept, 1 - kept]


def test_forks_are_told_with_where_they_come_from_and_records_keep_it():
    events = []
    engine = ScriptedEngine(lottery)
    solution = solve(engine, Problem("what", "1"), 4, strategy=Beam(), on_event=events.append)
    forks = {e.id: (e.parent, e.at) for e in events if isinstance(e, Forked)}
    assert forks == {t.index: (t.parent, t.at) for t in solution.trajectories if t.parent is not None} != {}
    ends = [e.trajectory.finish_reason for e in events if isinstance(e, Finished)]
    assert "step" not in ends and ends.count("cancelled") > 0
    data = Record.of(solution).to_json()
    assert Record.from_json(data) == Record.of(solution)
    kept = {t["index"]: (t["parent"], t["at"]) for t in data["trajectories"] if "parent" in t}
    assert kept == forks, "what is no fork is written as before"
    shown = {t["index"]: (t["parent"], t["at"]) for t in solution.to_json()["trajectories"]}
    assert {index: place for index, place in shown.items() if place[0] is not None} == forks
    assert (
        f"and {sum(t.parent is not None and t.finish_reason == 'cancelled' for t in solution.trajectories)} forks"
        in str(solution)
    )
