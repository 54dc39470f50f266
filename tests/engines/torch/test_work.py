"""What the engine does not do: read a prompt twice, pass over a text again to score it, copy its memory each step."""

from dataclasses import replace

import pytest
import torch

from engines.torch.runs import (
    GREEDY,
    THINK,
    count_calls,
    finished,
    hf_greedy,
    hf_step_scores,
    make_engine,
    prompts,
    reference,
    run,
    write,
)
from reflective.engines.base import Request, Sampling, StepScored
from reflective.engines.torch import TorchEngine
from reflective.engines.torch.backbones import hf
from reflective.engines.torch.kv_manager import LENGTH_QUANTUM
from reflective.errors import InputError
from reflective.judge.judge import Judge

(PROMPT,) = prompts(9)


def sampled(n, prompt=PROMPT, max_tokens=10):
    """Requests that differ by their seed alone."""
    return [Request(prompt, seed=seed, max_tokens=max_tokens, until="eos", index=seed) for seed in range(n)]


def ids_of(calls):
    """The token ids of each prefill."""
    return [ids for ids, *_ in calls]


# ---- prompts


@pytest.mark.parametrize("max_rows", [64, 2])
def test_a_prompt_is_read_once_for_all_its_trajectories(max_rows):
    engine = make_engine(max_rows=max_rows)
    prefills = count_calls(engine._backbone, "prefill")
    done = write(engine, sampled(7))
    assert ids_of(prefills) == [PROMPT]
    assert len({t.token_ids for t in done}) == 7
    assert engine._kv_manager.parking.get(PROMPT) is None, "the shared prompt is let go with the last who needs it"


def test_prompts_that_come_mixed_are_read_once_each():
    engine = make_engine(max_rows=3)
    prefills = count_calls(engine._backbone, "prefill")
    a, b = prompts(7, 12)
    write(engine, [request for pair in zip(sampled(4, a), sampled(4, b), strict=True) for request in pair])
    assert sorted(ids_of(prefills)) == sorted([a, b])


def test_a_prompt_is_not_read_again_for_a_trajectory_that_begins_while_another_runs():
    """As with effort auto, which starts some when others end; the result is that of a trajectory alone."""
    engine = make_engine(max_rows=4)
    prefills = count_calls(engine._backbone, "prefill")
    (other,) = prompts(6)
    first, late, last = sampled(3)
    engine.submit(replace(first, max_tokens=30))
    engine.submit(Request(other, max_tokens=3, until="eos"))
    for _ in range(5):  # the row of the other prompt has become free by then
        engine.step()
    id = engine.submit(late)
    together = finished(run(engine))[id]
    assert ids_of(prefills) == [PROMPT, other]
    (alone,) = write(make_engine(), [late])
    assert together.token_ids == alone.token_ids and together.steps == alone.steps
    write(engine, [last])
    assert ids_of(prefills) == [PROMPT, other, PROMPT], "nobody who ran with it is left"


def test_a_shared_prompt_that_was_dropped_is_read_again():
    engine, kept = make_engine(max_rows=2), make_engine(max_rows=2)
    engine._kv_manager.parking.capacity = 1  # byte
    prefills = count_calls(engine._backbone, "prefill")
    dropped = write(engine, sampled(4))
    assert len(prefills) > 1 and {*ids_of(prefills)} == {PROMPT}
    assert [t.token_ids for t in dropped] == [t.token_ids for t in write(kept, sampled(4))]


@pytest.mark.parametrize(
    ("family", "config"),
    [("qwen2", {}), ("mistral", {"sliding_window": 8}), ("gemma2", {})],
    ids=["fused", "window", "windows and soft caps"],
)
def test_a_prompt_longer_than_a_chunk_gives_the_same(family, config, monkeypatch):
    monkeypatch.setattr(hf, "PREFILL_CHUNK", 7)
    (prompt,) = prompts(31)
    engine, model = make_engine(family, config=config), reference(family, config)
    greedy, drawn = write(engine, [Request(prompt, GREEDY, max_tokens=8, until="eos"), *sampled(1, prompt, 12)])
    assert greedy.token_ids == hf_greedy(model, prompt, 8)
    assert drawn.steps
    assert [s.score for s in drawn.steps] == pytest.approx(hf_step_scores(model, engine.head, prompt, drawn), abs=1e-5)


def test_a_long_prompt_is_read_in_bounded_chunks_and_right():
    config = {"max_position_embeddings": 2048}
    engine, model = make_engine(config=config, compiled=False), reference(config=config)
    forwards = count_calls(engine._backbone.reader, "_chunk")
    prompt = (*torch.randint(0, 250, (1100,), generator=torch.Generator().manual_seed(1)).tolist(), THINK)
    (trajectory,) = write(engine, [Request(prompt, GREEDY, max_tokens=3, until="eos")])
    assert trajectory.token_ids == hf_greedy(model, prompt, 3)
    assert [begin for _, begin, *_ in forwards] == [0, hf.PREFILL_CHUNK, 2 * hf.PREFILL_CHUNK]


