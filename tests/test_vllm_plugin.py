"""The head inside a model class, without vLLM: what is carried, written and loaded, and what is left alone."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from reflective.engines.vllm import plugin as vllm_plugin
from reflective.engines.vllm.plan import Plan
from reflective.engines.vllm.plugin import _at_once, _remembered, reflective_class
from reflective.engines.vllm.slots import OFFSET, Slots, read_logit, read_logprob
from reflective.errors import EngineError
from reflective.judge.config import JudgeConfig
from reflective.judge.format import whole_response
from reflective.judge.heads.paper import SPRMHead
from reflective.judge.judge import Judge

H, V = 4, 12
SLOTS = Slots(11, 10, 9)


class Stock(nn.Module):
    """A model as vLLM's are shaped: hidden states and the asked-for layer's input out of `forward`."""

    def __init__(self, *, vllm_config, prefix=""):
        super().__init__()
        self.model = SimpleNamespace(_aux_slot_base_cached=0)
        self.lm_head = nn.Linear(H, V, bias=False)
        self.layers = ()

    def set_aux_hidden_state_layers(self, layers):
        self.layers = layers

    def forward(self, input_ids, positions, intermediate_tensors=None, inputs_embeds=None):
        hidden = positions.unsqueeze(-1) * torch.ones(H)
        return (hidden, [hidden + 100.0]) if self.layers else hidden

    def compute_logits(self, hidden):
        return self.lm_head(hidden)

    def load_weights(self, weights):
        return {name for name, _ in weights}


def config(**extra):
    stages = extra.pop("stages", 1)
    return SimpleNamespace(
        additional_config={}, parallel_config=SimpleNamespace(pipeline_parallel_size=stages), **extra
    )


def plan(*, layer=1, normalise=False, logprob_features=False):
    torch.manual_seed(0)
    head = SPRMHead(H, logprob_features=logprob_features).eval()
    judge = Judge(JudgeConfig(H, whole_response([1], [2]), logprob_features=logprob_features), head)
    return Plan(Path("."), SLOTS, layer, judge, normalise)


@pytest.fixture
def build(monkeypatch):
    def make(made, vllm_config=None):
        monkeypatch.setattr(vllm_plugin, "make_plan", lambda *_: made)
        model = reflective_class(Stock)(vllm_config=vllm_config or config()).eval()
        model.load_weights([])
        return model

    return make


def run(model, positions=3):
    return model(None, torch.arange(float(positions)))


def test_a_model_without_a_head_is_left_alone(build):
    model = build(None)
    states = run(model)
    assert states.shape == (3, H) and model.layers == () and not hasattr(model, "sprm")
    assert torch.equal(model.compute_logits(states), model.lm_head(states))
    assert model.load_weights([("x", torch.zeros(1))]) == {"x"}


def test_an_inner_model_of_a_larger_one_is_left_alone(monkeypatch):
    monkeypatch.setattr(vllm_plugin, "make_plan", lambda *_: plan())
    assert reflective_class(Stock)(vllm_config=config(), prefix="language_model")._reflective is None


def test_the_feature_of_the_heads_layer_travels_beside_the_hidden_state(build):
    model = build(plan(layer=1))
    states = run(model)
    assert model.layers == (1,)
    assert torch.equal(states[:, H:], states[:, :H] + 100.0)


def test_a_head_on_the_final_norm_reads_the_hidden_state_itself(build):
    states = run(build(plan(layer=None)))
    assert torch.equal(states[:, H:], states[:, :H])


def test_what_is_no_hidden_state_passes_through(build, monkeypatch):
    model = build(plan())
    parcel = SimpleNamespace()
    monkeypatch.setattr(Stock, "forward", lambda self, *_, **__: parcel)
    assert run(model) is parcel


@torch.inference_mode()
def test_the_slots_hold_the_heads_logit_and_all_else_is_as_before(build):
    model = build(plan())
    states = run(model)
    logits = model.compute_logits(states)
    s = model.sprm(states[:, H:])
    assert torch.allclose(logits[:, SLOTS.score] - logits[:, SLOTS.reference], s, atol=1e-4)
    assert torch.equal(logits[:, SLOTS.reference], torch.full((3,), OFFSET))
    assert torch.equal(logits[:, :9], model.lm_head(states[:, :H])[:, :9])
    for row, want in zip(logits.log_softmax(-1), s, strict=True):
        assert read_logit(float(row[11]), float(row[10])) == pytest.approx(float(want), abs=1e-4)


@torch.inference_mode()
def test_scores_survive_a_model_in_bfloat16(build):
    model = build(plan())
    model.lm_head.bfloat16()
    states = run(model).bfloat16()
    logits = model.compute_logits(states)
    assert logits.dtype == torch.float32
    s = model.sprm(states[:, H:])
    assert torch.allclose(logits[:, SLOTS.score] - logits[:, SLOTS.reference], s, atol=1e-4)


@torch.inference_mode()
def test_the_normaliser_gives_log_probabilities_where_only_logits_come(build):
    model = build(plan(normalise=True, logprob_features=True))
    logits = model.compute_logits(run(model))
    want = logits.log_softmax(-1)
    for row in range(3):
        got = read_logprob(float(logits[row, 2]), float(logits[row, 10]), float(logits[row, 9]))
        assert got == pytest.approx(float(want[row, 2]), abs=1e-4)


@torch.inference_mode()
def test_no_score_comes_near_a_real_logit(build):
    model = build(plan())
    model.sprm.output.bias.fill_(1e9)
    logits = model.compute_logits(run(model))
    assert logits[:, SLOTS.score].max() < OFFSET / 2
    assert (logits / 2.0).softmax(-1)[:, list(SLOTS.ids)].max() < 1e-25  # at the highest temperature


def test_ranks_that_have_no_logits_write_nothing(build, monkeypatch):
    model = build(plan())
    monkeypatch.setattr(Stock, "compute_logits", lambda self, hidden: None)
    assert model.compute_logits(run(model)) is None


def test_the_heads_weights_come_from_the_checkpoint_and_are_told_as_loaded(build):
    made = plan()
    model = build(made)
    assert torch.equal(model.sprm.output.weight, made.judge.head.output.weight)
    assert model.sprm.output.weight.dtype == torch.float32
    assert {"x", "sprm.hidden.weight", "sprm.output.bias"} <= model.load_weights([("x", torch.zeros(1))])


def test_weights_that_a_trainer_sends_reach_the_head_and_stay(build):
    model = build(plan())
    sent = {f"sprm.{name}": torch.zeros_like(t) for name, t in model.sprm.state_dict().items()}
    assert "x" in model.load_weights([*sent.items(), ("x", torch.zeros(1))])
    assert not model.sprm.output.weight.any()
    model.load_weights([("x", torch.zeros(1))])
    assert not model.sprm.output.weight.any()


def test_the_cache_of_compiled_models_can_tell_them_apart(build):
    marked = config()
    build(plan(), marked)
    assert marked.additional_config == {"reflective": {"layer": 1}}


def test_pipeline_stages_need_a_backbone_that_sends_the_feature_on(build):
    with pytest.raises(EngineError, match="--tensor-parallel-size"):
        build(plan(), config(stages=2))


def test_a_backbone_that_gives_no_feature_is_an_error(build, monkeypatch):
    model = build(plan())
    monkeypatch.setattr(Stock, "forward", lambda self, *_, **__: torch.zeros(3, H))
    with pytest.raises(EngineError, match="did not hand out the hidden state"):
        run(model)


def test_a_class_without_logits_is_not_touched():
    assert reflective_class(nn.Linear) is nn.Linear


def test_a_class_is_made_once():
    assert reflective_class(Stock) is reflective_class(Stock)
    assert issubclass(reflective_class(Stock), Stock)


# ---- what vLLM does for the slots of every token


def test_a_token_is_turned_into_text_once():
    decoded, tokenizer = [], object()

    def own(tokenizer, token_ids):
        decoded.extend(token_ids)
        return [f"<{token}>" for token in token_ids]

    convert = _remembered(own)
    assert [convert(tokenizer, ids) for ids in ([1, 2, 1], [2], [])] == [["<1>", "<2>", "<1>"], ["<2>"], []]
    assert decoded == [1, 2]
    assert convert(object(), [1]) == ["<1>"] and decoded == [1, 2, 1]  # another tokenizer has other texts
    assert _remembered(convert) is convert


def test_only_rows_that_all_ask_for_the_same_are_read_at_once():
    asked, tensors = [], lambda *parts: parts
    sampler = SimpleNamespace(LogprobsTensors=tensors, batched_count_greater_than=None)
    gather = _at_once(lambda self, *given: asked.append(given[1]), sampler)
    values = torch.tensor([[0.5, 3.0, 1.0, 2.0], [4.0, 1.0, 3.0, 2.0]])
    ids, got, ranks = gather(None, values, {0: [3, 0], 1: [3, 0]}, torch.tensor([2, 0]))
    assert ids.tolist() == [[2, 3, 0], [0, 3, 0]] and got.tolist() == [[1.0, 2.0, 0.5], [4.0, 2.0, 4.0]]
    assert ranks.tolist() == [3, 1] and asked == []
    for other in ({0: [3, 0]}, {0: [3, 0], 1: [0, 3]}):  # a row asks for nothing, or for something else
        assert gather(None, values, other, torch.tensor([2, 0])) is None and asked[-1] == other
