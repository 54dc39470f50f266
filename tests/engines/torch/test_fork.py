"""Forks in the embedded engine: the same tokens as their parent's, and at most one position read again."""

import pytest
import torch

from engines.torch.runs import STEP_IDS, THINK, finished, hf_step_scores, make_engine, prompts, reference, run, text
from reflective import InputError
from reflective.engines.base import Request, Sampling
from reflective.engines.torch.kv import KVMemory
from reflective.judge.format import between_marks

(PROMPT,) = prompts(9)
TOKENS = 24
LONG = 64
WAYS = {
    "compiled": ("qwen2", {}),
    "fused": ("qwen2", {"compiled": False}),
    "generic": ("qwen2", {"fuse": False}),
    "windows and soft caps": ("gemma2", {}),
}


def positions_of(engine):
    """A list that grows by the number of positions of every pass through the backbone."""
    passes = []
    backbone = engine._backbone
    prefill, write, decode = backbone.prefill, backbone.write, backbone.decode
    inside = []

    def counted_prefill(ids, kv, row, start=0):
        passes.append(len(ids) - start)
        return prefill(ids, kv, row, start)

    def counting(method):
        def counted(plan, *rest):
            if not inside:
                passes.append(len(plan.tokens))
            inside.append(None)
            try:
                return method(plan, *rest)
            finally:
                inside.pop()

        return counted

    backbone.prefill, backbone.write, backbone.decode = counted_prefill, counting(write), counting(decode)
    return passes


def request(seed=1, max_tokens=TOKENS, **options):
    return Request(PROMPT, seed=seed, max_tokens=max_tokens, until="eos", **options)


def alike(ours, theirs):
    """The same tokens; log-probabilities and scores up to rounding, since another batch may sum in another order."""
    assert ours.token_ids == theirs.token_ids and ours.finish_reason == theirs.finish_reason
    assert ours.token_logprobs == pytest.approx(theirs.token_logprobs, abs=1e-4)
    assert [s.position for s in ours.steps] == [s.position for s in theirs.steps]
    assert [s.score for s in ours.steps] == pytest.approx([s.score for s in theirs.steps], abs=1e-4)
    assert [s.text for s in ours.steps] == [s.text for s in theirs.steps]


def closing(family, at, **options):
    """An engine that takes for `</think>` what its parent trajectory's token at `at` is, so that it ends there."""
    token = finished(write_one(make_engine(family, **options)))[0].token_ids[at]
    return make_engine(family, rule=between_marks(STEP_IDS - {token}, THINK, token), **options)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("at", [0, 1, 5, 10])
def test_a_running_trajectory_is_forked_and_one_position_is_read_again(way, at):
    family, options = WAYS[way]
    (whole,) = finished(write_one(make_engine(family, **options))).values()
    engine = make_engine(family, **options)
    parent = engine.submit(request())
    for _ in range(10):  # eleven tokens: the prompt gives the first, and each pass one
        engine.step()
    passes = positions_of(engine)
    same, other = engine.fork(parent, at, request(1, TOKENS - at)), engine.fork(parent, at, request(2, TOKENS - at))
    events = run(engine)
    done = finished(events)
    alike(done[parent], whole)
    alike(done[same], whole)
    assert done[other].token_ids[:at] == whole.token_ids[:at] and done[other].token_ids != whole.token_ids
    # a token that is added takes one position, that of the token before it; what the prompt gives was kept
    added = [done[id].tokens - at for id in (same, other)]
    assert sum(passes) == TOKENS - 11 + sum(added) - (0 if at else 2)
    assert text(events, same) == engine.decode(whole.token_ids[at:])


def write_one(engine):
    engine.submit(request())
    return run(engine)


