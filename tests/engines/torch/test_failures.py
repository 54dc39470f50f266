"""Bad input and failing machines: one line that says what to do, or fewer rows and the same result."""

import re

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from engines.torch.runs import (
    EOS,
    GREEDY,
    STEP_IDS,
    TOKENIZER,
    finished,
    hf_greedy,
    judge_of,
    make_engine,
    make_head,
    prompts,
    reference,
    run,
    write,
)
from reflective import CheckpointError, ContextError, EngineError, InputError
from reflective.engines.base import Request, Sampling
from reflective.engines.torch import TorchEngine, draws
from reflective.engines.torch import kv_manager as room
from reflective.engines.torch.backbones import base
from reflective.judge.format import whole_response
from tiny import tiny_checkpoint, tiny_model, tiny_tokenizer

(PROMPT,) = prompts(9)
REQUESTS = [
    Request(PROMPT, seed=0, max_tokens=10, until="eos"),
    Request(prompts(5)[0], Sampling(repetition_penalty=1.3), seed=1, max_tokens=10, until="eos"),
    Request(PROMPT, seed=2, max_tokens=7, until="eos"),
    Request(prompts(14)[0], Sampling(top_p=0.9), seed=3, max_tokens=10, until="eos"),
    Request(PROMPT, seed=4, max_tokens=10, until="eos"),
]
CPU_MESSAGE = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: 64 bytes"


@pytest.fixture(scope="module")
def undisturbed():
    return write(make_engine(), REQUESTS)


def one_line(caught):
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".") and len(text) < 300
    return text


# ---- out of memory


def failing(original, fails, error):
    """`original`, but call number i raises `error` where fails(i, args)."""
    calls = []

    def wrapped(*args, **kwargs):
        calls.append(1)
        if fails(len(calls) - 1, args):
            raise error
        return original(*args, **kwargs)

    return wrapped


def same(engine, undisturbed):
    done = write(engine, REQUESTS)
    assert [t.token_ids for t in done] == [t.token_ids for t in undisturbed]
    for ours, theirs in zip(done, undisturbed, strict=True):
        assert [s.logit for s in ours.steps] == pytest.approx([s.logit for s in theirs.steps], abs=1e-3)
        assert (ours.thinking, ours.finish_reason) == (theirs.thinking, theirs.finish_reason)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError(CPU_MESSAGE)])
@pytest.mark.parametrize("when", [0, 3])
def test_out_of_memory_while_decoding_takes_fewer_rows_and_gives_the_same(undisturbed, error, when):
    engine = make_engine(max_rows=5)
    engine._backbone.decode = failing(engine._backbone.decode, lambda i, _: i == when, error)
    same(engine, undisturbed)
    assert engine.max_rows == 2


def test_a_machine_that_holds_two_rows_only_writes_all_of_them(undisturbed):
    engine = make_engine(max_rows=5)
    too_many = lambda _, args: len(args[0].tokens) > 2  # noqa: E731
    engine._backbone.decode = failing(engine._backbone.decode, too_many, torch.OutOfMemoryError("full"))
    same(engine, undisturbed)
    assert engine.max_rows == 2


@pytest.mark.parametrize("when", [0, 1, 4])
def test_out_of_memory_while_drawing_takes_fewer_rows_and_gives_the_same(undisturbed, monkeypatch, when):
    engine = make_engine(max_rows=5)
    drawn = failing(draws.draw_tokens, lambda i, _: i == when, torch.OutOfMemoryError("full"))
    monkeypatch.setattr(draws, "draw_tokens", drawn)
    monkeypatch.setattr(base, "draw_tokens", drawn)
    if when == 0:  # the first prompt's first token: nothing runs that could make room
        for request in REQUESTS:
            engine.submit(request)
        with pytest.raises(EngineError, match="out of memory"):
            engine.step()
        done = [*finished(run(engine)).values()]  # nothing is lost: the next call goes on
        assert {t.token_ids for t in done} == {t.token_ids for t in undisturbed}
    else:
        same(engine, undisturbed)


