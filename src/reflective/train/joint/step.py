"""The joint step: what a micro-batch teaches policy and head, from one forward.

    L = L_GRPO + λ · L_SPR                               λ: [head] coefficient

    L_GRPO = mean over tokens of  −min(r · A, clip(r, 1 − ε, 1 + ε_high) · A) + β · KL      GRPO, arXiv 2402.03300
    r      = π(token) / π_old(token)                     A: the trajectory's reward, normalised in its group
    KL     = exp(d) − d − 1,  d = log π_ref − log π      "low_var", reference; β: [policy] kl

    L_SPR  = Σ w · BCE(s, y) / (Σ w + 1e-5)              `judge/loss.py`; every step inherits its trajectory's outcome y
    s      = the head at 1e-4 · h + (1 − 1e-4) · stopgrad(h): `scored_model.py`

An ungradable trajectory counts in neither loss. [policy] loss says over what L_GRPO is a mean: "bnpo" the tokens of the
micro-batch (reference), "grpo" each trajectory's tokens and then trajectories, "dr_grpo" trajectories and the most
tokens that one may have (arXiv 2503.20783), "dapo" the tokens of an average micro-batch (arXiv 2503.14476).

Departures from the reference are those of `judge/loss.py`, and: the group of a problem may lie on several ranks.

Letters: B trajectories, n steps, T positions of the completions, P positions of the prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from reflective.judge.loss import UNGRADABLE, SPRLoss, spr_loss
from reflective.train.joint.batch import NO_STEP, trimmed
from reflective.train.joint.config import JointConfig, PolicyConfig

GRPO_LOSSES: Final = ("bnpo", "grpo", "dr_grpo", "dapo")  # values of [policy] loss that are stated here
IGNORED: Final = -100  # label of a position whose log-probability is not wanted

Batch = Mapping[str, Any]
PolicyLoss = Callable[[Any, Batch], Tensor]


@dataclass(frozen=True, slots=True)
class JointLoss:
    """What a micro-batch gave. `loss` is L with its graph, divided by the micro-batches of an optimizer step."""

    loss: Tensor
    policy: float
    """L_GRPO."""
    spr: SPRLoss
    step_logits: Tensor
    """s (B, n), without a graph."""
    tokens: dict[str, float]
    """Sums over the tokens that count, on this rank ("count" of them): entropy, kl and clipped shares."""


def joint_step(
    model: Callable[..., Any],
    config: JointConfig,
    batch: Batch,
    *,
    steps_done: int = 0,
    accumulated: int = 1,
    reduce_counts: Callable[[Tensor], Tensor] | None = None,
    policy_loss: PolicyLoss | None = None,
    **options: Any,
) -> JointLoss:
    """Both losses of a micro-batch.

    `model` is the policy with its head (`attach_head`), however it is wrapped; `options` go to its forward. `batch`
    holds, padded on the left and right, prompts (B, P) and completions (B, T), and: `advantages` (B,), `outcomes` (B,),
    `step_index` (B, n), and where there are such `old_per_token_logps`, `ref_per_token_logps` and
    `importance_sampling_ratio` (B, T), `step_logprobs` (B, n, 2), `step_weights` (B,), `mean_tokens` ().
    `steps_done` are optimizer steps, `accumulated` the micro-batches of one. `reduce_counts` sums the counts of kept
    steps over all ranks (`spr_loss`). `policy_loss` replaces L_GRPO by another loss of the forward's output.
    """
    batch, settings = trimmed(batch), config.head
    # one forward: log π of the completions' tokens, their entropy, and the logits of the steps
    out = _forward(model, batch, options)
    tokens: dict[str, float] = {}
    if policy_loss is None:
        policy, tokens = grpo_loss(out.log_probs, out.entropy, batch, config.policy, config.rollouts.max_tokens)
    else:
        policy = policy_loss(out, batch)
    plain = settings.filter == "none" or steps_done < settings.plain_steps
    spr = spr_loss(
        out.step_logits,
        batch["outcomes"],
        batch["step_index"] != NO_STEP,
        filter="none" if plain else "self_supervised",
        class_balance=settings.class_balance and not settings.problem_balanced,  # its weights balance already
        weights=batch.get("step_weights"),
        reduce_counts=reduce_counts,
    )
    # L = L_GRPO + λ · L_SPR, as a mean over the micro-batches of an optimizer step
    loss = (policy + settings.coefficient * spr.loss) / accumulated
    return JointLoss(loss, float(policy.detach()), spr, out.step_logits.detach(), tokens)


def _forward(model: Callable[..., Any], batch: Batch, options: Mapping[str, Any]) -> Any:
    """`log_probs` and `entropy` (B, P+T) where a label is, and `step_logits` (B, n)."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)  # (B, P+T)
    seen = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    labels = ids.masked_fill(seen == 0, IGNORED)
    labels[:, : batch["prompt_ids"].shape[1]] = IGNORED
    return model(
        input_ids=ids,
        attention_mask=seen,
        labels=labels,
        fused_lm_head=True,  # log-probabilities instead of logits, computed a few hundred positions at a time
        step_index=batch["step_index"],
        step_logprobs=batch.get("step_logprobs"),
        **options,
    )


