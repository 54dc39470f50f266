"""Fast decoding of the common decoder (`decoder.py`) through operators; everything else decodes by `hf.py`.

Activations are kept feature-major, (H, B): with few rows a CPU multiplies W · X far faster than X · Wᵀ (see
benchmarks/).

Letters: B rows, H hidden size, Q query heads, G KV heads, D head size, I intermediate size, T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from reflective.engines.torch.backbones.base import DecodePlan, PlanTensors, draw_next, head_logits
from reflective.engines.torch.backbones.decoder import Decoder, LayerWeights
from reflective.engines.torch.backbones.hf import HFBackbone
from reflective.engines.torch.kv import KVMemory
from reflective.engines.torch.sampling import SamplingRows
from reflective.judge.heads import StepHead


class FusedBackbone:
    """A `Backbone` that reads by the Hugging Face model and decodes with fused, feature-major matrix products."""

    def __init__(self, reader: HFBackbone, decoder: Decoder) -> None:
        self.reader, self.decoder, self.shape = reader, decoder, reader.shape
        self.prefill, self.read = reader.prefill, reader.read
        self._eps = torch.tensor(decoder.eps, device=self.shape.device)  # ()

    def refresh(self) -> None:
        """See `Backbone.refresh`."""
        self.decoder.refresh()

    def write(
        self, plan: DecodePlan, kv: KVMemory, settings: SamplingRows, uniform: Tensor, seen: Tensor | None
    ) -> tuple[list[int], list[float], Tensor]:
        """See `Backbone.write`."""
        logits, features = self.decode(plan, kv)
        return *draw_next(logits, plan, settings, uniform, seen), features

    def score(self, head: StepHead, features: Tensor, rows: Sequence[int]) -> list[float]:
        """See `Backbone.score`."""
        return head_logits(head, features, rows)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """RMSNorm over the first axis, (H, B) -> (H, B): x / sqrt(mean(x²) + eps) · w."""
        normed: Tensor = (x * self._scale(x, 0)).to(x.dtype).mul_(weight)
        return normed

    def _scale(self, x: Tensor, dim: int) -> Tensor:
        """1 / sqrt(mean(x²) + eps) along an axis, which stays with size 1; in float32."""
        norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=torch.float32)
        return torch.addcmul(self._eps, norm, norm, value=1.0 / x.shape[dim]).rsqrt_()

    def decode(self, plan: DecodePlan, kv: KVMemory) -> tuple[Tensor, Tensor]:
        """See `Backbone.decode`."""
        step = plan.tensors(kv)
        cos, sin = self.decoder.angles(kv.length)
        cos, sin = cos[step.positions], sin[step.positions]  # (B, 1, D)
        bias = self._bias(step)
        x = self.decoder.embedding.data[step.tokens].t().contiguous()  # (H, B)
        states: dict[int, Tensor] = {}
        for index, layer in enumerate(self.decoder.layers):
            states[index] = x  # (H, B)
            x = self._attend(index, layer, x, cos, sin, bias, step, kv)
            x = self._feed_forward(layer, x)
        x = self._norm(x, self.decoder.final_norm)
        states[self.shape.layers] = x
        features = torch.cat([states[layer] for layer in self.reader.feature_layers])  # (F, B)
        return torch.mm(self.decoder.lm_head.data, x).t().contiguous(), features.t()  # (V, B) -> (B, V)

    def _bias(self, plan: PlanTensors) -> Tensor | None:
        """0 where a row's new position sees, -inf beyond its length, (B·G, 1, T); None where all see everything."""
        if plan.visible is None:
            return None
        bias = torch.zeros(plan.visible.shape, dtype=self.shape.dtype, device=plan.visible.device)
        bias.masked_fill_(~plan.visible, -torch.inf)  # (B, 1, 1, T)
        return bias.expand(-1, self.shape.heads, -1, -1).flatten(0, 1)

    def _attend(
        self,
        index: int,
        layer: LayerWeights,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        bias: Tensor | None,
        plan: PlanTensors,
        kv: KVMemory,
    ) -> Tensor:
        """x + attention(norm(x)), (H, B) -> (H, B); stores the new keys and values."""
        rows, queries, groups, size = x.shape[1], self.decoder.query_heads, self.shape.heads, self.shape.head_size
        normed = self._norm(x, layer.input_norm)
        if layer.qkv_bias is None:
            qkv = torch.mm(layer.qkv.data, normed)  # ((Q + 2G)·D, B)
        else:
            qkv = torch.addmm(layer.qkv_bias, layer.qkv.data, normed)
        heads = qkv.t().contiguous().view(rows, queries + 2 * groups, size)  # (B, Q + 2G, D)
        qk = heads[:, : queries + groups]  # (B, Q + G, D)
        if layer.qk_norm is not None:
            qk = (qk * self._scale(qk, -1)).to(x.dtype).mul_(layer.qk_norm)
        qk = torch.addcmul(qk * cos, qk.roll(size // 2, -1), sin)
        kv.write(index, plan.index, torch.cat([qk[:, queries:], heads[:, queries + groups :]], 1))
        out = _attention(
            qk[:, :queries], kv.keys(index, 0, rows, plan.length), kv.values(index, 0, rows, plan.length), bias
        )
        return torch.addmm(x, layer.out.data, out.reshape(rows, queries * size).t())

    def _feed_forward(self, layer: LayerWeights, x: Tensor) -> Tensor:
        """x + W_down(silu(W_gate n) · W_up n), (H, B) -> (H, B)."""
        gate_up = torch.mm(layer.gate_up.data, self._norm(x, layer.post_norm))  # (2I, B)
        gate = nn.functional.silu(gate_up[: self.decoder.intermediate], inplace=True)
        return torch.addmm(x, layer.down.data, gate.mul_(gate_up[self.decoder.intermediate :]))


def _attention(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(q·kᵀ / √D + bias) · v for one new position per row, (B, Q, D) and (B, G, T, D) -> (B, Q, D).

    Written as two batched products over the B·G views of the memory: for single positions that is twice as fast on a
    CPU as the fused attention kernel, which is made for long queries.
    """
    rows, queries, size = query.shape
    groups = keys.shape[1]
    keys, values = keys.flatten(0, 1), values.flatten(0, 1)  # (B·G, T, D), still views
    query = query.reshape(rows * groups, queries // groups, size)  # (B·G, Q/G, D)
    if bias is None:
        scores = torch.bmm(query, keys.transpose(1, 2)).mul_(size**-0.5)  # (B·G, Q/G, T)
    else:
        scores = torch.baddbmm(bias, query, keys.transpose(1, 2), alpha=size**-0.5)
    weights = scores.softmax(-1, dtype=torch.float32).to(values.dtype)
    return torch.bmm(weights, values).view(rows, queries, size)
