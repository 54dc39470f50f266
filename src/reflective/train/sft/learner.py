"""One training step: the losses of the tokens that are learnt, their gradient, and an update of the weights.

Letters: B rows, T positions, N learnt tokens of a micro-batch, V vocabulary, H hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from transformers import PreTrainedModel

from reflective.train.sft.batches import MicroBatch, micro_batches
from reflective.train.sft.peers import Peers
from reflective.train.sft.token_cache import TokenCache


class Learner:
    """A model with its optimizers; `step` and `validate` are all that a run needs."""

    def __init__(
        self, model: PreTrainedModel, optimizers: Sequence[Optimizer], peers: Peers, clip: float, bfloat16: bool
    ) -> None:
        self.model, self.optimizers, self.peers = model, optimizers, peers
        self.clip, self.bfloat16 = clip or math.inf, bfloat16
        self.device = next(model.parameters()).device

    def step(self, batches: Sequence[MicroBatch], learnt: int) -> tuple[float, float]:
        """Learns from this process's micro-batches of a step that has `learnt` learnt tokens in all processes.

        Returns the mean loss of the step and the norm of its gradient. Where one of them is no number, the weights
        stay as they are.
        """
        self.model.train()
        mine = torch.zeros((), device=self.device)
        for batch in batches:
            # the mean over the whole step: a micro-batch counts by its number of learnt tokens
            loss = self.token_losses(batch.to(self.device)).sum() / max(learnt, 1)
            torch.autograd.backward(loss)
            mine += loss.detach()
        mean = float(self.peers.sum_gradients(self.model.parameters(), mine))
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip))
        if math.isfinite(mean) and math.isfinite(norm):
            for optimizer in self.optimizers:
                optimizer.step()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        return mean, norm

    def token_losses(self, batch: MicroBatch) -> Tensor:
        """The cross entropy of each learnt token, (N,). Logits are computed for those positions only."""
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)
        with autocast, _head_reads(self.model, batch.positions):
            logits = self.model(input_ids=batch.ids, use_cache=False).logits  # (1, N, V)
        return cross_entropy(logits[0].float(), batch.targets, reduction="none")

    @torch.no_grad()
    def validate(self, cache: TokenCache, micro_tokens: int, pad_id: int) -> dict[str, float]:
        """Mean loss per learnt token, for `all` and for each family."""
        self.model.eval()
        sums, counts = np.zeros(len(cache.families)), np.zeros(len(cache.families))
        for batch in micro_batches(cache, micro_tokens, pad_id):
            losses = self.token_losses(batch.to(self.device)).double().cpu().numpy()  # (N,)
            families = cache.family[batch.examples[batch.rows.numpy()]]
            np.add.at(sums, families, losses)
            np.add.at(counts, families, 1)
        by_family = {name: float(s / max(c, 1)) for name, s, c in zip(cache.families, sums, counts)}
        return {"all": float(sums.sum() / max(counts.sum(), 1)), **by_family}


@contextmanager
def _head_reads(model: PreTrainedModel, positions: Tensor) -> Iterator[None]:
    """Lets the LM head see the flattened `positions` only, whatever the architecture does before and behind it."""

    def pick(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        hidden = inputs[0]  # (B, T, H) -> (1, N, H)
        return (hidden.reshape(-1, hidden.shape[-1]).index_select(0, positions)[None],)

    handle = model.get_output_embeddings().register_forward_pre_hook(pick)
    try:
        yield
    finally:
        handle.remove()
