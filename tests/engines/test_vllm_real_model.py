"""vLLM with a real model that reasons in its whole response: its step scores are the embedded engine's, up to bfloat16.

It runs where REFLECTIVE_REAL_MODEL names the folder of such a model, without a head; the head here is a random one.
"""

import os

import pytest
import torch

from engines.serving import write
from engines.vllm_runs import NEEDS_VLLM, serving
from reflective.engines.base import Request, Sampling
from reflective.engines.torch import TorchEngine
from reflective.judge.judge import init_judge
from reflective.models import load_checkpoint, save_judge

MODEL = os.environ.get("REFLECTIVE_REAL_MODEL", "")
QUESTIONS = (
    "Natalia sold 48 clips in April and half as many in May. How many did she sell altogether? Reason step by step.",
    "A train covers 180 km in 2 hours. How far does it go in 5 hours? Reason step by step.",
)

pytestmark = [
    pytest.mark.long,
    NEEDS_VLLM,
    pytest.mark.skipif(not MODEL, reason="REFLECTIVE_REAL_MODEL names no folder of a pretrained model"),
]


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A random head at two thirds of the depth, its scores spread over 0..1."""
    plain = load_checkpoint(MODEL, dtype="float32", device="cpu", head="none", require_head=False)
    layer = plain.model.config.get_text_config().num_hidden_layers * 2 // 3
    judge = init_judge(plain.model, plain.tokenizer, format=plain.judge.format, layer=layer)
    ids = torch.tensor([plain.tokenizer.encode(" ".join(QUESTIONS))])
    with torch.no_grad():
        hidden = plain.model(ids, output_hidden_states=True).hidden_states[layer][0].float()
        logits = judge.head.mlp(hidden)
        judge.head.output.weight.mul_(1.5 / logits.std())
        judge.head.output.bias.sub_(judge.head.mlp(hidden).mean())
    folder = tmp_path_factory.mktemp("head") / "head"
    save_judge(folder, judge)
    return folder


def test_step_scores_of_a_whole_response_are_the_embedded_engines_within_bfloat16_noise(head):
    with serving(MODEL, head=str(head), dtype="bfloat16", max_model_len=512) as engine:
        assert engine.scored and engine.judge.format.is_whole
        prompts = [engine.encode_prompt(question) for question in QUESTIONS]
        written = write(engine, [Request(p, Sampling(temperature=0.7), seed=5, max_tokens=160) for p in prompts])
    assert sum(len(t.steps) for t in written) >= 4
    logits = {"vllm": torch.tensor([step.logit for t in written for step in t.steps])}
    for dtype in ("float32", "bfloat16"):
        own = TorchEngine.from_checkpoint(load_checkpoint(MODEL, dtype=dtype, device="cpu", head=str(head)))
        scored = [own.score(p, t.token_ids) for p, t in zip(prompts, written, strict=True)]
        for t, steps in zip(written, scored, strict=True):
            assert [step.position for step in steps] == [step.position for step in t.steps]
        logits[dtype] = torch.tensor([step.logit for steps in scored for step in steps])
    noise = (logits["bfloat16"] - logits["float32"]).abs()
    found = (logits["vllm"] - logits["float32"]).abs()
    told = f"bfloat16 is off by {noise.mean():.4f} (at most {noise.max():.4f}), vLLM by {found.mean():.4f}"
    assert found.mean() < 2 * noise.mean() + 1e-3 and found.max() < 4 * noise.max() + 1e-2, told
    assert logits["float32"].std() > 10 * found.mean(), told
    print(told)
