"""The scripted engine holds the contract of `Engine`."""

import math

import pytest

from reflective import ContextError, InputError
from reflective.engines.base import Finished, Request, StepScored, Text
from reflective.engines.scripted import EOS_ID, STEP_ID, THINK_END_ID, Scripted, ScriptedEngine

TWO_STEPS = Scripted("one.\n\ntwo words.\n\n</think>\n\n\\boxed{4}", logits=[2.0, -1.0])


def run(engine):
    events = []
    while engine.busy:
        events += engine.step()
    return events


def finished(events):
    return [event for event in events if isinstance(event, Finished)]


def test_a_thinking_ends_at_think_end_with_scored_steps():
    engine = ScriptedEngine([TWO_STEPS])
    engine.submit(Request(engine.encode_prompt("hi"), index=5, seed=9))
    events = run(engine)
    (end,) = finished(events)
    trajectory = end.trajectory
    assert (trajectory.finish_reason, trajectory.index, trajectory.seed) == ("think_end", 5, 9)
    assert trajectory.thinking == "one.\n\ntwo words.\n\n" and trajectory.answer_text == ""
    assert [step.position for step in trajectory.steps] == [1, 4]
    assert trajectory.token_ids[1] == trajectory.token_ids[4] == STEP_ID and trajectory.token_ids[-1] == THINK_END_ID
    sigmoid = [1 / (1 + math.exp(-s)) for s in (2.0, -1.0)]
    assert trajectory.score == pytest.approx(math.sqrt(sigmoid[0] * sigmoid[1]))
    assert [(e.index, e.score) for e in events if isinstance(e, StepScored)] == [
        (0, pytest.approx(sigmoid[0])),
        (1, pytest.approx(sigmoid[1])),
    ]
    assert "".join(e.delta for e in events if isinstance(e, Text)) == "one.\n\ntwo words.\n\n</think>"


def test_a_continuation_holds_its_parent_and_does_not_pay_for_it():
    engine = ScriptedEngine([TWO_STEPS])
    prompt = engine.encode_prompt("what is it")
    parent = engine.submit(Request(prompt))
    (thought,) = finished(run(engine))
    engine.submit(Request(prompt, parent=parent, until="eos"))
    (answered,) = finished(run(engine))
    trajectory = answered.trajectory
    assert trajectory.token_ids[: thought.trajectory.tokens] == thought.trajectory.token_ids
    assert trajectory.steps == thought.trajectory.steps
    assert trajectory.answer_text == "\\boxed{4}" and trajectory.token_ids[-1] == EOS_ID
    assert trajectory.finish_reason == "eos"
    assert engine.prefix_paid == len(prompt)


def test_a_forgotten_parent_can_not_be_continued():
    engine = ScriptedEngine([TWO_STEPS])
    prompt = engine.encode_prompt("what")
    parent = engine.submit(Request(prompt))
    run(engine)
    engine.cancel(parent)
    with pytest.raises(InputError, match="can't be continued"):
        engine.submit(Request(prompt, parent=parent, until="eos"))


def test_budget_bounds_the_tokens_of_a_request():
    engine = ScriptedEngine([Scripted("on and on", endless=True)])
    engine.submit(Request(engine.encode_prompt("x"), max_tokens=7))
    (end,) = finished(run(engine))
    assert end.trajectory.tokens == 7 and end.trajectory.finish_reason == "length"
    assert not end.trajectory.finished and end.trajectory.score is None


def test_cancelled_trajectories_finish_in_the_next_step_with_what_they_have():
    engine = ScriptedEngine([TWO_STEPS], max_rows=1)
    prompt = engine.encode_prompt("x")
    running, waiting = engine.submit(Request(prompt)), engine.submit(Request(prompt))
    engine.step()
    engine.cancel(running)
    engine.cancel(waiting)
    engine.cancel(99)
    ends = {end.id: end.trajectory for end in finished(engine.step())}
    assert ends[running].finish_reason == ends[waiting].finish_reason == "cancelled"
    assert (ends[running].tokens, ends[waiting].tokens) == (1, 0)
    assert not engine.busy and engine.cancelled == 2


def test_a_prompt_without_room_is_refused():
    engine = ScriptedEngine([TWO_STEPS], context_length=4)
    with pytest.raises(ContextError, match="5 tokens"):
        engine.submit(Request(engine.encode_prompt("one two three four")))


def test_a_function_scripts_by_problem_index_and_seed():
    engine = ScriptedEngine(lambda problem, index, seed: Scripted(f"{problem}/{index}/{seed}</think>"))
    engine.submit(Request(engine.encode_prompt("a b"), index=3, seed=8))
    assert finished(run(engine))[0].trajectory.thinking == "a b/3/8"


def test_an_unscored_engine_gives_no_steps():
    engine = ScriptedEngine([TWO_STEPS], scored=False)
    engine.submit(Request(engine.encode_prompt("x")))
    events = run(engine)
    assert not any(isinstance(event, StepScored) for event in events)
    assert finished(events)[0].trajectory.steps == () and finished(events)[0].trajectory.score is None


def test_on_step_may_raise_and_the_engine_goes_on():
    def fail_once(step):
        if step == 1 and not seen:
            seen.append(step)
            raise RuntimeError("no")

    seen: list[int] = []
    engine = ScriptedEngine([TWO_STEPS], on_step=fail_once)
    engine.submit(Request(engine.encode_prompt("x")))
    engine.step()
    with pytest.raises(RuntimeError):
        engine.step()
    assert finished(run(engine))[0].trajectory.finish_reason == "think_end"