def grpo_loss(
    log_probs: Tensor, entropy: Tensor, batch: Batch, settings: PolicyConfig, max_tokens: int
) -> tuple[Tensor, dict[str, float]]:
    """L_GRPO () from log π and the entropy (B, P+T), and sums for the figures."""
    width = batch["completion_ids"].shape[1]
    log_probs, entropy = log_probs[:, -width:], entropy[:, -width:]  # (B, T)
    graded = batch["outcomes"] != UNGRADABLE  # (B,)
    mask = batch["completion_mask"] * graded.unsqueeze(1)  # (B, T): the tokens that count
    advantages = batch["advantages"].unsqueeze(1)  # (B, 1)

    # r = π / π_old; where no π_old is given, the policy has not moved since it sampled
    old = batch.get("old_per_token_logps")
    ratio = torch.exp(log_probs - (log_probs.detach() if old is None else old))  # (B, T)
    # −min(r · A, clip(r, 1 − ε, 1 + ε_high) · A)
    low, high = 1 - settings.clip, 1 + (settings.clip if settings.clip_high is None else settings.clip_high)
    losses = -torch.min(ratio * advantages, ratio.clamp(low, high) * advantages)
    if (correction := batch.get("importance_sampling_ratio")) is not None:  # π_old / q, q being who sampled (vLLM)
        losses = losses * correction
    figures = {
        "entropy": entropy,
        "clip_ratio/low_mean": ((ratio < low) & (advantages < 0)).float(),
        "clip_ratio/high_mean": ((ratio > high) & (advantages > 0)).float(),
    }
    if settings.kl:
        # KL = exp(d) − d − 1, d = log π_ref − log π
        d = batch["ref_per_token_logps"] - log_probs
        kl = torch.exp(d) - d - 1
        if settings.kl_corrected:
            kl = kl * ratio
        losses = losses + settings.kl * kl
        figures["kl"] = kl

    trajectories = graded.sum().clamp(min=1)
    if settings.loss == "bnpo":
        loss = (losses * mask).sum() / mask.sum().clamp(min=1)
    elif settings.loss == "grpo":
        loss = ((losses * mask).sum(1) / mask.sum(1).clamp(min=1)).sum() / trajectories
    elif settings.loss == "dr_grpo":
        loss = (losses * mask).sum() / (trajectories * max_tokens)
    elif settings.loss == "dapo":
        loss = (losses * mask).sum() / batch["mean_tokens"].clamp(min=1)
    else:
        raise ValueError(f"L_GRPO knows {', '.join(GRPO_LOSSES)}; got {settings.loss!r}.")
    with torch.no_grad():
        sums = torch.stack([mask.sum().float(), *((figure * mask).sum().float() for figure in figures.values())])
    return loss, dict(zip(("count", *figures), sums.tolist()))
