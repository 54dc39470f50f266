"""The compiled step computes what the framework's operators compute, for every shape, batch and number of threads."""

from __future__ import annotations

import ctypes
import gc
import math
import weakref
from collections.abc import Iterator

import pytest
import torch

from engines.torch.runs import (
    GREEDY,
    count_calls,
    hf_greedy,
    judge_of,
    make_engine,
    make_head,
    prompts,
    reference,
    write,
)
from reflective.engines.base import Request, Sampling
from reflective.engines.torch import TorchEngine
from reflective.engines.torch.backbones import choose
from reflective.engines.torch.backbones.base import DecodePlan
from reflective.engines.torch.backbones.fused import FusedBackbone
from reflective.engines.torch.backbones.hf import HFBackbone
from reflective.engines.torch.backbones.native import NativeBackbone, backbone, binding, library
from reflective.engines.torch.backbones.native.backbone import PREFILL_COLUMNS
from reflective.engines.torch.kv import KVMemory
from reflective.engines.torch.sampling import SamplingRows, draw_tokens
from reflective.errors import EngineError
from tiny import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.skipif(library() is None, reason="no C compiler when the package was installed")

(PROMPT,) = prompts(9)
SAMPLED = [Request(PROMPT, seed=seed, max_tokens=12, until="eos", index=seed) for seed in range(3)]

# shapes that are no multiple of the tiles of 4 and 6 rows, the panels of 16 columns or the chunks of 128 tokens
SHAPES = {
    "bias": ("qwen2", {}),
    "head norms": ("qwen3", {}),
    "plain": ("llama", {}),
    "every head its own keys": ("qwen3", {"num_key_value_heads": 4}),
    "one group of seven": ("qwen2", {"num_attention_heads": 7, "num_key_value_heads": 1}),
    "odd sizes": ("qwen3", {"hidden_size": 50, "intermediate_size": 37, "vocab_size": 389}),
    "heads of 48": ("llama", {"head_dim": 48}),
    "heads of 128": ("qwen3", {"head_dim": 128, "num_hidden_layers": 1}),
    "deep products": ("llama", {"intermediate_size": 2100, "num_hidden_layers": 1}),
}


@pytest.fixture(params=[-1, 0], ids=["widest", "plain"])
def _instructions(request: pytest.FixtureRequest) -> Iterator[None]:
    library().reflective_set_level(request.param)
    yield
    library().reflective_set_level(-1)


def filled(backbone, lengths, rows=None):
    """Memory whose rows hold prompts of these lengths, by the backbone's own prefill."""
    kv = KVMemory(backbone.shape, rows or len(lengths), 256)
    vocabulary = backbone.reader.model.config.vocab_size
    generator = torch.Generator().manual_seed(3)
    out = []
    for row, length in enumerate(lengths):
        ids = torch.randint(0, vocabulary, (length,), generator=generator).tolist()
        out.append(backbone.prefill(ids, kv, row))
    return kv, out


def compiled(model, layer=-2):
    """The compiled step on this model."""
    found, remark = choose(model, layer)
    assert isinstance(found, NativeBackbone) and remark == ""
    return found


def fused(model, layer=-2):
    """The operators on this model."""
    found, remark = choose(model, layer, compiled=False)
    assert isinstance(found, FusedBackbone) and remark == ""
    return found


def pair(case):
    family, overrides = SHAPES[case]
    return compiled(tiny_model(family, **overrides)), fused(tiny_model(family, **overrides))


@pytest.mark.usefixtures("_instructions")
@pytest.mark.parametrize("case", SHAPES)
def test_prefill_and_decode_equal_the_operators(case):
    ours, theirs = pair(case)
    lengths = [1, 15, 16, 17, PREFILL_COLUMNS, PREFILL_COLUMNS + 1, 150]
    (kv, read), (other, expected) = filled(ours, lengths), filled(theirs, lengths)
    for (logits, feature), (right, right_feature) in zip(read, expected, strict=True):
        torch.testing.assert_close(logits, right, atol=1e-3, rtol=5e-4)
        torch.testing.assert_close(feature, right_feature, atol=5e-4, rtol=5e-4)
    torch.testing.assert_close(kv.data, other.data, atol=5e-4, rtol=5e-4)
    plan = DecodePlan(list(range(len(lengths))), lengths)
    logits, features = ours.decode(plan, kv)
    right, right_features = theirs.decode(plan, other)
    torch.testing.assert_close(logits, right, atol=1e-3, rtol=5e-4)
    torch.testing.assert_close(features, right_features, atol=5e-4, rtol=5e-4)
    torch.testing.assert_close(kv.data, other.data, atol=5e-4, rtol=5e-4)


