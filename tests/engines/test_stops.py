"""Stop strings and stop tokens, alike in every engine: where the answer ends, what is told of it, what is scored."""

from dataclasses import replace

import pytest

from engines.serving import STEP_IDS, fake_server, serving_folder
from reflective import InputError, Reflective, Scripted, ScriptedEngine
from reflective.engines.base import Finished, Request, Sampling, StepScored, Text
from reflective.engines.remote.engine import OpenAIEngine
from reflective.engines.scripted import WHOLE_RESPONSE
from reflective.engines.stops import before_stop, holds_stop, may_begin_stop
from reflective.engines.torch import TorchEngine
from reflective.judge.detection import detect_format
from reflective.models import load_checkpoint
from tiny import tiny_tokenizer

PROMPT = "What is 8?"
TOKENS = 60


def test_the_first_of_several_stops_counts_and_a_beginning_of_one_is_known():
    assert before_stop("one END two STOP", ["STOP", "END"]) == "one "
    assert before_stop("no end", ["END"]) == "no end"
    assert holds_stop("an END.", ["END"]) and not holds_stop("an EN", ["END"])
    assert may_begin_stop("an EN", ["STOP", "END"]) and not may_begin_stop("an ENx", ["STOP", "END"])
    assert may_begin_stop("E", ["END"]) and not may_begin_stop("", ["END"])


def run(engine, request):
    """The trajectory, its text as it was told, and how many steps were."""
    engine.submit(request)
    events = []
    while engine.busy:
        events += engine.step()
    (done,) = [event.trajectory for event in events if isinstance(event, Finished)]
    told = "".join(event.delta for event in events if isinstance(event, Text))
    return done, told, sum(isinstance(event, StepScored) for event in events)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that reasons in its whole response; its tokens are bytes, so a longer text is several."""
    tokenizer = tiny_tokenizer()
    ends = [tokenizer.eos_token_id]
    format = detect_format(tokenizer, marks="whole", step_token_ids=STEP_IDS, end_ids=ends)
    folder = serving_folder(tmp_path_factory.mktemp("stops") / "tiny")
    checkpoint = load_checkpoint(folder, dtype="float32", device="cpu")
    judge = replace(checkpoint.judge, config=replace(checkpoint.judge.config, format=format))
    from reflective.models import save_checkpoint

    return save_checkpoint(folder.parent / "whole", replace(checkpoint, judge=judge))


@pytest.fixture(scope="module", params=["torch", "remote"])
def engine(request, folder):
    if request.param == "torch":
        made = TorchEngine.from_checkpoint(load_checkpoint(folder, dtype="float32", device="cpu"))
        yield made
        made.close()
        return
    with fake_server(folder) as server:
        made = OpenAIEngine.from_source(folder, [server.url])
        yield made
        made.close()


def ask(engine, **settings):
    return Request(engine.encode_prompt(PROMPT), Sampling(temperature=0.0), max_tokens=TOKENS, until="eos", **settings)


def test_a_stop_string_across_tokens_ends_the_answer_before_it(engine):
    free, _, _ = run(engine, ask(engine))
    assert free.tokens > 30
    start = next(i for i in range(20, 50) if engine.decode(free.token_ids[i : i + 4]).isprintable())
    stop = engine.decode(free.token_ids[start : start + 4])
    stopped, told, steps = run(engine, ask(engine, stop=("never written", stop)))
    whole = engine.decode(stopped.token_ids)
    assert stopped.token_ids == free.token_ids[: stopped.tokens] and stopped.tokens <= start + 4
    assert whole.count(stop) == 1 and whole.endswith(stop)
    assert stopped.finish_reason == "eos" and stopped.finished
    assert stopped.answer_text == told.strip() == whole.removesuffix(stop).strip()
    # the stop closes the last step of a whole response, unless its last token has done so
    inside = [step.position for step in free.steps if step.position < stopped.tokens]
    positions = [step.position for step in stopped.steps]
    assert positions == inside or positions == [*inside, stopped.tokens - 1]
    assert steps == len(positions) and not any(stop in step.text for step in stopped.steps)
    assert [s.logit for s in stopped.steps][: len(inside)] == pytest.approx(
        [s.logit for s in free.steps][: len(inside)], abs=1e-3
    )


def test_a_stop_token_ends_the_response_and_closes_its_last_step(engine):
    free, _, _ = run(engine, ask(engine))
    ids = free.token_ids
    at = next(i for i in range(8, 50) if not {ids[i - 1], ids[i]} & set(STEP_IDS) and ids[i] not in ids[:i])
    stopped, _, _ = run(engine, ask(engine, stop_token_ids=(free.token_ids[at],)))
    assert stopped.token_ids == free.token_ids[: at + 1] and stopped.finish_reason == "eos"
    assert stopped.answer_text == engine.decode(free.token_ids[:at]).strip()
    assert stopped.steps[-1].position == at


def test_a_text_that_only_begins_a_stop_string_is_told_in_the_end(engine):
    free, _, _ = run(engine, ask(engine))
    tail = engine.decode(free.token_ids[-4:])
    going_on, told, _ = run(engine, ask(engine, stop=(tail + " and more",)))
    assert going_on.token_ids == free.token_ids and told == engine.decode(free.token_ids)


def test_stops_that_can_not_be_are_refused(engine):
    with pytest.raises(InputError, match="stop string is empty"):
        engine.submit(ask(engine, stop=("",)))
    with pytest.raises(InputError, match=f"token id {engine.vocabulary} does not exist"):
        engine.submit(ask(engine, stop_token_ids=(engine.vocabulary,)))


@pytest.mark.parametrize("stop", ["END", ["END", "never"]])
def test_the_python_option_takes_one_text_or_several(stop):
    script = [Scripted("It is \\boxed{4}. And so END of it.", logits=[1.0])]
    with Reflective(ScriptedEngine(script, format=WHOLE_RESPONSE)) as model:
        solution = model.solve("What is 2 + 2?", effort=1, stop=stop)
    assert solution.answer == "4" and solution.answer_text == "It is \\boxed{4}. And so"
    assert solution.trajectories[0].finished and not solution.notes
    with pytest.raises(InputError, match="texts that are not empty"):
        model.solve("What is 2 + 2?", stop=[""])


def test_reasoning_between_marks_may_hold_a_stop_string():
    engine = ScriptedEngine([Scripted("First END here.\n\n</think> It is \\boxed{4} END more", logits=[1.0])])
    told = []
    with Reflective(engine) as model:
        for event in model.stream("What is 2 + 2?", effort=1, stop="4} END"):
            told += [event.delta] if isinstance(event, Text) else []
        solution = model.solve("What is 2 + 2?", effort=1, stop="END")
    assert "".join(told) == "First END here.\n\n</think> It is \\boxed{"
    assert solution.answer == "4" and solution.answer_text == "It is \\boxed{4}"
    assert "First END here" in solution.trajectories[0].thinking