@pytest.mark.parametrize("when", [1, 2])
def test_out_of_memory_while_reading_a_prompt_takes_fewer_rows_and_gives_the_same(undisturbed, when):
    engine = make_engine(max_rows=5)
    prefill = failing(engine._backbone.prefill, lambda i, _: i == when, torch.OutOfMemoryError("full"))
    engine._backbone.prefill = prefill
    same(engine, undisturbed)
    assert engine.max_rows < 5


def test_out_of_memory_with_one_row_is_one_line():
    engine = make_engine()
    engine._backbone.write = failing(engine._backbone.write, lambda *_: True, torch.OutOfMemoryError("full"))
    engine.submit(REQUESTS[0])
    with pytest.raises(EngineError, match="out of memory") as caught:
        run(engine)
    one_line(caught)


def test_another_error_is_not_taken_for_a_lack_of_memory():
    engine = make_engine()
    engine._backbone.decode = failing(engine._backbone.decode, lambda *_: True, RuntimeError("a bug"))
    for request in REQUESTS:
        engine.submit(request)
    with pytest.raises(RuntimeError, match="a bug"):
        engine.step()
    assert engine.max_rows == 64


def test_rows_are_as_many_as_memory_allows(undisturbed, monkeypatch):
    engine = make_engine(max_rows=5)
    row = 64 * engine._backbone.shape.bytes_per_position
    monkeypatch.setattr(room, "available_memory", lambda _: int(2.5 * row / room.KV_SHARE))
    same(engine, undisturbed)
    assert engine.max_rows == engine._kv_manager.kv.rows == 2


def test_memory_for_less_than_one_row_is_one_line(monkeypatch):
    engine = make_engine()
    monkeypatch.setattr(room, "available_memory", lambda _: 1000)
    engine.submit(REQUESTS[0])
    with pytest.raises(EngineError, match="max-tokens") as caught:
        engine.step()
    one_line(caught)


def test_memory_that_can_not_be_had_is_one_line(monkeypatch):
    engine = make_engine(config={"max_position_embeddings": 10**9}, max_rows=10**6)
    monkeypatch.setattr(room, "available_memory", lambda _: 10**18)
    engine.submit(Request(PROMPT, max_tokens=10**9))
    with pytest.raises(EngineError, match="no memory for the keys and values") as caught:
        engine.step()
    one_line(caught)


# ---- logits that are not numbers


@pytest.mark.parametrize("family", ["qwen2", "gemma"])
@pytest.mark.parametrize("sampling", [Sampling(), GREEDY], ids=["sampled", "greedy"])
def test_a_model_that_gives_nan_is_one_line(family, sampling):
    engine = make_engine(family)
    with torch.no_grad():
        engine.model.get_output_embeddings().weight.fill_(torch.nan)
    engine.submit(Request(PROMPT, sampling))
    with pytest.raises(EngineError, match="NaN") as caught:
        engine.step()
    assert "'tiny'" in one_line(caught) and "float32" in str(caught.value)


@pytest.mark.parametrize("spoilt", [0, 1, 3])
def test_a_trajectory_with_nan_can_be_cancelled_and_the_others_go_on(undisturbed, spoilt):
    engine = make_engine()
    ids = [engine.submit(request) for request in REQUESTS]
    events = [event for _ in range(3) for event in engine.step()]
    decode = engine._backbone.decode

    def broken(plan, kv):
        logits, features = decode(plan, kv)
        for row, sequence in enumerate(engine._scheduler.running):
            if sequence.id == ids[spoilt]:
                logits[row] = torch.nan
        return logits, features

    engine._backbone.decode = broken
    for _ in range(2):  # and it fails in the same way again: no state was lost on the way
        with pytest.raises(EngineError, match="at token 4"):
            engine.step()
    engine.cancel(ids[spoilt])
    done = finished(events + run(engine))
    assert done[ids[spoilt]].finish_reason == "cancelled" and done[ids[spoilt]].tokens == 4
    for i, id in enumerate(ids):
        if i != spoilt:
            assert done[id].token_ids == undisturbed[i].token_ids


