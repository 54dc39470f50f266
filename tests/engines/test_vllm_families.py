"""Tiny random models of several families in vLLM, an instance each, and the ways in which vLLM may run them."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from engines.serving import serving_folder, write
from engines.torch.runs import hf_greedy
from engines.vllm_runs import (
    NEEDS_VLLM,
    assert_same,
    embedded,
    features_of,
    greedy_requests,
    raw,
    sampling,
    serving,
    step_logits,
)
from reflective.engines.base import Request, Sampling
from reflective.engines.vllm.engine import VLLMEngine
from reflective.engines.vllm.slots import LOGIT_LIMIT
from reflective.errors import CheckpointError, EngineError
from tiny import VOCABULARY

pytestmark = [pytest.mark.slow, NEEDS_VLLM]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root, made = tmp_path_factory.mktemp("families"), {}

    def make(family="qwen2", **settings):
        key = f"{family}-{'-'.join(f'{k}={v}' for k, v in settings.items())}"
        if key not in made:
            made[key] = serving_folder(root / str(len(made)), family, **settings)
        return made[key]

    return make


def check(path, count=5, **options):
    with serving(path, **options) as engine:
        requests = greedy_requests(engine, count)
        assert_same(write(engine, requests), write(embedded(path), requests))


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("qwen2", {}),
        pytest.param("qwen3", {"logprobs_mode": "raw_logprobs"}, marks=pytest.mark.long),
        pytest.param("llama", {}, marks=pytest.mark.long),
        # every prompt is cut: 16 positions a step, for all rows together
        pytest.param(
            "mistral",
            {"enable_chunked_prefill": True, "max_num_batched_tokens": 16, "max_rows": 4},
            marks=pytest.mark.long,
        ),
        pytest.param("phi3", {}, marks=pytest.mark.long),
    ],
)
def test_tokens_and_scores_of_a_family_are_those_of_the_embedded_engine(folder, family, options):
    check(folder(family), **options)


@pytest.mark.long
@pytest.mark.parametrize("layer", [1, -1])
def test_the_layer_that_the_head_names_is_read(folder, layer):
    check(folder("qwen2", layer=layer), 3)


@pytest.mark.long
def test_without_a_prefix_cache_and_with_a_tiny_memory_that_preempts(folder):
    """Eight rows of up to 128 positions in room for 256: most are thrown out at some time and start again."""
    path = folder("llama")
    with serving(path, enable_prefix_caching=False, num_gpu_blocks_override=9, max_model_len=256) as engine:
        thrown_out = watch(engine, "_preempt_request")
        requests = greedy_requests(engine, 8, tokens=60)
        assert_same(write(engine, requests), write(embedded(path), requests))
        assert len(thrown_out) >= 3


def watch(engine, name):
    """The calls of a method of vLLM's scheduler, which runs in this process."""
    scheduler, calls = engine._engine.engine_core.engine_core.scheduler, []
    original = getattr(scheduler, name)

    def method(*args, **kwargs):
        calls.append(args)
        return original(*args, **kwargs)

    setattr(scheduler, name, method)
    return calls


@pytest.mark.long
def test_experts_are_scored_as_hugging_face_scores_them(folder):
    path = folder("qwen3_moe")
    with serving(path) as engine:
        assert engine.verified
        for request in greedy_requests(engine, 3):
            (got,) = write(engine, [request])
            assert got.token_ids == hf_greedy(model_at(path), request.prompt_ids, got.tokens)
            assert len(got.steps) >= 3
            want = features_of(path, request.prompt_ids, got.token_ids)
            assert [s.logit for s in got.steps] == pytest.approx(want, abs=2e-3)


@pytest.mark.long
def test_a_million_tokens_at_temperature_two_hold_no_slot(tmp_path):
    """Other unused ids of this model have the logit 0 and are drawn; many scores are the highest that is written."""
    path = serving_folder(tmp_path / "tiny")
    head = load_file(path / "sprm" / "head.safetensors")
    save_file({**head, "output.bias": head["output.bias"] + LOGIT_LIMIT - 2}, str(path / "sprm" / "head.safetensors"))
    rows, counts = 512, torch.zeros(VOCABULARY, dtype=torch.long)
    with serving(path, max_rows=rows, max_model_len=256, enable_prefix_caching=False) as engine:
        slots = list(engine.slots.ids)
        free = sorted(set(range(len(engine.tokenizer), VOCABULARY)) - set(slots))
        warm = {"temperature": 2.0, "max_tokens": 250, "ignore_eos": True, "detokenize": False}
        plain, scored = sampling(**warm), sampling(**warm, logprob_token_ids=slots)
        while counts.sum() < 1_000_000:
            for (output,) in raw(engine, [[5, 6, 7]] * rows, [plain] * (rows - 8) + [scored] * 8):
                counts += torch.bincount(torch.tensor(output.token_ids), minlength=VOCABULARY)
    assert not counts[slots].any()
    assert len(free) > 10 and counts[free].min() > 100


