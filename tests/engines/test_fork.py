"""Forks: what begins with the first tokens of another trajectory, in the contract, for a strategy, and in the bill."""

import pytest

from reflective import InputError, Reflective, Scripted, ScriptedEngine
from reflective.engines.base import Finished, Request, StepScored, Text
from reflective.engines.driver import Driver
from reflective.search import Choice, Settings, Strategy, solve

SCRIPT = [
    Scripted("one.\n\ntwo.\n\nthree.\n\n</think>\\boxed{1}", logits=[1.0, 2.0, 3.0], logprob=-1.0, certainties=[5.0]),
    Scripted("uno.\n\ndos.\n\n</think>\\boxed{2}", logits=[-1.0, -2.0], logprob=-3.0, certainties=[7.0, 8.0]),
]


def run(engine):
    events = []
    while engine.busy:
        events += engine.step()
    return events


def trajectory(events, id):
    return next(e.trajectory for e in events if isinstance(e, Finished) and e.id == id)


def test_a_fork_has_the_steps_scores_and_log_probabilities_of_what_it_shares():
    engine = ScriptedEngine(SCRIPT)
    prompt = engine.encode_prompt("what")
    parent = engine.submit(Request(prompt, index=0, seed=4))
    whole = trajectory(run(engine), parent)
    child = engine.fork(parent, 3, Request((), index=1, seed=9))
    events = run(engine)
    forked = trajectory(events, child)
    assert forked.token_ids[:3] == whole.token_ids[:3] and forked.token_ids != whole.token_ids
    assert forked.thinking == "one.\n\ntwo.\n\n"  # the other script goes on from its fourth token, a step's end
    assert [(s.position, s.logit) for s in forked.steps] == [(1, 1.0), (3, -2.0)]
    assert forked.token_logprobs == (-1.0, -1.0, -1.0, -3.0, -3.0)
    assert forked.token_certainties == (5.0, 5.0, 5.0, 8.0, 7.0)
    assert (forked.index, forked.seed, forked.finish_reason) == (1, 9, "think_end")
    assert [e.index for e in events if isinstance(e, StepScored)] == [1], "a step that is shared is not told again"
    assert "".join(e.delta for e in events if isinstance(e, Text)) == ".\n\n</think>"


def test_a_fork_with_the_seed_and_index_of_its_parent_repeats_it():
    engine = ScriptedEngine(lambda problem, index, seed: SCRIPT[seed % 2])
    parent = engine.submit(Request(engine.encode_prompt("what"), seed=1))
    whole = trajectory(run(engine), parent)
    for at in range(whole.tokens + 1):
        id = engine.fork(parent, at, Request((), seed=1, max_tokens=max(whole.tokens - at, 1)))
        forked = trajectory(run(engine), id)
        assert forked.token_ids[: whole.tokens] == whole.token_ids and forked.steps == whole.steps


def test_a_running_trajectory_is_forked_and_goes_on():
    engine = ScriptedEngine(SCRIPT)
    parent = engine.submit(Request(engine.encode_prompt("what"), index=0))
    for _ in range(4):
        engine.step()
    child = engine.fork(parent, 2, Request((), index=1, until="eos", max_tokens=4))
    engine.cancel(parent)
    events = run(engine)
    assert trajectory(events, parent).finish_reason == "cancelled" and trajectory(events, parent).tokens == 4
    assert trajectory(events, child).token_ids[:2] == trajectory(events, parent).token_ids[:2]
    assert (trajectory(events, child).tokens, trajectory(events, child).finish_reason) == (6, "length")


def test_the_budget_is_of_what_a_fork_adds_and_bounded_by_the_context():
    engine = ScriptedEngine([Scripted("word", endless=True)], context_length=10)
    parent = engine.submit(Request(engine.encode_prompt("x"), max_tokens=5))
    run(engine)
    ids = [engine.fork(parent, at, Request((), max_tokens=4)) for at in (0, 2, 5)]
    events = run(engine)
    assert [trajectory(events, id).tokens for id in ids] == [4, 6, 8]


def test_what_can_not_be_forked_is_refused():
    engine = ScriptedEngine(SCRIPT)
    prompt = engine.encode_prompt("what")
    parent = engine.submit(Request(prompt))
    engine.step()
    for at, message in ((2, "has 1 tokens; it can't be forked at 2"), (-1, "forked at -1")):
        with pytest.raises(InputError, match=message):
            engine.fork(parent, at)
    with pytest.raises(InputError, match="can't be continued"):
        engine.submit(Request(prompt, parent=parent))  # not finished
    with pytest.raises(InputError, match="no parent"):
        engine.submit(Request(prompt, at=1))
    run(engine)
    engine.cancel(parent)
    with pytest.raises(InputError, match="can't be continued"):
        engine.fork(parent, 1)


# ---- a pause at the end of each step


def test_until_step_stops_at_the_end_of_each_step_and_a_continuation_goes_on():
    engine = ScriptedEngine(SCRIPT)
    id = engine.submit(Request(engine.encode_prompt("what"), index=0))
    whole = trajectory(run(engine), id)
    id, ends = None, []
    while not ends or ends[-1].finish_reason == "step":
        id = engine.submit(Request(engine.encode_prompt("what"), index=0, until="step", parent=id))
        ends.append(trajectory(run(engine), id))
    assert [(t.tokens, len(t.steps), t.finish_reason) for t in ends] == [
        (2, 1, "step"),
        (4, 2, "step"),
        (6, 3, "step"),
        (7, 3, "think_end"),
    ]
    assert ends[-1].token_ids == whole.token_ids and ends[-1].steps == whole.steps
    assert not ends[0].finished and not ends[0].closed