def test_no_event_of_a_step_that_fails_is_lost(undisturbed):
    engine = make_engine(max_rows=3)
    ids = [engine.submit(request) for request in REQUESTS]
    engine.step()
    engine.cancel(ids[0])
    decode, engine._backbone.decode = engine._backbone.decode, failing(None, lambda *_: True, EngineError("hiccup."))
    with pytest.raises(EngineError, match="hiccup"):
        engine.step()
    engine._backbone.decode = decode
    done = finished(run(engine))
    assert done[ids[0]].finish_reason == "cancelled"
    assert [done[id].token_ids for id in ids[1:]] == [t.token_ids for t in undisturbed[1:]]


def test_a_feature_that_is_nan_is_no_score():
    engine = make_engine()
    with torch.no_grad():
        engine.head.output.bias.fill_(torch.nan)
    engine.submit(REQUESTS[0])
    with pytest.raises(EngineError, match="NaN") as caught:
        run(engine)
    one_line(caught)


# ---- requests


@pytest.mark.parametrize("length", [512, 600])
def test_a_prompt_without_room_for_an_answer_is_refused(length):
    engine = make_engine()
    with pytest.raises(ContextError, match=f"{length} tokens.*512") as caught:
        engine.submit(Request((7,) * length))
    assert "Shorten the problem" in one_line(caught)
    assert not engine.busy


def test_a_prompt_that_leaves_room_for_one_token_gets_one():
    (trajectory,) = write(make_engine(), [Request((7,) * 511, max_tokens=50)])
    assert (trajectory.tokens, trajectory.finish_reason) == (1, "length")


def test_max_tokens_is_cut_to_the_context():
    config = {"max_position_embeddings": 30}
    engine = make_engine(config=config)
    (trajectory,) = write(engine, [Request(PROMPT, GREEDY, max_tokens=1000, until="eos")])
    assert trajectory.tokens == 21 and trajectory.finish_reason == "length"
    assert trajectory.token_ids == hf_greedy(reference(config=config), PROMPT, 21)


def test_a_continuation_is_cut_to_the_context_and_refused_beyond_it():
    engine = make_engine(config={"max_position_embeddings": 30})
    parent = engine.submit(Request(PROMPT, seed=2, max_tokens=15, until="eos"))
    assert finished(run(engine))[parent].tokens == 15
    child = engine.submit(Request(PROMPT, seed=2, max_tokens=1000, until="eos", parent=parent))
    assert finished(run(engine))[child].tokens == 21
    with pytest.raises(ContextError, match="9 tokens and what was written so far 21"):
        engine.submit(Request(PROMPT, max_tokens=1, parent=child))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(()), "prompt is empty"),
        (Request((5, 300)), "token id 300 does not exist"),
        (Request((-1,)), "token id -1 does not exist"),
        (Request((5,), max_tokens=0), "max_tokens is 0"),
        (Request((5,), max_tokens=-3), "max_tokens is -3"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_in_one_line(request_, message):
    engine = make_engine()
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        engine.submit(request_)
    one_line(caught)
    assert not engine.busy


@pytest.mark.parametrize("max_rows", [0, -1])
def test_an_engine_needs_a_row(max_rows):
    with pytest.raises(InputError, match="max_rows"):
        make_engine(max_rows=max_rows)


# ---- models


def test_an_engine_without_a_head_writes_the_same_and_scores_nothing(undisturbed):
    engine = make_engine(scored=False)
    assert not engine.scored and make_engine().scored
    done = write(engine, REQUESTS)
    assert [t.token_ids for t in done] == [t.token_ids for t in undisturbed]
    assert all(t.steps == () and t.score is None for t in done)
    assert [t.thinking for t in done] == [t.thinking for t in undisturbed]


def test_a_whole_response_is_an_answer_where_it_ended_and_reasoning_where_it_was_cut(undisturbed):
    cut = undisturbed[0].token_ids
    (trajectory,) = write(make_engine(scored=False, rule=whole_response(STEP_IDS, {EOS})), REQUESTS[:1])
    assert trajectory.token_ids == cut and trajectory.finish_reason == "length"
    assert (trajectory.thinking, trajectory.answer_text) == (TOKENIZER.decode(cut), "")
    end = next(t for i, t in enumerate(cut) if i > 4 and t not in STEP_IDS and t not in cut[:i])
    engine = make_engine(rule=whole_response(STEP_IDS, {end}), eos=end)
    (ended,) = write(engine, REQUESTS[:1])
    assert ended.token_ids == cut[: cut.index(end) + 1] and ended.finish_reason == "eos"
    assert (ended.thinking, ended.answer_text) == ("", TOKENIZER.decode(ended.token_ids[:-1]).strip())
    # the token that ends the response closes its last step, and is scored where it was drawn from
    assert ended.steps[-1].position == len(ended.token_ids) - 1
    read = engine.score(PROMPT, ended.token_ids)
    assert [s.score for s in ended.steps] == pytest.approx([s.score for s in read], abs=1e-5)
    # and is no part of its text
    start = ended.steps[-2].position + 1 if len(ended.steps) > 1 else 0
    assert ended.steps[-1].text == TOKENIZER.decode(ended.token_ids[start:-1]).strip()
    assert [s.text for s in read] == [s.text for s in ended.steps]


@pytest.mark.parametrize("layer", [4, -5])
def test_a_layer_that_does_not_exist_is_refused(layer):
    model = tiny_model()
    with pytest.raises(EngineError, match=f"layer {layer} does not exist: the model has 3"):
        TorchEngine(model, tiny_tokenizer(), judge_of(make_head(model), layer=layer))


SMALL = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("gpt2", {"vocab_size": 300, "n_embd": 32, "n_layer": 2, "n_head": 2}),
        ("bloom", {"vocab_size": 300, "hidden_size": 32, "n_layer": 2, "n_head": 2}),
        ("mamba", {**SMALL, "state_size": 4}),
        ("xglm", {"vocab_size": 300, "d_model": 32, "num_layers": 2, "attention_heads": 2, "ffn_dim": 32}),
    ],
)
def test_an_architecture_that_does_not_fit_is_refused_in_one_line(kind, config):
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**config, bos_token_id=None, eos_token_id=EOS))
    with pytest.raises(EngineError) as caught:
        TorchEngine(model, tiny_tokenizer())
    assert type(model).__name__ in one_line(caught)