@pytest.mark.parametrize("layer", [0, 1, 2, -1])
def test_the_feature_is_that_of_the_layer_asked_for(layer):
    ours, theirs = compiled(tiny_model("qwen3"), layer), fused(tiny_model("qwen3"), layer)
    lengths = [5, 90]
    (kv, read), (other, expected) = filled(ours, lengths), filled(theirs, lengths)
    for (_, feature), (_, right) in zip(read, expected, strict=True):
        torch.testing.assert_close(feature, right, atol=5e-4, rtol=5e-4)
    plan = DecodePlan([1, 2], lengths)
    torch.testing.assert_close(ours.decode(plan, kv)[1], theirs.decode(plan, other)[1], atol=5e-4, rtol=5e-4)


def test_a_row_is_the_same_to_the_bit_whatever_else_is_in_the_batch():
    writer = compiled(tiny_model("qwen3"))
    lengths = [7, 3, 20, 40, 9, 2, 33, 5, 5, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]
    kv, _ = filled(writer, lengths)
    tokens = [*range(len(lengths))]
    together, features = (t.clone() for t in writer.decode(DecodePlan(tokens, lengths), kv))
    alone, feature = writer.decode(DecodePlan(tokens[:1], lengths[:1]), kv)
    assert torch.equal(together[0], alone[0])
    assert torch.equal(features[0], feature[0])
    kv.move(18, 0, lengths[18] + 1)
    moved, _ = writer.decode(DecodePlan(tokens[18:], lengths[18:]), kv)
    assert torch.equal(together[18], moved[0])


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_the_number_of_threads_changes_no_bit(threads):
    def run():
        writer = compiled(tiny_model("qwen3", hidden_size=50))
        kv, read = filled(writer, [7, 70, 20])
        return torch.stack([logits for logits, _ in read]), writer.decode(DecodePlan([1, 2, 3], [7, 70, 20]), kv)[0]

    one = run()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        several = run()
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(one, several, strict=True))


def test_more_heads_than_there_are_pieces_for():
    def run():
        writer = compiled(tiny_model("llama", num_attention_heads=32, num_key_value_heads=32, num_hidden_layers=1))
        rows = 300  # · 32 heads is more than 4 · 2,048
        kv = KVMemory(writer.shape, rows, 16)
        return writer.decode(DecodePlan([i % 50 for i in range(rows)], [0] * rows), kv)[0]

    one = run()
    torch.set_num_threads(3)
    try:
        several = run()
    finally:
        torch.set_num_threads(1)
    assert torch.equal(one, several)


# ---- drawing

ROWS = 24
SETTINGS = {
    "temperature 1": [Sampling()] * ROWS,
    "greedy": [GREEDY] * ROWS,
    "each its own": [Sampling(temperature=(0.0, 0.5, 1.0, 1.7)[i % 4]) for i in range(ROWS)],
}


@pytest.mark.usefixtures("_instructions")
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_tokens_are_those_that_the_operators_draw(settings):
    writer = compiled(tiny_model("qwen3", vocab_size=389))
    kv, _ = filled(writer, [5] * ROWS)
    plan = DecodePlan([*range(ROWS)], [5] * ROWS)
    rows = SamplingRows.of(settings, 389, torch.device("cpu"))
    for seed in range(20):
        uniform = torch.rand((ROWS, kv.length), generator=torch.Generator().manual_seed(seed))
        logits = writer.decode(plan, kv)[0].clone()
        tokens, logprobs, features = writer.write(plan, kv, rows, uniform, None)
        expected, right = draw_tokens(logits, rows, uniform[:, 6])
        assert tokens == expected
        assert logprobs == pytest.approx(right, abs=1e-4)
        assert features.shape == (ROWS, 64)


