"""The joint step is the equations that stand in its docstring: written here anew in plain torch, values and gradients.

Letters: B trajectories, n steps, T positions of completions, P of prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("trl")

from torch.nn.functional import logsigmoid
from trl.trainer.utils import add_fused_lm_head

from reflective.judge.heads.paper import SPRMHead
from reflective.judge.loss import UNGRADABLE
from reflective.settings import make_settings
from reflective.train.joint.batch import NO_STEP
from reflective.train.joint.config import JointConfig
from reflective.train.joint.scored_model import attach_head
from reflective.train.joint.step import GRPO_LOSSES, JointLoss, joint_step
from tiny import tiny_checkpoint

SCALE, COEFFICIENT, LAYER, MAX_TOKENS = 0.25, 0.7, 2, 50
OUTCOMES = [1, 0, UNGRADABLE, 1, 0, 1]


def policy_with_head() -> Any:
    """A random model, as the trainer makes it ready."""
    checkpoint = tiny_checkpoint("qwen3", dropout=0.0)
    add_fused_lm_head(checkpoint.model, outputs=("log_probs", "entropy"))
    attach_head(checkpoint.model, checkpoint.judge.head, LAYER, SCALE)
    return checkpoint.model.train()


def micro_batch(seed: int = 0) -> dict[str, Any]:
    """Trajectories of unequal lengths; steps in all but the last, and everything that a batch may hold."""
    rng = torch.Generator().manual_seed(seed)
    rows, prompt, width = len(OUTCOMES), 9, 16
    lengths, prompts = torch.arange(rows) * 2 + 5, torch.arange(rows) + 3
    steps = torch.randint(0, 3, (rows, 4), generator=rng).cumsum(1)
    index = prompt + torch.minimum(steps, lengths[:, None] - 1)  # (B, n) of the padded batch
    index[-1] = NO_STEP
    index[0, 2:] = NO_STEP
    old = -5.4 - 0.4 * torch.rand(rows, width, generator=rng)  # near those of random weights
    return {
        "prompt_ids": torch.randint(100, 200, (rows, prompt), generator=rng),
        "prompt_mask": (torch.arange(prompt) >= prompt - prompts[:, None]).long(),  # padded on the left
        "completion_ids": torch.randint(100, 200, (rows, width), generator=rng),
        "completion_mask": (torch.arange(width) < lengths[:, None]).long(),
        "advantages": torch.randn(rows, generator=rng),
        "outcomes": torch.tensor(OUTCOMES),
        "step_index": index,
        "old_per_token_logps": old,
        "ref_per_token_logps": old + 0.1 * torch.randn(rows, width, generator=rng),
        "mean_tokens": torch.tensor(37),
    }


def stated(model: Any, batch: dict[str, Any], config: JointConfig) -> Tensor:
    """L_GRPO + λ · L_SPR, trajectory by trajectory and token by token, with logits and hidden states of plain forwards.

    Prompts are not padded here: a trajectory is alone in its forward.
    """
    policy, head = config.policy, model.sprm
    token_losses, step_terms, kept = [], [], {0: 1, 1: 1}
    for row, outcome in enumerate(OUTCOMES):
        if outcome == UNGRADABLE:
            continue
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)[row].bool()
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)[row][mask]
        length = int(batch["completion_mask"][row].sum())
        out = model(input_ids=ids[None], output_hidden_states=True)
        logp = out.logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None])[-length:, 0]
        ratio = (logp - batch["old_per_token_logps"][row, :length]).exp()
        advantage, high = batch["advantages"][row], 1 + (policy.clip_high or policy.clip)
        loss = -torch.minimum(ratio * advantage, ratio.clamp(1 - policy.clip, high) * advantage)
        d = batch["ref_per_token_logps"][row, :length] - logp
        loss = loss + policy.kl * (d.exp() - d - 1) * (ratio if policy.kl_corrected else 1)
        token_losses.append(loss)
        for position in batch["step_index"][row].tolist():
            if position != NO_STEP:
                place = position - int((batch["prompt_mask"][row] == 0).sum())  # without the padding on the left
                h = out.hidden_states[LAYER][0, place]
                h = SCALE * h + (1 - SCALE) * h.detach()
                s = head.output.weight[0] @ (head.hidden.weight @ h + head.hidden.bias).relu() + head.output.bias[0]
                if config.head.filter == "none" or (s > 0) == (outcome == 1):
                    kept[outcome] += 1
                    step_terms.append((outcome, -logsigmoid(s if outcome else -s)))
    every = torch.cat(token_losses)
    grpo = {
        "bnpo": every.mean(),
        "grpo": torch.stack([loss.mean() for loss in token_losses]).mean(),
        "dr_grpo": every.sum() / (len(token_losses) * MAX_TOKENS),
        "dapo": every.sum() / 37,
    }[policy.loss]
    p, n = kept[1], kept[0]
    weights = [1.5 * n / (p + n) if outcome else p / (p + n) for outcome, _ in step_terms]
    spr = sum(w * bce for w, (_, bce) in zip(weights, step_terms)) / (sum(weights) + 1e-5)
    return grpo + COEFFICIENT * spr


def configured(policy: dict[str, Any], filter: str = "self_supervised") -> JointConfig:
    return make_settings(
        JointConfig,
        {
            "model": "tiny",
            "output": "nowhere",
            "data": {"source": "mixture"},
            "rollouts": {"max_tokens": MAX_TOKENS},
            "policy": policy,
            "head": {"coefficient": COEFFICIENT, "filter": filter},
        },
    )


def found(model: Any, batch: dict[str, Any], config: JointConfig, **options: Any) -> JointLoss:
    return joint_step(model, config, batch, **options)


@pytest.mark.parametrize("loss", GRPO_LOSSES)
@pytest.mark.parametrize(
    ("policy", "filter"),
    [({"kl": 0.0}, "self_supervised"), ({"kl": 0.1, "kl_corrected": True, "clip": 0.05, "clip_high": 0.2}, "none")],
)
def test_the_step_is_the_equations(loss: str, policy: dict[str, Any], filter: str) -> None:
    config, batch = configured({"loss": loss, **policy}, filter), micro_batch()
    ours, plain = policy_with_head(), policy_with_head()
    step, expected = found(ours, batch, config), stated(plain, batch, config)
    torch.testing.assert_close(step.loss, expected, atol=1e-6, rtol=1e-6)
    step.loss.backward()
    expected.backward()
    theirs = dict(plain.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(
            parameter.grad, theirs[name].grad, atol=2e-5, rtol=2e-3, msg=lambda text, n=name: f"{n}: {text}"
        )
    assert any(name.startswith("sprm.") and p.grad.abs().sum() > 0 for name, p in ours.named_parameters())


def test_without_old_log_probabilities_the_ratio_is_one_and_has_a_gradient() -> None:
    config, batch = configured({"kl": 0.0, "clip": 0.0}), micro_batch()
    del batch["old_per_token_logps"]
    model = policy_with_head()
    step = found(model, batch, config)
    mask = batch["completion_mask"] * (batch["outcomes"] != UNGRADABLE)[:, None]
    assert step.policy == pytest.approx(-float((batch["advantages"][:, None] * mask).sum() / mask.sum()), abs=1e-6)
    step.loss.backward()
    assert float(model.lm_head.weight.grad.abs().sum()) > 0


def test_what_sampled_otherwise_weighs_its_tokens() -> None:
    """vLLM's π_old / q multiplies the clipped term, not the KL."""
    config, batch = configured({"kl": 0.1}), micro_batch()
    model = policy_with_head()
    whole = found(model, batch, config).policy
    none = found(model, {**batch, "importance_sampling_ratio": torch.zeros(6, 16)}, config).policy
    half = found(model, {**batch, "importance_sampling_ratio": torch.full((6, 16), 0.5)}, config).policy
    assert none > 0  # the KL alone
    assert half == pytest.approx((whole + none) / 2, abs=1e-6)


