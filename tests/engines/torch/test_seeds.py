"""A trajectory is a function of its prompt, its sampling and its seed, however it comes to be written."""

from dataclasses import replace

import pytest

from engines.torch.runs import (
    EOS,
    STEP_IDS,
    THINK,
    count_calls,
    finished,
    make_engine,
    prompts,
    run,
    text,
    write,
)
from reflective import InputError
from reflective.engines.base import Request, Sampling
from reflective.judge.format import between_marks

TOKENS = 20
SETTINGS = (
    Sampling(),
    Sampling(temperature=0.7, top_p=0.9),
    Sampling(repetition_penalty=1.4),
    Sampling(temperature=0.0),
    Sampling(top_k=5, min_p=0.02),
)


def same(a, b):
    """Equal tokens, and numbers as equal as another batch shape lets them be."""
    assert a.token_ids == b.token_ids
    assert [s.position for s in a.steps] == [s.position for s in b.steps]
    assert [s.logit for s in a.steps] == pytest.approx([s.logit for s in b.steps], abs=1e-4)
    assert a.token_logprobs == pytest.approx(b.token_logprobs, abs=1e-4)
    assert (a.thinking, a.answer_text, a.finish_reason, a.seed) == (b.thinking, b.answer_text, b.finish_reason, b.seed)


@pytest.fixture(scope="module")
def requests():
    """Nine trajectories of three prompts, no two alike in prompt, settings and seed; of different lengths, too."""
    made = []
    for i, prompt in enumerate(prompts(4, 11, 7)):
        for j in range(3):
            sampling = SETTINGS[(i + 2 * j) % len(SETTINGS)]
            tokens, index = TOKENS - 3 * j, 3 * i + j
            made.append(Request(prompt, sampling, 10 * i + j, tokens, until="eos", index=index))
    return made


@pytest.fixture(scope="module")
def alone(requests):
    """Each written by itself."""
    engine = make_engine()
    return [write(engine, [request])[0] for request in requests]


@pytest.mark.parametrize("max_rows", [1, 2, 4, 64])
def test_what_is_written_does_not_depend_on_the_number_of_rows(requests, alone, max_rows):
    for a, b in zip(write(make_engine(max_rows=max_rows), requests), alone, strict=True):
        same(a, b)


def test_what_is_asked_of_one_changes_no_other(requests, alone):
    """Confidences are kept of those that ask for them, of every token, and computed beside rows that do not."""
    asking = [replace(r, confidences=i % 2 == 1) for i, r in enumerate(requests)]
    written = write(make_engine(max_rows=4), asking)
    always = write(make_engine(max_rows=4, keep_confidences=True), requests)
    for i, (a, b, kept) in enumerate(zip(written, alone, always, strict=True)):
        same(a, b)
        assert len(kept.token_confidences) == kept.tokens
        wanted = kept if i % 2 == 1 else b
        assert a.token_confidences == pytest.approx(wanted.token_confidences, abs=1e-4)
        assert a.token_certainties == pytest.approx(wanted.token_certainties, abs=1e-4)


def test_what_is_written_does_not_depend_on_the_order(requests, alone):
    order = [4, 0, 8, 2, 6, 1, 7, 3, 5]
    for i, a in zip(order, write(make_engine(max_rows=4), [requests[i] for i in order]), strict=True):
        same(a, alone[i])


def test_what_is_written_does_not_depend_on_when_others_enter_and_leave(requests, alone):
    engine, done, ids = make_engine(max_rows=4), {}, {}
    strangers = [Request(prompts(25, seed=9)[0], seed=s, max_tokens=30) for s in range(4)]
    for i, request in enumerate(requests):
        ids[engine.submit(request)] = i
        stranger = engine.submit(strangers[i % 4])
        for _ in range(2):
            done |= finished(engine.step())
        engine.cancel(stranger)
    done |= finished(run(engine))
    for id, i in ids.items():
        same(done[id], alone[i])


def test_index_and_seed_come_back(requests, alone):
    assert [t.index for t in alone] == [r.index for r in requests]
    assert [t.seed for t in alone] == [r.seed for r in requests]


# ---- continuations


def think_rule(prompt, sampling, seed, tokens=TOKENS):
    """A rule whose `</think>` is a token that this trajectory draws in its middle."""
    ids = write(make_engine(), [Request(prompt, sampling, seed, tokens, until="eos")])[0].token_ids
    at = next(i for i in range(6, len(ids)) if ids.index(ids[i]) == i and ids[i] not in STEP_IDS | {EOS})
    assert at < tokens - 4
    return between_marks(STEP_IDS, THINK, ids[at]), at


@pytest.fixture(scope="module", params=[0, 2], ids=["plain", "penalized"])
def thought(request):
    """A prompt, its sampling, a rule under which the thinking ends in the middle, and all of it in one go."""
    (prompt,), sampling, seed = prompts(9, seed=4), SETTINGS[request.param], 5
    rule, at = think_rule(prompt, sampling, seed)
    whole = write(make_engine(rule=rule), [Request(prompt, sampling, seed, TOKENS, until="eos")])[0]
    return prompt, sampling, seed, rule, at, whole


