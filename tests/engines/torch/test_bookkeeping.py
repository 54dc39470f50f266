"""Finish reasons, counts, texts, events and log-probabilities are exactly those of the tokens that were drawn."""

import pytest

from engines.torch.runs import (
    RULE,
    STEP_IDS,
    THINK,
    THINK_END,
    TOKENIZER,
    finished,
    hf_logprobs,
    make_engine,
    prompts,
    reference,
    run,
    step_scores,
    text,
    write,
)
from reflective.engines.base import Finished, Request, Sampling, Text
from reflective.engines.sequence import TEXT_INTERVAL, Running
from reflective.judge.aggregate import aggregate
from reflective.judge.format import between_marks, step_positions

(PROMPT,) = prompts(9, seed=4)


def sample(engine, seed=5, max_tokens=24, until="eos", **options):
    """One trajectory of PROMPT."""
    return write(engine, [Request(PROMPT, Sampling(**options), seed, max_tokens, until)])[0]


@pytest.fixture(scope="module")
def plain():
    """What PROMPT gives with seed 5 when nothing ends it."""
    return sample(make_engine())


def middle(trajectory, start):
    """A token from `start` on that ends no step and was not drawn before."""
    ids = trajectory.token_ids
    return next(t for i, t in enumerate(ids) if i >= start and ids.index(t) == i and t not in STEP_IDS)


# ---- finish reasons


def test_think_end_finishes_a_thinking_and_is_its_last_token(plain):
    token = middle(plain, 6)
    engine = make_engine(rule=between_marks(STEP_IDS, THINK, token))
    thinking = sample(engine, until="think_end")
    length = plain.token_ids.index(token) + 1
    assert thinking.finish_reason == "think_end" and thinking.finished
    assert thinking.token_ids == plain.token_ids[:length]
    assert thinking.thinking == TOKENIZER.decode(plain.token_ids[: length - 1]) and thinking.answer_text == ""


def test_until_eos_goes_on_beyond_think_end_and_scores_no_step_there(plain):
    token = middle(plain, 6)
    rule = between_marks(STEP_IDS, THINK, token)
    whole = sample(make_engine(rule=rule))
    at = plain.token_ids.index(token)
    assert whole.token_ids == plain.token_ids and whole.finish_reason == "length"
    assert whole.thinking == TOKENIZER.decode(plain.token_ids[:at])
    assert whole.answer_text == TOKENIZER.decode(plain.token_ids[at + 1 :]).strip()
    assert [s.position for s in whole.steps] == step_positions(rule, plain.token_ids, PROMPT)
    assert any(t in STEP_IDS for t in plain.token_ids[at + 1 :]), "or this test would show nothing"
    assert all(s.position < at for s in whole.steps)


@pytest.mark.parametrize("until", ["think_end", "eos"])
def test_eos_finishes_and_is_no_part_of_the_text(plain, until):
    token = middle(plain, 8)
    cut = sample(make_engine(eos=token), until=until)
    at = plain.token_ids.index(token)
    assert cut.finish_reason == "eos" and cut.finished
    assert cut.token_ids == plain.token_ids[: at + 1]
    assert cut.thinking == TOKENIZER.decode(plain.token_ids[:at]) and cut.answer_text == ""


def test_eos_after_the_thinking_is_no_part_of_the_answer(plain):
    token = middle(plain, 6)
    end = middle(plain, plain.token_ids.index(token) + 2)
    ids = plain.token_ids
    answered = sample(make_engine(rule=between_marks(STEP_IDS, THINK, token), eos=end))
    assert answered.finish_reason == "eos"
    assert answered.answer_text == TOKENIZER.decode(ids[ids.index(token) + 1 : ids.index(end)]).strip()


def test_a_token_that_ends_and_uses_up_the_budget_ends(plain):
    token = middle(plain, 6)
    budget = plain.token_ids.index(token) + 1
    engine = make_engine(rule=between_marks(STEP_IDS, THINK, token))
    assert sample(engine, max_tokens=budget, until="think_end").finish_reason == "think_end"
    assert sample(make_engine(eos=token), max_tokens=budget).finish_reason == "eos"


@pytest.mark.parametrize("budget", [1, 2, 7])
def test_length_finishes_at_the_budget(plain, budget):
    cut = sample(make_engine(), max_tokens=budget)
    assert cut.finish_reason == "length" and not cut.finished
    assert cut.token_ids == plain.token_ids[:budget]


# ---- counts and log-probabilities


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0.0}, {"temperature": 0.5, "top_p": 0.8}, {"repetition_penalty": 1.5, "top_k": 9}],
    ids=["plain", "greedy", "filtered", "penalized"],
)
def test_log_probabilities_are_the_models_own_at_temperature_1(options):
    trajectory = sample(make_engine(), **options)
    assert trajectory.tokens == len(trajectory.token_ids) == len(trajectory.token_logprobs) == 24
    exact = hf_logprobs(reference(), PROMPT, trajectory.token_ids)
    assert trajectory.token_logprobs == pytest.approx(exact.tolist(), abs=1e-4)