@pytest.mark.long
def test_in_bfloat16_scores_differ_by_its_noise(folder):
    path = folder("qwen3")
    with serving(path, dtype="bfloat16") as engine:
        (request,) = greedy_requests(engine, 1)
        (got,) = write(engine, [request])
        want = features_of(path, request.prompt_ids, got.token_ids)
        assert len(want) >= 3
        assert [s.logit for s in got.steps] == pytest.approx(want, abs=0.3)


@pytest.mark.long
def test_compiled_models_score_as_eager_ones(folder):
    check(folder("qwen2"), enforce_eager=False)


@pytest.mark.long
def test_adapters_are_scored_with_what_they_change(folder, tmp_path):
    """A LoRA adapter on q_proj against the embedded engine with the adapter added to the weights."""
    path = folder("qwen2")
    base = load_file(path / "model.safetensors")
    layers = sorted(name for name in base if name.endswith("self_attn.q_proj.weight"))
    generator = torch.Generator().manual_seed(0)
    adapter, merged = {}, dict(base)
    for name in layers:
        out, width = base[name].shape
        a, b = torch.randn(4, width, generator=generator) * 0.2, torch.randn(out, 4, generator=generator) * 0.2
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        adapter |= {f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b}
        merged[name] = base[name] + 2.0 * b @ a  # alpha / r = 2
    lora = tmp_path / "adapter"
    lora.mkdir()
    save_file(adapter, str(lora / "adapter_model.safetensors"))
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "bias": "none"}
    (lora / "adapter_config.json").write_text(json.dumps({**config, "task_type": "CAUSAL_LM"}))
    whole = tmp_path / "merged"
    whole.mkdir()
    for part in path.rglob("*"):
        if part.is_file():
            (whole / part.relative_to(path)).parent.mkdir(parents=True, exist_ok=True)
            (whole / part.relative_to(path)).write_bytes(part.read_bytes())
    save_file(merged, str(whole / "model.safetensors"), metadata={"format": "pt"})
    with serving(path, enable_lora=True, max_lora_rank=8) as engine:
        (request,) = greedy_requests(engine, 1)
        ids = list(engine.slots.ids)
        params = sampling(temperature=0.0, max_tokens=40, logprob_token_ids=ids)
        from vllm.lora.request import LoRARequest

        ((plain,),) = raw(engine, [request.prompt_ids], [params])
        ((adapted,),) = raw(engine, [request.prompt_ids], [params], lora_request=LoRARequest("a", 1, str(lora)))
        assert tuple(plain.token_ids) != tuple(adapted.token_ids)
        want = features_of(whole, request.prompt_ids, adapted.token_ids)
        assert len(want) >= 3
        assert step_logits(engine, list(request.prompt_ids), adapted) == pytest.approx(want, abs=2e-3)


@pytest.mark.long
def test_a_class_that_hands_out_no_hidden_state_is_refused_with_what_to_do(folder):
    with pytest.raises(EngineError, match="--model-impl transformers"), serving(folder("gemma")):
        pass


def test_a_head_that_does_not_fit_is_refused_before_anything_is_loaded(folder, tmp_path):
    path = serving_folder(tmp_path / "broken")
    config = json.loads((path / "sprm" / "config.json").read_text())
    (path / "sprm" / "config.json").write_text(json.dumps({**config, "hidden_size": 32}))
    with pytest.raises(CheckpointError, match="width 32, this model's are 64"):
        VLLMEngine.from_source(path)


@pytest.mark.long
def test_a_checkpoint_without_a_head_is_an_ordinary_model(tmp_path):
    path = serving_folder(tmp_path / "plain")
    for part in (path / "sprm").iterdir():
        part.unlink()
    (path / "sprm").rmdir()
    with serving(path, require_head=False) as engine:
        assert not engine.scored and type(model_of(engine)).__name__.startswith("Reflective")
        (request,) = [Request((5, 6, 7), Sampling(temperature=0.0), max_tokens=12, until="eos")]
        (got,) = write(engine, [request])
        assert got.score is None and got.steps == () and got.token_logprobs is not None
        assert got.token_ids == hf_greedy(model_at(path), request.prompt_ids, 12)


def model_of(engine):
    return engine._engine.apply_model(lambda model: model)[0]


def model_at(path):
    from reflective.models import load_checkpoint

    return load_checkpoint(path, require_head=False, dtype="float32", device="cpu").model