def begin(engine, thought):
    """Write the thinking; its id and trajectory."""
    prompt, sampling, seed, _, at, _ = thought
    id = engine.submit(Request(prompt, sampling, seed, TOKENS))
    parent = finished(run(engine))[id]
    assert (parent.finish_reason, parent.tokens) == ("think_end", at + 1)
    return id, parent


def go_on(thought, id, **changes):
    """The request that continues trajectory `id` to the length of the whole."""
    prompt, sampling, seed, _, at, _ = thought
    return Request(**{
        "prompt_ids": prompt, "sampling": sampling, "seed": seed, "max_tokens": TOKENS - at - 1, "until": "eos",
        "parent": id, **changes,
    })  # fmt: skip


def test_thinking_and_continuation_equal_writing_in_one_go(thought):
    engine = make_engine(rule=thought[3])
    id, parent = begin(engine, thought)
    prefills = count_calls(engine._backbone, "prefill")
    child = engine.submit(go_on(thought, id))
    events = run(engine)
    same(finished(events)[child], thought[-1])
    assert prefills == [], "the prefix is paid for once"
    assert finished(events)[child].steps[: len(parent.steps)] == parent.steps
    assert text(events, child) == engine.tokenizer.decode(thought[-1].token_ids[parent.tokens :])


def test_a_continuation_whose_parent_was_dropped_reads_it_again_and_writes_the_same(thought):
    engine = make_engine(rule=thought[3])
    engine._kv_manager.parking.capacity = 1  # byte
    id, parent = begin(engine, thought)
    prefills = count_calls(engine._backbone, "prefill")
    same(write(engine, [go_on(thought, id)])[0], thought[-1])
    assert [ids for ids, *_ in prefills] == [(*thought[0], *parent.token_ids[:-1])]


def test_a_continuation_among_others_writes_the_same(thought, requests):
    engine = make_engine(rule=thought[3], max_rows=3)
    others = [engine.submit(r) for r in requests[:4]]
    id, _ = begin(engine, thought)
    more = [engine.submit(r) for r in requests[4:]]
    child = engine.submit(go_on(thought, id))
    assert len(others) + len(more) == len(requests)
    same(finished(run(engine))[child], thought[-1])


def test_a_cancelled_trajectory_can_be_continued_to_the_same_end(thought):
    prompt, sampling, seed, rule, _, whole = thought
    engine = make_engine(rule=rule)
    id = engine.submit(Request(prompt, sampling, seed, TOKENS))
    for _ in range(3):
        engine.step()
    engine.cancel(id)
    cut = finished(engine.step())[id]
    assert cut.finish_reason == "cancelled" and 0 < cut.tokens < whole.tokens
    prefills = count_calls(engine._backbone, "prefill")
    same(write(engine, [go_on(thought, id, max_tokens=TOKENS - cut.tokens)])[0], whole)
    assert prefills == []


def test_a_trajectory_that_ran_out_of_tokens_can_be_continued_to_the_same_end(thought):
    prompt, sampling, seed, rule, _, whole = thought
    engine = make_engine(rule=rule)
    id = engine.submit(Request(prompt, sampling, seed, 3))
    assert finished(run(engine))[id].finish_reason == "length"
    same(write(engine, [go_on(thought, id, max_tokens=TOKENS - 3)])[0], whole)


def test_a_continuation_can_be_continued(thought):
    engine = make_engine(rule=thought[3])
    id, parent = begin(engine, thought)
    child = engine.submit(go_on(thought, id, max_tokens=2))
    assert finished(run(engine))[child].tokens == parent.tokens + 2
    left = TOKENS - parent.tokens - 2
    same(write(engine, [go_on(thought, child, max_tokens=left)])[0], thought[-1])


def test_several_continuations_of_one_parent_share_its_prefix_and_differ_by_seed(thought):
    engine = make_engine(rule=thought[3])
    id, parent = begin(engine, thought)
    prefills = count_calls(engine._backbone, "prefill")
    made = write(engine, [go_on(thought, id, seed=seed) for seed in (thought[2], 100, 101, 102)])
    assert prefills == []
    assert made[0].token_ids == thought[-1].token_ids
    assert len({t.token_ids for t in made}) > 1
    assert {t.token_ids[: parent.tokens] for t in made} == {parent.token_ids}


def test_a_parent_that_is_not_finished_forgotten_or_unknown_is_refused(thought):
    engine = make_engine(rule=thought[3])
    running = engine.submit(Request(thought[0]))
    for parent in (running, 999, -1):
        with pytest.raises(InputError, match="can't be continued"):
            engine.submit(go_on(thought, parent))
    engine.cancel(running)
    run(engine)
    engine.cancel(running)  # finished by now: forget it
    with pytest.raises(InputError, match="can't be continued"):
        engine.submit(go_on(thought, running))