# ---- text


@pytest.mark.parametrize("seed", range(4))
def test_streamed_text_is_the_text_of_the_tokens_whatever_bytes_they_are(seed):
    # the tiny tokenizer writes bytes, so random tokens are mostly broken characters
    engine = make_engine(rule=None, scored=False)
    ids = [engine.submit(Request(PROMPT, seed=10 * seed + i, max_tokens=29, until="eos")) for i in range(6)]
    events = run(engine)
    for id in ids:
        assert text(events, id) == engine.tokenizer.decode(finished(events)[id].token_ids)


def spell(string, chunk=1):
    """The deltas of a trajectory that writes `string` and is asked for its text every `chunk` tokens."""
    running = Running(0, Request(PROMPT), PROMPT, None, 10_000)
    deltas = []
    for i, token in enumerate(TOKENIZER.encode(string, add_special_tokens=False)):
        running.token_ids.append(token)
        if i % chunk == 0:
            deltas.append(running.take_text(TOKENIZER.decode))
    return [*deltas, running.take_text(TOKENIZER.decode, flush=True)]


@pytest.mark.parametrize("chunk", [1, 2, 3, 8])
def test_a_character_of_several_tokens_is_sent_when_it_is_whole(chunk):
    string = "naïve – 日本語 🙂🙂, Ünïcödé.\n\nγ² = α² + β²; 中"
    deltas = spell(string, chunk)
    assert "".join(deltas) == string
    assert all("\ufffd" not in delta for delta in deltas)


def test_half_a_character_at_the_end_is_sent_with_the_flush():
    running = Running(0, Request(PROMPT), PROMPT, None, 10_000)
    running.token_ids = TOKENIZER.encode("a日", add_special_tokens=False)[:-1]
    assert running.take_text(TOKENIZER.decode) == ""
    assert running.take_text(TOKENIZER.decode, flush=True) == TOKENIZER.decode(running.token_ids)
    assert running.take_text(TOKENIZER.decode, flush=True) == ""


def test_a_continuation_sends_its_own_text_alone():
    tokens = TOKENIZER.encode("one two three", add_special_tokens=False)
    running = Running(0, Request(PROMPT), PROMPT, None, 10_000, token_ids=tokens[:7], emitted=7, emit_from=7)
    running.token_ids += tokens[7:]
    assert running.take_text(TOKENIZER.decode) == "one two three"[7:]


def test_text_comes_at_least_every_few_tokens_and_at_each_step():
    engine = make_engine()
    engine.decode = lambda ids: "." * len(ids)  # the tiny tokenizer's bytes are broken characters, held back
    engine.submit(Request(PROMPT, seed=5, max_tokens=40, until="eos"))
    waits, drawn = [], 0
    while engine.busy:
        kinds = {type(event): event for event in engine.step()}
        drawn += 1 if drawn else 2  # the first step draws from the prompt, too
        assert Text in kinds or not kinds
        if Text in kinds:
            waits.append(len(kinds[Text].delta))
    assert sum(waits) == drawn == 40
    assert max(waits) == TEXT_INTERVAL and min(waits) < TEXT_INTERVAL


# ---- steps


def test_streamed_steps_are_the_trajectorys_steps_in_order_and_before_its_end():
    engine = make_engine(max_rows=3)
    ids = [engine.submit(Request(PROMPT, seed=s, max_tokens=20 + s, until="eos")) for s in range(6)]
    events = run(engine)
    done = finished(events)
    assert sum(isinstance(e, Finished) for e in events) == len(ids) == len(done)
    for id in ids:
        steps = done[id].steps
        assert step_scores(events, id) == [(i, step.score) for i, step in enumerate(steps)]
        assert [s.position for s in steps] == step_positions(RULE, done[id].token_ids, PROMPT)
        assert done[id].score == aggregate([s.logit for s in steps])
        last = max(i for i, e in enumerate(events) if e.id == id)
        assert isinstance(events[last], Finished)
    assert sum(len(done[id].steps) for id in ids) > 10


def step_texts(trajectory):
    """Each step's own tokens, decoded."""
    starts = [0, *(step.position + 1 for step in trajectory.steps)]
    return [
        TOKENIZER.decode(trajectory.token_ids[a : step.position + 1]).strip()
        for a, step in zip(starts, trajectory.steps, strict=False)
    ]


@pytest.mark.parametrize("seed", range(5, 9))
def test_the_texts_of_steps_are_those_of_their_tokens(seed):
    trajectory = write(make_engine(), [Request(PROMPT, seed=seed, max_tokens=60, until="eos")])[0]
    assert len(trajectory.steps) > 2
    assert [step.text for step in trajectory.steps] == step_texts(trajectory)


