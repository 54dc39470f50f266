"""The embedded engine writes with the weights that are being trained, as they are now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("trl")

from torch.nn.functional import log_softmax

from reflective.engines.torch.backbones.hf import HFBackbone
from reflective.errors import EngineError
from reflective.train.joint.rollouts import LOGPROBS, SCORE
from reflective.train.joint.run import JointRun, prepare
from train.joint.fakes import tiny_joint

pytestmark = pytest.mark.slow


def made(tmp_path: Path, **changes: Any) -> JointRun:
    return prepare(tiny_joint(tmp_path, **changes), note=lambda _: None)


def rescored(run: JointRun, prompt: list[int], completion: list[int]) -> torch.Tensor:
    """Log-probabilities of a completion by the model's own forward."""
    model = run.trainer.model.eval()
    ids = torch.tensor([prompt + completion])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
    return log_softmax(logits.float(), -1).gather(1, torch.tensor(completion).unsqueeze(1)).squeeze(1)


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "gemma"])
def test_rollouts_follow_the_optimizer(tmp_path: Path, family: str) -> None:
    run = made(tmp_path, family=family, policy={"lr": 0.02}, steps=2)
    before = {n: p.clone() for n, p in run.trainer.model.named_parameters()}
    run.trainer.train()
    moved = {n for n, p in run.trainer.model.named_parameters() if (p - before[n]).abs().max() > 1e-3}
    assert len(moved) > 0.9 * len(before)
    out = run.trainer.rollout_func(["What is 1 + 1?"] * 3, run.trainer)
    for prompt, completion, logprobs in zip(out["prompt_ids"], out["completion_ids"], out["logprobs"], strict=True):
        torch.testing.assert_close(torch.tensor(logprobs), rescored(run, prompt, completion), atol=1e-4, rtol=1e-4)


def test_scores_are_those_of_the_trained_head(tmp_path: Path) -> None:
    run = made(tmp_path, steps=2, head={"lr": 0.05})
    run.trainer.train()
    out = run.trainer.rollout_func(["What is 1 + 1?"] * 3, run.trainer)
    engine = run.trainer.rollout_func.engine
    engine.head.eval()
    for prompt, completion, score in zip(out["prompt_ids"], out["completion_ids"], out[SCORE], strict=True):
        steps = engine.score(prompt, completion)
        expected = torch.tensor([s.logit for s in steps]).sigmoid().log().mean().exp() if steps else None
        assert score == (None if expected is None else pytest.approx(float(expected), abs=1e-4))
    assert any(score is not None for score in out[SCORE])


def test_completions_come_in_the_order_of_their_prompts_and_differ(tmp_path: Path) -> None:
    run = made(tmp_path)
    prompts = ["What is 1 + 1?"] * 2 + ["And 2 + 2?"] * 2
    run.trainer.model.train()
    out = run.trainer.rollout_func(prompts, run.trainer)
    assert run.trainer.model.training
    assert out["prompt_ids"][0] == out["prompt_ids"][1] != out["prompt_ids"][2] == out["prompt_ids"][3]
    assert len({tuple(ids) for ids in out["completion_ids"]}) == 4
    assert out == run.trainer.rollout_func(prompts, run.trainer)
    run.trainer._step += 1
    assert out["completion_ids"] != run.trainer.rollout_func(prompts, run.trainer)["completion_ids"]
    assert [len(values) for values in out[LOGPROBS]] == [len(ids) for ids in out["completion_ids"]]


def test_training_keeps_its_attention(tmp_path: Path) -> None:
    run = made(tmp_path)
    model = run.trainer.model
    assert model.config._attn_implementation == "sdpa"
    run.trainer.rollout_func(["What is 1 + 1?"], run.trainer)
    assert model.config._attn_implementation == "sdpa"


def test_the_old_log_probabilities_are_those_that_were_sampled_from(tmp_path: Path) -> None:
    for temperature, known in ((1.0, True), (0.7, False)):
        run = made(tmp_path, rollouts={"temperature": temperature}, output=str(tmp_path / str(temperature)))
        run.trainer.model.train()
        rows = [run.trainer.train_dataset[0]] * 4 + [run.trainer.train_dataset[1]] * 4
        batch = run.trainer._generate_and_score_completions([dict(row) for row in rows])
        assert ("old_per_token_logps" in batch) == known
        if known:
            ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
            seen = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
            with torch.no_grad():
                logps, *_ = run.trainer._get_per_token_logps_and_entropies(
                    run.trainer.model, ids, seen, batch["completion_ids"].shape[1]
                )
            mask = batch["completion_mask"].bool()
            torch.testing.assert_close(batch["old_per_token_logps"][mask], logps[mask], atol=1e-4, rtol=1e-4)


def test_weights_that_were_moved_are_refused(tmp_path: Path) -> None:
    run = made(tmp_path)
    engine = run.trainer.rollout_func.engine
    assert not isinstance(engine._backbone, HFBackbone)
    linear = run.trainer.model.model.layers[0].self_attn.o_proj
    linear.weight = torch.nn.Parameter(linear.weight.detach().clone())
    with pytest.raises(EngineError, match="make the engine last"):
        engine.refresh()


def test_weights_do_not_change_under_running_trajectories(tmp_path: Path) -> None:
    from reflective.engines.base import Request

    engine = made(tmp_path).trainer.rollout_func.engine
    engine.submit(Request(engine.encode_prompt("x")))
    with pytest.raises(EngineError, match="finish first"):
        engine.refresh()
