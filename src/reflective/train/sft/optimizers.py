"""The optimizers: Muon for the matrices between embedding and head, AdamW for the rest, and the rate's schedule.

Departure from `torch.optim.Muon`, which iterates in bfloat16 and matrix by matrix: here matrices of one shape go
through the iteration together, and in float32 on a CPU, most of which are far slower in bfloat16.

Letters: K matrices of one shape, R rows, C columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from transformers import PreTrainedModel

from reflective.train.sft.config import OptimizerConfig

# Muon: https://kellerjordan.github.io/posts/muon/
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # steepest at 0: singular values end between about 0.7 and 1.2
NEWTON_SCHULZ_STEPS = 5
EPSILON = 1e-7


class Muon(Optimizer):
    """Momentum whose update is replaced by the nearest orthogonal matrix, so that all directions get the same step."""

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        for group in self.param_groups:
            for p in group["params"]:
                if p.ndim != 2:
                    raise ValueError(f"Muon moves matrices, got a parameter of shape {tuple(p.shape)}.")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault(p.shape, []).append(p)
            for shape, matrices in shapes.items():
                directions = orthogonalised(torch.stack([self._nesterov(p, group["momentum"]) for p in matrices]))
                scale = math.sqrt(max(1.0, shape[0] / shape[1]))
                for p, direction in zip(matrices, directions):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(direction.to(p.dtype), alpha=-group["lr"] * scale)

    def _nesterov(self, p: Tensor, momentum: float) -> Tensor:
        """The momentum one step ahead; `p` has a gradient."""
        assert p.grad is not None
        state = self.state[p]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(p.grad)
        state["momentum"].lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(state["momentum"], momentum)


def orthogonalised(matrices: Tensor) -> Tensor:
    """U·Vᵀ of each matrix's singular value decomposition U·S·Vᵀ, roughly; (K, R, C) -> (K, R, C)."""
    a, b, c = NEWTON_SCHULZ
    x = matrices.bfloat16() if matrices.is_cuda else matrices.float()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + EPSILON)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        # X ← a·X + (b·G + c·G²)·X with G = X·Xᵀ
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def make_optimizers(model: PreTrainedModel, config: OptimizerConfig) -> list[Optimizer]:
    """Every trained parameter in exactly one group; a group's `base_lr` is its rate at the top of the schedule."""
    inner, decayed, plain = split_parameters(model)
    if config.matrices == "adamw":
        inner, decayed = [], inner + decayed
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": config.weight_decay if config.matrices == "adamw" else 0.0},
        {"params": plain, "weight_decay": 0.0},
    ]
    adamw = AdamW([g for g in groups if g["params"]], lr=config.adamw_lr, betas=config.betas, fused=fused)
    optimizers: list[Optimizer] = [adamw]
    if inner:
        optimizers.append(Muon(inner, config.muon_lr, config.momentum, config.weight_decay))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return optimizers


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """Matrices of linear layers; the head, if it is not tied; and embeddings, norms and biases, which never decay."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    heads = {id(p) for p in head.parameters()} if head is not None else set()
    inner, outer, plain = [], [], []
    for p in model.parameters():
        if not p.requires_grad:
            continue
        if p.ndim != 2 or id(p) in embeddings:
            plain.append(p)
        elif id(p) in heads:
            outer.append(p)
        else:
            inner.append(p)
    return inner, outer, plain


def rate(progress: float, config: OptimizerConfig) -> float:
    """The share of the top rate at `progress` (0..1 of the run); never quite 0, so that every step counts."""
    if progress < config.warmup:
        return max(progress / config.warmup, 0.01)
    rest = (progress - config.warmup) / (1 - config.warmup) if config.warmup < 1 else 1.0
    if config.schedule == "cosine":
        share = 0.5 * (1 + math.cos(math.pi * min(rest, 1.0)))
    elif config.schedule == "linear" or config.decay == 0:
        share = 1.0 - rest if config.schedule == "linear" else 1.0
    else:  # warm-up, stable, decay
        share = min(1.0, (1.0 - progress) / config.decay)
    return max(share, 0.01)