@pytest.mark.parametrize("u", [0.0, 1 - 2**-24])
def test_the_ends_of_the_unit_interval_draw_possible_tokens(u):
    model = tiny_model("qwen3")
    writer = compiled(model)
    kv, _ = filled(writer, [5])
    with torch.no_grad():
        logits = writer.decode(DecodePlan([1], [5]), kv)[0]
        # all but two tokens are far below what float32 can tell from 0
        keep = logits[0].topk(2).indices.tolist()
        model.get_output_embeddings().weight.mul_(1e4)
    rows = SamplingRows.of([Sampling()], model.config.vocab_size, torch.device("cpu"))
    tokens, logprobs, _ = writer.write(DecodePlan([1], [5]), kv, rows, torch.full((1, kv.length), u), None)
    assert tokens[0] in keep and math.isfinite(logprobs[0])


def test_filters_and_penalties_go_through_the_operators_and_are_the_same():
    ours, theirs = make_engine("qwen3"), make_engine("qwen3", compiled=False)
    assert isinstance(ours._backbone, NativeBackbone) and not isinstance(theirs._backbone, NativeBackbone)
    settings = [Sampling(top_p=0.8), Sampling(top_k=5), Sampling(repetition_penalty=1.3), Sampling(min_p=0.1)]
    requests = [Request(PROMPT, s, seed=i, max_tokens=20, until="eos") for i, s in enumerate(settings)]
    for a, b in zip(write(ours, requests), write(theirs, requests), strict=True):
        assert a.token_ids == b.token_ids
        assert a.token_logprobs == pytest.approx(b.token_logprobs, abs=1e-4)