# ---- one pass


@pytest.mark.parametrize("scored", [True, False])
def test_scores_cost_no_forward(scored):
    engine = make_engine(fuse=False, scored=scored)  # the generic backbone goes through the model's forward
    forwards = []
    hook = engine.model.register_forward_hook(lambda *_: forwards.append(1))
    done = write(engine, sampled(3))
    hook.remove()
    # the prompt gives the first token, then each forward one of every row
    assert len(forwards) == 1 + 9
    assert all(bool(t.steps) == scored for t in done)


def test_the_head_reads_rows_that_have_just_ended_a_step_and_no_others():
    engine = make_engine()
    reads = count_calls(engine._backbone, "score")
    for request in sampled(5, max_tokens=16):
        engine.submit(request)
    quiet = 0
    while engine.busy:
        before = len(reads)
        scored = sum(isinstance(event, StepScored) for event in engine.step())
        assert sum(len(rows) for _, _, rows in reads[before:]) == scored
        quiet += len(reads) == before
    assert quiet, "a step of the engine in which no row ended a reasoning step runs no head"
    assert sum(len(rows) for _, _, rows in reads) > 5


def test_rows_that_are_done_leave_the_batch_and_waiting_ones_enter():
    engine = make_engine(max_rows=2)
    plans = count_calls(engine._backbone, "write")
    write(engine, [Request(PROMPT, seed=s, max_tokens=n, until="eos") for s, n in enumerate([2, 6, 3, 3])])
    # each decodes one token less than it has; two rows are full as long as there is work for them
    assert [len(plan.tokens) for plan, *_ in plans] == [2, 2, 2, 2, 2]


def test_rows_of_one_length_need_no_mask_and_others_see_their_own_positions_alone():
    engine = make_engine(compiled=False)
    plans = count_calls(engine._backbone, "decode")
    write(engine, sampled(2, max_tokens=3))
    assert all(plan.tensors(kv).visible is None for plan, kv in plans)
    short, long = prompts(3, 6)
    write(engine, [*sampled(1, short, 2), *sampled(1, long, 2)])
    plan, kv = plans[-1]
    assert plan.tensors(kv).visible.sum(-1).flatten().tolist() == [4, 7]


# ---- memory


def test_no_step_copies_the_keys_and_values():
    engine = make_engine(max_rows=4)
    for request in [*sampled(4), *sampled(4, prompts(20)[0])]:
        engine.submit(request)
    places = set()
    while engine.busy:
        engine.step()
        places.add((engine._kv_manager.kv.data.data_ptr(), engine._kv_manager.kv.data.shape))
    assert len(places) == 1


def test_memory_grows_under_running_trajectories_without_a_trace():
    short, long = sampled(2, max_tokens=30), sampled(3, prompts(80, seed=3)[0], 30)
    penalized = [Request(PROMPT, Sampling(repetition_penalty=1.5), 8, 30, until="eos")]
    apart = write(make_engine(), short) + write(make_engine(), long) + write(make_engine(), penalized)
    engine = make_engine()
    ids = [engine.submit(request) for request in short]
    events = [event for _ in range(5) for event in engine.step()]
    before = engine._kv_manager.kv.data.shape
    ids += [engine.submit(request) for request in long]
    events += [event for _ in range(5) for event in engine.step()]
    assert engine._kv_manager.kv.rows > before[2] and engine._kv_manager.kv.length >= before[4] + LENGTH_QUANTUM
    ids += [engine.submit(request) for request in penalized]
    done = finished(events + run(engine))
    assert [done[id].token_ids for id in ids] == [t.token_ids for t in apart]


@pytest.mark.parametrize("family", ["qwen2", "gemma2"])
def test_what_memory_held_before_reaches_no_result(family):
    requests = [*sampled(1, prompts(3)[0], 12), *sampled(1, prompts(20)[0], 12)]
    clean = write(make_engine(family), requests)
    try:
        torch.use_deterministic_algorithms(True)  # fills uninitialised memory with NaN
        spoilt = write(make_engine(family), requests)
    finally:
        torch.use_deterministic_algorithms(False)
    assert [t.token_ids for t in spoilt] == [t.token_ids for t in clean]
    assert [t.score for t in spoilt] == pytest.approx([t.score for t in clean], abs=1e-6)


def test_a_closed_engine_holds_nothing():
    engine = make_engine()
    write(engine, [Request(PROMPT, seed=1, max_tokens=4)])
    engine.close()
    assert engine._kv_manager.kv is None and len(engine._kv_manager.parking) == 0 and not engine.busy


# ---- features


def test_features_of_the_steps_can_be_caught_in_the_pass_that_writes_them():
    engine = make_engine(catch_features=True)
    ids = [engine.submit(request) for request in sampled(3, max_tokens=16)]
    done = finished(run(engine))
    assert sum(len(done[id].steps) for id in ids) > 3
    for id in ids:
        positions, features = engine.take_features(id)
        assert positions == [step.position for step in done[id].steps]
        with torch.inference_mode():
            full = torch.tensor([[*PROMPT, *done[id].token_ids]])
            hidden = reference()(full, output_hidden_states=True).hidden_states[-2][0]
        at = [len(PROMPT) + position - 1 for position in positions]
        assert torch.allclose(features, hidden[at], rtol=1e-4, atol=1e-3)
        assert engine.take_features(id)[1].shape == (0, 64), "they are handed out once"