def test_a_budget_ends_a_step_that_does_not_end():
    engine = ScriptedEngine([Scripted("on", endless=True)])
    id = engine.submit(Request(engine.encode_prompt("x"), until="step", max_tokens=5))
    assert trajectory(run(engine), id).finish_reason == "length"


# ---- through the driver


def test_a_client_forks_its_own_trajectories_while_they_are_written():
    engine = ScriptedEngine(SCRIPT)
    driver = Driver.of(engine)
    with driver.client() as client, driver.client() as other:
        parent = client.submit(Request(engine.encode_prompt("what"), index=0))
        with pytest.raises(InputError, match="can't be continued"):
            client.fork(parent, 0, Request(()))  # it has not begun
        for _ in range(3):
            client.advance()
        child = client.fork(parent, 2, Request((), index=1))
        client.cancel(parent)
        with pytest.raises(InputError, match="one of this client"):
            other.fork(parent, 1, Request(()))
        done = {}
        while set(done) != {parent, child}:
            done.update({e.id: e.trajectory for e in client.events() if isinstance(e, Finished)})
    assert done[parent].tokens == 3 and done[child].token_ids[:2] == done[parent].token_ids[:2]


def test_a_fork_that_the_engine_refuses_fails_its_client_alone():
    engine = ScriptedEngine(SCRIPT)
    driver = Driver.of(engine)
    with driver.client() as client, driver.client() as other:
        parent = client.submit(Request(engine.encode_prompt("what")))
        kept = other.submit(Request(engine.encode_prompt("what")))
        client.advance()
        client.fork(parent, 50, Request(()))
        with pytest.raises(InputError, match="can't be forked at 50"):
            client.advance()
        assert any(isinstance(e, Finished) and e.id == kept for _ in range(9) for e in other.events())


# ---- a strategy


class Retry(Strategy):
    """Writes one trajectory; where a step scores low, it goes back to the end of the step before and tries again."""

    name = "retry"

    def begin(self, run):
        run.think(0)
        self.tries = 0

    def on_step(self, run, index, step, score):
        if score < 0.5 and index == self.tries and self.tries + 1 < run.k:
            self.tries += 1
            run.fork(self.tries, index, self.ends[step - 1] + 1 if step else 0)
            run.cancel(index)

    def choose(self, trajectories, problem):
        best = max(trajectories, key=lambda t: t.score or 0.0)
        return Choice(best.index, best.answer, best.score)

    ends = (1, 3, 5)  # positions of the step tokens of the script below


def test_a_strategy_forks_and_shared_tokens_count_once():
    script = [
        Scripted("a.\n\nb.\n\nc.\n\n</think>", logits=[2.0, -2.0, 1.0]),
        Scripted("x.\n\ny.\n\nz.\n\n</think>", logits=[9.0, 3.0, -1.0]),
        Scripted("r.\n\ns.\n\nt.\n\n</think>", logits=[9.0, 9.0, 4.0]),
    ]
    engine = ScriptedEngine(script)
    solution = solve(engine, "what", 3, strategy=Retry(), settings=Settings(max_tokens=20))
    first, second, third = solution.trajectories
    assert [t.finish_reason for t in solution.trajectories] == ["cancelled", "cancelled", "think_end"]
    assert (first.thinking, second.thinking) == ("a.\n\nb.\n\n", "a.\n\ny.\n\nz.\n\n")
    assert third.thinking == "a.\n\ny.\n\nt.\n\n" and [s.logit for s in third.steps] == [2.0, 3.0, 4.0]
    assert solution.selected == 2
    # 4 tokens of the first; the second adds 4 to 2 of those, the third 3 to 4 of the second's
    assert [t.tokens for t in solution.trajectories] == [4, 6, 7]
    assert solution.usage.completion_tokens == engine.tokens_written == 4 + 4 + 3


class Late(Strategy):
    """Forks a reasoning that has ended, and answers from the fork."""

    name = "late"

    def begin(self, run):
        run.think(0)

    def on_idle(self, run):
        if len(run.trajectories) == 1:
            run.fork(1, 0, 2)
        elif run.trajectories[1].finish_reason == "think_end":
            run.answer(1)

    def choose(self, trajectories, problem):
        return Choice(1, trajectories[1].answer)


@pytest.mark.parametrize("max_tokens", [20, 5])
def test_an_ended_reasoning_can_be_forked_whether_it_was_closed_or_cut(max_tokens):
    engine = ScriptedEngine(SCRIPT)
    solution = solve(engine, "what", 2, strategy=Late(), settings=Settings(max_tokens=max_tokens))
    assert solution.trajectories[0].finish_reason == ("think_end" if max_tokens == 20 else "length")
    assert solution.answer == "2" and solution.trajectories[1].thinking == "one.\n\ndos.\n\n"
    assert solution.usage.completion_tokens == engine.tokens_written
    assert not engine.busy and not engine._finished


@pytest.mark.parametrize(("parent", "index"), [(5, 1), (0, 0)])
def test_a_strategy_forks_what_is_there_into_what_is_not(parent, index):
    class Wrong(Late):
        def on_idle(self, run):
            run.fork(index, parent, 1)

    with pytest.raises(InputError):
        Reflective(ScriptedEngine(SCRIPT)).solve("what", effort=2, strategy=Wrong())