@pytest.mark.parametrize("sampling", [Sampling(), GREEDY], ids=["sampled", "greedy"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_logits_that_are_no_numbers_are_one_line_and_nothing_is_lost(sampling, value):
    engine = make_engine("qwen3")
    engine.submit(Request(PROMPT, sampling, max_tokens=10, until="eos"))
    engine.step()
    with torch.no_grad():
        weight = engine.model.get_decoder().norm.weight
        kept = weight.clone()
        weight.fill_(value)
    for _ in range(2):
        with pytest.raises(EngineError, match="NaN or infinite"):
            engine.step()
    with torch.no_grad():
        weight.copy_(kept)
    expected = write(make_engine("qwen3"), [Request(PROMPT, sampling, max_tokens=10, until="eos")])
    done = [event.trajectory for event in iter_events(engine) if hasattr(event, "trajectory")]
    assert done[0].token_ids == expected[0].token_ids


def iter_events(engine):
    while engine.busy:
        yield from engine.step()


# ---- where it runs


def test_the_head_is_computed_as_the_module_computes_it():
    engine = make_engine("qwen3")
    features = torch.randn(5, 64)
    rows = [4, 0, 2]
    with torch.no_grad():
        right = engine.head.mlp(features[rows]).tolist()
    assert engine._backbone.score(engine.head, features, rows) == pytest.approx(right, abs=1e-5)


def test_one_feature_for_several_rows_scores_all_of_them():
    engine = make_engine("qwen3")
    one = torch.randn(1, 64)
    with torch.no_grad():
        right = engine.head.mlp(one).item()
    shared = one.expand(3, -1)  # a prompt's, whose rows all drew a step token at once
    assert engine._backbone.score(engine.head, shared, [0, 1, 2]) == pytest.approx([right] * 3, abs=1e-5)


def test_greedy_and_scores_at_the_end_of_the_memory():
    engine = make_engine("qwen3", config={"max_position_embeddings": 64})
    (prompt,) = prompts(40)
    (trajectory,) = write(engine, [Request(prompt, GREEDY, max_tokens=1000, until="eos")])
    model = reference("qwen3", {"max_position_embeddings": 64})
    assert trajectory.finish_reason in ("length", "eos") and trajectory.tokens <= 24
    assert trajectory.token_ids == hf_greedy(model, prompt, trajectory.tokens)


@pytest.mark.parametrize(
    ("family", "overrides"),
    [("gemma", {}), ("phi3", {}), ("llama", {"head_dim": 24}), ("mistral", {"sliding_window": 8})],
)
def test_other_shapes_go_through_the_operators_and_the_reason_is_said(family, overrides):
    found, remark = choose(tiny_model(family, **overrides))
    assert not isinstance(found, NativeBackbone)
    assert "slower" in remark and "\n" not in remark


def test_bfloat16_goes_through_the_operators():
    found, remark = choose(tiny_model("qwen3").to(torch.bfloat16))
    assert type(found) is FusedBackbone and "float32" in remark


def test_projections_that_adapters_wrap_are_named_with_what_helps():
    class Adapter(torch.nn.Module):
        def __init__(self, base_layer):
            super().__init__()
            self.base_layer = base_layer

        def forward(self, x):
            return self.base_layer(x)

    model = tiny_model("qwen3")
    attention = model.get_decoder().layers[1].self_attn
    attention.q_proj = Adapter(attention.q_proj)
    found, remark = choose(model)
    assert type(found) is HFBackbone and "merge_and_unload" in remark
    engine = TorchEngine(model, tiny_tokenizer(), judge_of(make_head(tiny_model("qwen3"))))
    assert engine.remark == remark
    for ours, theirs in zip(write(engine, SAMPLED), write(make_engine("qwen3"), SAMPLED), strict=True):
        assert ours.token_ids == theirs.token_ids


def test_without_the_library_everything_works_as_before(monkeypatch):
    expected = write(make_engine("qwen3"), SAMPLED)
    monkeypatch.setattr(backbone, "library", lambda: None)
    engine = make_engine("qwen3")
    assert type(engine._backbone) is FusedBackbone and "C compiler" in engine.remark
    for ours, theirs in zip(write(engine, SAMPLED), expected, strict=True):
        assert ours.token_ids == theirs.token_ids
        assert [s.logit for s in ours.steps] == pytest.approx([s.logit for s in theirs.steps], abs=1e-4)


@pytest.fixture
def _loaded_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The library is looked for again, in the test and after it."""
    library.cache_clear()
    yield
    monkeypatch.undo()
    library.cache_clear()
    assert library() is not None


@pytest.mark.usefixtures("_loaded_anew")
@pytest.mark.parametrize("other", [[*binding.LAYOUT[:-1], binding.LAYOUT[-1] + 8], binding.LAYOUT[:-1]])
def test_a_library_from_other_sources_is_not_used(monkeypatch, other):
    monkeypatch.setattr(binding, "LAYOUT", other)
    assert library() is None


@pytest.mark.usefixtures("_loaded_anew")
@pytest.mark.parametrize("error", [OSError("no such symbol"), AttributeError("reflective_layout")])
def test_a_library_that_does_not_load_is_not_used(monkeypatch, error):
    def fail(_: str) -> ctypes.CDLL:
        raise error

    monkeypatch.setattr(binding.ctypes, "CDLL", fail)
    assert library() is None


def test_the_generic_way_can_be_asked_for():
    assert type(make_engine("qwen3", fuse=False)._backbone) is HFBackbone


def test_the_memory_of_keys_and_values_is_let_go():
    writer = compiled(tiny_model("qwen3"))
    kv, _ = filled(writer, [5])
    held = weakref.ref(kv)
    del kv
    gc.collect()
    assert held() is None
    again, _ = filled(writer, [7])  # and other memory at the same place is not taken for it
    assert writer.decode(DecodePlan([1], [7]), again)[0].isfinite().all()


def test_keys_that_rows_have_in_common_are_read_once_and_change_no_bit():
    writer = compiled(tiny_model("qwen3"))
    kv, _ = filled(writer, [37])
    wide = KVMemory(writer.shape, 20, 256)
    for row in range(20):
        wide.restore(kv.park(0, 37), row)
    tokens, positions = [*range(20)], [37] * 20
    alone, features = (t.clone() for t in writer.decode(DecodePlan(tokens, positions), wide))
    wide.data[:, :, 1:, :, :32] = torch.nan  # read in row 0 alone: whole groups of 16 positions
    shared, shared_features = writer.decode(DecodePlan(tokens, positions, [(0, 37)] * 20), wide)
    assert torch.equal(alone, shared)
    assert torch.equal(features, shared_features)


def test_the_engine_says_which_rows_begin_alike():
    engine = make_engine("qwen3")
    plans = count_calls(engine._backbone, "write")
    (other,) = prompts(4)
    write(engine, [Request(p, seed=i, max_tokens=3, until="eos") for i, p in enumerate([PROMPT, other, PROMPT])])
    assert [plan.common for plan, *_ in plans[:1]] == [[(0, 9), (0, 9), (2, 4)]]  # those of one prompt enter together
    write(engine, [Request(p, seed=i, max_tokens=3, until="eos") for i, p in enumerate([PROMPT, other])])
    assert not plans[-1][0].common