def test_an_architecture_outside_the_known_families_writes_what_hugging_face_writes():
    def make():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            config = CONFIG_MAPPING["qwen3_moe"](
                **SMALL, num_key_value_heads=1, head_dim=16, intermediate_size=32, moe_intermediate_size=16,
                num_experts=4, num_experts_per_tok=2, max_position_embeddings=64, eos_token_id=EOS,
            )  # fmt: skip
            return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()

    engine = TorchEngine(make(), tiny_tokenizer())
    batch = prompts(4, 9)
    done = write(engine, [Request(p, GREEDY, max_tokens=8, until="eos") for p in batch])
    assert [t.token_ids for t in done] == [hf_greedy(make(), p, 8) for p in batch]


def test_a_checkpoint_whose_head_reads_the_step_token_itself_is_refused():
    checkpoint = tiny_checkpoint(feature_position="at")
    with pytest.raises(CheckpointError, match="feature_position 'before'"):
        TorchEngine.from_checkpoint(checkpoint)


def test_a_checkpoint_brings_its_layer_rule_and_aggregation():
    checkpoint = tiny_checkpoint(layer=-1, aggregation="min", step_token_ids=[*range(0, 250, 3)])
    engine = TorchEngine.from_checkpoint(checkpoint, max_rows=3)
    (trajectory,) = write(engine, [Request(PROMPT, seed=0, max_tokens=12, until="eos")])
    assert (engine.max_rows, engine.name, engine.judge.format) == (3, "tiny", checkpoint.config.format)
    with torch.inference_mode():
        hidden = reference()(torch.tensor([[*PROMPT, *trajectory.token_ids]]), output_hidden_states=True)
        at = [len(PROMPT) + step.position - 1 for step in trajectory.steps]
        scores = checkpoint.head(hidden.hidden_states[-1][0, at]).sigmoid().tolist()
    assert trajectory.steps and trajectory.score == pytest.approx(min(scores), abs=1e-5)