def test_accumulation_divides_the_whole_loss_and_no_figure() -> None:
    config, batch, model = configured({}), micro_batch(), policy_with_head()
    one, four = found(model, batch, config), found(model, batch, config, accumulated=4)
    assert float(four.loss.detach()) == pytest.approx(float(one.loss.detach()) / 4, abs=1e-7)
    assert four.policy == one.policy and four.tokens == one.tokens


def test_counts_are_reduced_once_whatever_is_in_the_batch() -> None:
    config, batch, model = configured({}), micro_batch(), policy_with_head()
    asked: list[Tensor] = []
    for index in (batch["step_index"], torch.full_like(batch["step_index"], NO_STEP)):
        found(model, {**batch, "step_index": index}, config, reduce_counts=lambda c: asked.append(c.clone()) or c)
    assert len(asked) == 2 and asked[1].tolist() == [1.0, 1.0]  # P and N begin at 1


def test_figures_are_sums_over_the_tokens_that_count() -> None:
    config, batch, model = configured({"clip": 0.01}), micro_batch(), policy_with_head()
    tokens = found(model, batch, config).tokens
    mask = (batch["completion_mask"] * (batch["outcomes"] != UNGRADABLE)[:, None]).bool()
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    seen = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    logits = model(input_ids=ids, attention_mask=seen).logits[:, 8:-1]  # those that completions are drawn from
    logp = logits.log_softmax(-1)
    entropy = -(logp.exp() * logp).sum(-1)[mask].sum()
    ratio = (logp.gather(2, batch["completion_ids"][..., None])[..., 0] - batch["old_per_token_logps"]).exp()
    low = ((ratio < 0.99) & (batch["advantages"][:, None] < 0))[mask].sum()
    assert tokens["count"] == int(mask.sum()) and tokens["clip_ratio/low_mean"] == int(low) > 0
    assert tokens["entropy"] == pytest.approx(float(entropy), rel=1e-5)


def test_a_head_that_keeps_a_state_reads_the_steps_of_each_trajectory_in_order() -> None:
    class Growing(SPRMHead):
        """Adds up the logits of a trajectory's steps."""

        keeps_state = True

        def step_logits(self, h: Tensor, states: Sequence[Any]) -> tuple[Tensor, Sequence[Any]]:
            sums = [logit + (0.0 if state is None else state) for logit, state in zip(self.mlp(h), states)]
            return torch.stack(sums), sums

    plain, growing = policy_with_head(), policy_with_head()
    growing.sprm.__class__ = Growing
    config, batch = configured({}), micro_batch()
    alone, together = (found(model, batch, config).step_logits for model in (plain, growing))
    torch.testing.assert_close(together, alone.cumsum(1))


def test_an_unknown_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="bnpo, grpo, dr_grpo, dapo; got 'cispo'"):
        found(policy_with_head(), micro_batch(), configured({"loss": "cispo"}))