def test_a_step_that_a_continuation_ends_has_the_text_of_both():
    engine = make_engine()
    first = engine.submit(Request(PROMPT, seed=5, max_tokens=60, until="eos"))
    engine.step()
    (written,) = engine._scheduler.running
    while not written.step_positions or written.step_positions[-1] == len(written.token_ids) - 1:
        engine.step()  # into the middle of a step that is not the first
    engine.cancel(first)
    cut = finished(run(engine))[first]
    assert cut.steps[-1].position < cut.tokens - 1
    second = engine.submit(Request((), seed=6, max_tokens=60, until="eos", parent=first))
    whole = finished(run(engine))[second]
    assert len(whole.steps) > len(cut.steps)
    assert [step.text for step in whole.steps] == step_texts(whole)


def test_a_thinking_that_was_never_opened_has_no_steps_and_no_score():
    engine = make_engine()
    closed = (*PROMPT[:-1], 65)
    trajectory = write(engine, [Request(closed, seed=5, max_tokens=24, until="eos")])[0]
    opened_at = trajectory.token_ids.index(THINK) if THINK in trajectory.token_ids else 24
    assert all(step.position > opened_at for step in trajectory.steps)
    assert opened_at == 24 and trajectory.score is None and trajectory.steps == ()


def test_another_aggregation_gives_another_score():
    lowest = sample(make_engine(aggregation="min"))
    assert lowest.score == min(step.score for step in lowest.steps)


def test_prompts_by_the_template_leave_the_thinking_open():
    engine = make_engine()
    ids = engine.encode_prompt("What is 1+1?")
    assert TOKENIZER.decode(ids).endswith("<|im_start|>assistant\n<think>\n")
    engine.tokenizer.chat_template = None
    assert engine.encode_prompt("What?")[-1] == THINK


# ---- cancel


def start(count, max_rows=2):
    """An engine that writes `count` trajectories, and their ids, after a few steps."""
    engine = make_engine(max_rows=max_rows)
    ids = [engine.submit(Request(PROMPT, seed=s, max_tokens=12, until="eos", index=s)) for s in range(count)]
    events = [e for _ in range(4) for e in engine.step()]
    return engine, ids, events


@pytest.fixture(scope="module")
def undisturbed():
    return write(make_engine(), [Request(PROMPT, seed=s, max_tokens=12, until="eos", index=s) for s in range(4)])


@pytest.mark.parametrize("number", [0, 1])
def test_a_running_trajectory_is_cancelled_with_what_it_has(undisturbed, number):
    engine, ids, events = start(4)
    engine.cancel(ids[number])
    assert engine.busy
    events += engine.step()
    cut = finished(events)[ids[number]]
    assert cut.finish_reason == "cancelled" and cut.tokens == 5 and cut.index == number
    assert cut.token_ids == undisturbed[number].token_ids[:5]
    assert text(events, ids[number]) == TOKENIZER.decode(cut.token_ids)
    done = finished(events + run(engine))
    for i in {0, 1, 2, 3} - {number}:
        assert done[ids[i]].token_ids == undisturbed[i].token_ids


def test_a_waiting_trajectory_is_cancelled_empty(undisturbed):
    engine, ids, events = start(4)
    engine.cancel(ids[3])
    events += engine.step()
    cut = finished(events)[ids[3]]
    assert (cut.finish_reason, cut.token_ids, cut.steps, cut.score) == ("cancelled", (), (), None)
    done = finished(events + run(engine))
    assert [done[i].token_ids for i in ids[:3]] == [t.token_ids for t in undisturbed[:3]]


def test_cancelling_the_only_trajectory_leaves_no_work():
    engine, (id,), _ = start(1)
    engine.cancel(id)
    assert engine.busy, "there is an end to report"
    assert [type(e) for e in engine.step()][-1] is Finished
    assert not engine.busy and engine.step() == []


def test_cancelling_twice_or_an_unknown_one_changes_nothing(undisturbed):
    engine, ids, events = start(4)
    for id in (ids[0], ids[0], 999, -1):
        engine.cancel(id)
    events += run(engine)
    assert sum(isinstance(e, Finished) and e.id == ids[0] for e in events) == 1
    assert finished(events)[ids[1]].token_ids == undisturbed[1].token_ids


def test_cancelling_a_finished_one_forgets_what_is_held_for_it():
    engine = make_engine(rule=between_marks(STEP_IDS, THINK, THINK_END))
    ids = [engine.submit(Request(PROMPT, seed=seed, max_tokens=50)) for seed in (5, 6)]
    engine.step()
    for id in ids:  # the second one's row moves into the place of the first, which is parked; then it rests there
        engine.cancel(id)
    engine.step()
    manager = engine._kv_manager
    assert len(manager.parking) == 1 and manager.parking.used > 0 and len(manager._resting) == 1
    for id in ids:
        engine.cancel(id)
    assert len(manager.parking) == 0 and manager.parking.used == 0 and not manager._resting
    assert not engine.busy and engine.step() == []


def test_an_engine_without_work_is_not_busy_and_has_nothing_to_say():
    engine = make_engine()
    assert not engine.busy and engine.step() == []