@pytest.mark.parametrize("way", WAYS)
def test_a_parked_thinking_is_forked_anywhere_and_one_position_is_read_again(way):
    family, options = WAYS[way]
    engine = closing(family, 12, **options)
    parent = engine.submit(Request(PROMPT, seed=1, max_tokens=TOKENS))
    thought = finished(run(engine))[parent]
    assert (thought.finish_reason, thought.tokens) == ("think_end", 13)
    passes = positions_of(engine)
    for at in (1, 6, 13):
        passes.clear()
        child = engine.fork(parent, at, Request((), seed=1, max_tokens=3, until="eos"))
        forked = finished(run(engine))[child]
        assert sum(passes) == 3
        assert forked.token_ids[: min(at + 3, 13)] == thought.token_ids[: at + 3]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("end", ["eos", "length"])
def test_a_trajectory_that_has_ended_is_forked_anywhere_and_one_position_is_read_again(way, end):
    family, options = WAYS[way]
    engine = make_engine(family, **options)
    engine.submit(request(max_tokens=LONG))
    (whole,) = finished(run(engine)).values()
    ids = whole.token_ids
    last = next(i for i in reversed(range(LONG)) if ids.index(ids[i]) == i)
    engine = make_engine(family, eos=ids[last] if end == "eos" else None, **options)
    parent = engine.submit(request(max_tokens=LONG))
    ended = finished(run(engine))[parent]
    assert ended.finish_reason == end and ended.tokens == (last + 1 if end == "eos" else LONG)
    fifth = ended.steps[4].position + 1
    assert len(ended.steps) >= 9, "fork at step 5 of 10"
    passes = positions_of(engine)
    for at in (0, 1, fifth, ended.tokens - 4, ended.tokens):
        passes.clear()
        child = engine.fork(parent, at, request(1, 3))
        forked = finished(run(engine))[child]
        assert forked.token_ids[: ended.tokens] == ids[: at + 3][: ended.tokens]
        assert sum(passes) == forked.tokens - at, "a token that is added takes one position"


@pytest.mark.parametrize("way", WAYS)
def test_pauses_change_nothing_and_read_nothing_again(way):
    family, options = WAYS[way]
    (whole,) = finished(write_one(make_engine(family, **options))).values()
    engine = make_engine(family, **options)
    passes = positions_of(engine)
    id, tokens, reasons = None, 0, []
    while not reasons or reasons[-1] == "step":
        one = Request(PROMPT, seed=1, max_tokens=TOKENS - tokens, until="step", parent=id)
        id = engine.submit(one)
        paused = finished(run(engine))[id]
        tokens = paused.tokens
        reasons.append(paused.finish_reason)
        if reasons[-1] == "step":
            assert paused.steps[-1].position == tokens - 1
    assert len(reasons) > 3
    alike(paused, whole)
    assert sum(passes) == len(PROMPT) + TOKENS - 1


@pytest.mark.parametrize("way", WAYS)
def test_what_was_dropped_is_read_again_and_right(way):
    family, options = WAYS[way]
    engine = make_engine(family, **options)
    parent = engine.submit(request())
    whole = finished(run(engine))[parent]
    engine._kv_manager.forget()
    passes = positions_of(engine)
    child = engine.fork(parent, 7, request(1, TOKENS - 7))
    alike(finished(run(engine))[child], whole)
    assert sum(passes) == len(PROMPT) + 6 + TOKENS - 7


@pytest.mark.parametrize("way", WAYS)
def test_what_ends_behind_all_others_is_copied_out_only_when_its_row_is_wanted(way, monkeypatch):
    family, options = WAYS[way]
    engine, copied, park = make_engine(family, **options), [], KVMemory.park
    monkeypatch.setattr(KVMemory, "park", lambda kv, row, length: copied.append(row) or park(kv, row, length))
    parent = engine.submit(request())
    whole = finished(run(engine))[parent]
    assert not copied
    forgotten = engine.submit(request(1))  # takes the row of the parent
    run(engine)
    assert len(copied) >= 1
    copied.clear()
    engine.cancel(forgotten)
    passes = positions_of(engine)
    child = engine.fork(parent, 7, request(1, TOKENS - 7))
    alike(finished(run(engine))[child], whole)
    assert not copied and sum(passes) == TOKENS - 7, "nothing is copied of what was forgotten, nor read again"


