"""Every family writes what Hugging Face writes and scores as a separate full forward does, in float32."""

import pytest
import torch

from engines.torch.runs import (
    GREEDY,
    hf_greedy,
    hf_step_scores,
    judge_of,
    make_engine,
    make_head,
    prompts,
    reference,
    write,
)
from reflective.engines.base import Request, Sampling
from reflective.engines.torch import TorchEngine
from reflective.engines.torch.backbones.hf import HFBackbone
from reflective.judge.format import step_positions
from tiny import FAMILIES, tiny_model, tiny_tokenizer

TOKENS = 12
MIXED = (3, 17, 9, 5)  # prompt lengths in one batch; some are beyond the sliding windows of 8

# what each case overrides in the tiny model's config
CASES = {
    "qwen2": ("qwen2", {}),
    "qwen2 tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2 one kv head": ("qwen2", {"num_key_value_heads": 1}),
    "qwen3": ("qwen3", {}),
    "qwen3, experts": ("qwen3_moe", {}),
    "llama": ("llama", {}),
    "llama, llama3 rope": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 1e4,
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    "mistral": ("mistral", {}),
    "mistral, window": ("mistral", {"sliding_window": 8}),
    "gemma": ("gemma", {}),
    "gemma2": ("gemma2", {}),
    "gemma3": ("gemma3_text", {}),
    "gemma3, both kinds of layer": (
        "gemma3_text",
        {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
    "phi": ("phi", {}),
    "phi3": ("phi3", {}),
    "phi3, window": ("phi3", {"sliding_window": 8}),
}
FUSED = ("qwen2", "qwen2 tied", "qwen2 one kv head", "qwen3", "llama", "llama, llama3 rope", "mistral")


def check_scores(engine, model, prompt, trajectory, layer=-2, tolerance=1e-5):
    """Scores equal a full forward's; tells how many there are."""
    scores = hf_step_scores(model, engine.head, prompt, trajectory, layer)
    assert [s.score for s in trajectory.steps] == pytest.approx(scores, abs=tolerance)
    assert all(0.001 < score < 0.999 for score in scores), "all but certain: too insensitive to compare"
    return len(scores)


def check_greedy(engine, model):
    """Greedy tokens equal Hugging Face's and scores equal a full forward's, for a batch of mixed prompts."""
    batch = prompts(*MIXED)
    requests = [Request(p, GREEDY, max_tokens=TOKENS, until="eos") for p in batch]
    steps = 0
    for prompt, trajectory in zip(batch, write(engine, requests), strict=True):
        assert trajectory.token_ids == hf_greedy(model, prompt, TOKENS)
        assert [s.position for s in trajectory.steps] == step_positions(
            engine.judge.format, trajectory.token_ids, prompt
        )
        steps += check_scores(engine, model, prompt, trajectory)
    assert steps, "no step, nothing to tell"


@pytest.mark.parametrize("case", CASES)
def test_greedy_tokens_and_step_scores_equal_hugging_face(case):
    family, config = CASES[case]
    # four requests on two rows: rows are taken over by waiting requests and moved
    engine = make_engine(family, config=config, max_rows=2)
    assert isinstance(engine._backbone, HFBackbone) != (case in FUSED)
    check_greedy(engine, reference(family, config))


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_the_generic_backbone_writes_what_the_fused_one_writes(family):
    engine = make_engine(family, fuse=False, max_rows=3)
    assert isinstance(engine._backbone, HFBackbone)
    check_greedy(engine, reference(family))


SAMPLED = [Request(p, seed=i, max_tokens=14, until="eos") for i, p in enumerate(prompts(3, 9))]


@pytest.mark.parametrize("layer", [-1, -3, 0, 1])
@pytest.mark.parametrize(("family", "fuse"), [("qwen2", True), ("qwen2", False), ("gemma3_text", False)])
def test_the_head_reads_the_layer_that_it_is_told(family, fuse, layer):
    engine = make_engine(family, layer=layer, fuse=fuse)
    done = write(engine, SAMPLED)
    pairs = [*zip(SAMPLED, done, strict=True)]
    assert sum(check_scores(engine, reference(family), r.prompt_ids, t, layer) for r, t in pairs) >= 3


@pytest.mark.parametrize("family", ["qwen2", "gemma2"])
def test_a_model_in_bfloat16_scores_as_its_full_forward_does(family):
    model, plain = tiny_model(family).bfloat16(), tiny_model(family).bfloat16()
    plain.set_attn_implementation("eager")
    engine = TorchEngine(model, tiny_tokenizer(), judge_of(make_head(plain)))
    pairs = [*zip(SAMPLED, write(engine, SAMPLED), strict=True)]
    assert sum(check_scores(engine, plain, r.prompt_ids, t, tolerance=0.1) for r, t in pairs) >= 3


@pytest.mark.parametrize("case", ["qwen2", "mistral, window", "gemma2", "phi"])
def test_the_model_works_as_before_outside_the_engine(case):
    family, config = CASES[case]
    engine, plain = make_engine(family, config=config), reference(family, config)
    long, short = prompts(14, 9)
    ids = torch.tensor([long])
    padded, mask = torch.tensor([long, (0,) * 5 + short]), torch.ones(2, 14, dtype=torch.long)
    mask[1, :5] = 0
    with torch.inference_mode():
        assert torch.allclose(engine.model(ids).logits, plain(ids).logits, atol=1e-4)
        ours, theirs = (m(padded, attention_mask=mask).logits for m in (engine.model, plain))
        assert torch.allclose(ours[0], theirs[0], atol=1e-4)
        assert torch.allclose(ours[1, 5:], theirs[1, 5:], atol=1e-4)
    assert hf_greedy(engine.model, short, 6) == hf_greedy(plain, short, 6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", ["qwen2", "gemma2"])
def test_a_gpu_writes_what_the_cpu_writes(family):
    requests = [Request(p, GREEDY, max_tokens=12) for p in prompts(3, 17, 9)]
    requests += [Request(p, Sampling(top_p=0.9, repetition_penalty=1.2), seed=3, max_tokens=12) for p in prompts(6, 6)]
    here = write(make_engine(family), requests)
    model = tiny_model(family).cuda()
    there = write(TorchEngine(model, tiny_tokenizer(), judge_of(make_head(tiny_model(family)).cuda())), requests)
    assert [t.token_ids for t in here] == [t.token_ids for t in there]
    for a, b in zip(here, there, strict=True):
        assert [s.score for s in a.steps] == pytest.approx([s.score for s in b.steps], abs=1e-3)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_known_family_has_a_case(family):
    assert family in {name for name, _ in CASES.values()}