@pytest.mark.parametrize("way", [{}, {"compiled": False}, {"fuse": False}], ids=["compiled", "fused", "hf"])
def test_features_of_several_layers_and_their_means_are_those_of_one_whole_pass(way):
    layers = (-2, 0, -1, 1)
    engine = make_engine(catch_features=True, layers=layers[1:], catch_means=True, **way)
    ids = [engine.submit(request) for request in sampled(3, max_tokens=16)]
    done = finished(run(engine))
    plain = {t.token_ids: t for t in write(make_engine(**way), sampled(3, max_tokens=16))}
    assert sum(len(done[id].steps) for id in ids) > 3
    for id in ids:
        assert done[id] == plain[done[id].token_ids], "what is caught changes nothing"
        positions, features = engine.take_features(id)
        with torch.inference_mode():
            full = torch.tensor([[*PROMPT, *done[id].token_ids]])
            states = reference()(full, output_hidden_states=True).hidden_states
        drew = [states[layer][0][len(PROMPT) - 1 : -1] for layer in layers]  # each token's state, where it was drawn
        spans = list(zip([0, *(p + 1 for p in positions)], positions))
        expected = torch.cat(
            [*(d[positions] for d in drew), *(torch.stack([d[a : b + 1].mean(0) for a, b in spans]) for d in drew)], -1
        )
        assert features.shape == expected.shape == (len(positions), 8 * 64)
        assert torch.allclose(features, expected, rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize("way", [{}, {"compiled": False}, {"fuse": False}], ids=["compiled", "fused", "hf"])
def test_a_head_may_read_the_mean_over_a_step_and_says_the_same_however_it_comes_there(way):
    def engine(**more):
        made = make_engine(**way, **more)
        judge = Judge(replace(made.judge.config, feature_position="mean"), made.head)
        return TorchEngine(made.model, made.tokenizer, judge, **way, **more)

    means = engine(catch_features=True, catch_means=True)
    ids = [means.submit(request) for request in sampled(3, max_tokens=16)]
    done = finished(run(means))
    assert sum(len(done[id].steps) for id in ids) > 3
    forked = engine()
    for id in ids:
        trajectory = done[id]
        caught = means.take_features(id)[1][:, 64:]
        logits = [step.logit for step in trajectory.steps]
        assert logits == pytest.approx(means.head.mlp(caught).tolist(), abs=1e-4)
        read = forked.score(PROMPT, trajectory.token_ids)
        assert [step.logit for step in read] == pytest.approx(logits, abs=2e-3)
        parent = forked.submit(Request(PROMPT, seed=trajectory.seed, max_tokens=7, until="eos"))
        begun = finished(run(forked))[parent]
        assert begun.token_ids == trajectory.token_ids[:7]
        child = forked.submit(Request(PROMPT, seed=trajectory.seed, max_tokens=9, until="eos", parent=parent))
        rest = finished(run(forked))[child]
        assert rest.token_ids == trajectory.token_ids
        assert [step.logit for step in rest.steps] == pytest.approx(logits, abs=2e-3)


def test_means_are_caught_of_whole_trajectories_alone():
    engine = make_engine(catch_features=True, catch_means=True)
    id = engine.submit(sampled(1)[0])
    run(engine)
    with pytest.raises(InputError, match="begin at a prompt alone"):
        engine.submit(Request(PROMPT, max_tokens=4, until="eos", parent=id))


def test_features_can_be_caught_before_there_is_a_head():
    engine = make_engine(catch_features=True, scored=False)
    id = engine.submit(sampled(1, max_tokens=16)[0])
    trajectory = finished(run(engine))[id]
    positions, features = engine.take_features(id)
    assert trajectory.steps == () and trajectory.score is None
    assert len(positions) == len(features) > 1


def test_a_continuation_has_the_features_of_its_parent_too():
    whole, split = make_engine(catch_features=True), make_engine(catch_features=True)
    id = whole.submit(sampled(1, max_tokens=24)[0])
    run(whole)
    parent = split.submit(sampled(1, max_tokens=12)[0])
    run(split)
    child = split.submit(Request(PROMPT, seed=0, max_tokens=12, until="eos", parent=parent))
    run(split)
    (positions, features), (ours, caught) = whole.take_features(id), split.take_features(child)
    assert ours == positions and len(ours) > 2
    assert torch.allclose(caught, features, rtol=1e-4, atol=1e-3)
    taken = len(split.take_features(parent)[0])
    late = split.submit(Request(PROMPT, seed=0, max_tokens=12, until="eos", parent=parent))
    run(split)
    assert split.take_features(late)[0] == positions[taken:], "what was taken is gone; positions and features agree"