def test_a_fork_outlives_a_parent_that_is_cancelled_at_once():
    engine, alone = make_engine(), make_engine()
    whole = finished(write_one(alone))[0]
    parent = engine.submit(request())
    for _ in range(10):
        engine.step()
    passes = positions_of(engine)
    child = engine.fork(parent, 8, request(1, TOKENS - 8))
    engine.cancel(parent)
    alike(finished(run(engine))[child], whole)
    assert sum(passes) == TOKENS - 8, "the row of the parent was parked"


def test_forks_wait_for_rows_and_are_right_when_they_get_one():
    engine = make_engine(max_rows=2)
    whole = finished(write_one(make_engine()))[0]
    parent = engine.submit(request())
    for _ in range(10):
        engine.step()
    ids = [engine.fork(parent, at, request(1, TOKENS - at)) for at in range(10)]
    done = finished(run(engine))
    for id in ids:
        alike(done[id], whole)


def test_steps_of_a_fork_have_the_scores_of_a_separate_forward():
    engine = make_engine()
    parent = engine.submit(request())
    run(engine)
    child = engine.fork(parent, 11, request(5))
    forked = finished(run(engine))[child]
    assert any(step.position < 11 for step in forked.steps) and any(step.position > 11 for step in forked.steps)
    expected = hf_step_scores(reference(), engine.head, PROMPT, forked)
    assert [s.score for s in forked.steps] == pytest.approx(expected, abs=1e-5)


def test_settings_of_a_fork_are_its_own():
    engine = make_engine(keep_confidences=True)
    parent = engine.submit(request())
    run(engine)
    greedy = engine.fork(parent, 6, Request((), Sampling(temperature=0.0), seed=3, max_tokens=4, until="eos", index=8))
    penalized = engine.fork(parent, 6, Request((), Sampling(repetition_penalty=1.8), seed=3, max_tokens=4, until="eos"))
    done = finished(run(engine))
    assert (done[greedy].index, done[greedy].seed, done[greedy].tokens) == (8, 3, 10)
    assert len(done[greedy].token_certainties) == len(done[greedy].token_confidences) == 10
    plain = engine.fork(parent, 6, Request((), seed=3, max_tokens=4, until="eos"))
    engine.fork(parent, 6, Request((), Sampling(repetition_penalty=1.8), seed=3, max_tokens=4, until="eos", index=1))
    again, alone = finished(run(engine)), done[penalized]
    assert {t.token_ids for t in again.values()} == {again[plain].token_ids, alone.token_ids}


def test_features_of_shared_steps_come_along():
    engine = make_engine(catch_features=True)
    parent = engine.submit(request())
    for _ in range(12):
        engine.step()
    child = engine.fork(parent, 12, request(1, TOKENS - 12))
    early = engine.fork(parent, 5, request(2, 4))
    run(engine)
    positions, features = engine.take_features(parent)
    ours, caught = engine.take_features(child)
    assert ours == positions and torch.allclose(caught, features, rtol=1e-4, atol=1e-3)
    few, shared = engine.take_features(early)
    count = sum(position < 5 for position in positions)
    assert few[:count] == positions[:count] and torch.equal(shared[:count], features[:count])


def test_a_trajectory_that_only_waits_is_forked_at_its_beginning_alone():
    engine = make_engine(max_rows=1)
    engine.submit(request())
    waiting = engine.submit(request(4, 6))
    child = engine.fork(waiting, 0, request(4, 6))
    with pytest.raises(InputError, match="has 0 tokens"):
        engine.fork(waiting, 1)
    done = finished(run(engine))
    assert done[child].token_ids == done[waiting].token_ids
