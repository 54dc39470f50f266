"""Fast decoding for the most common shape: pre-norm RMSNorm, rotary grouped-query attention, SwiGLU.

That is Qwen2, Qwen3, Llama and Mistral; everything else decodes through `hf.py`. The projections that read the same
input are stored as one matrix (the Hugging Face modules become views of it, so nothing is held twice), and activations
are kept feature-major, (H, B): with few rows a CPU multiplies W · X far faster than X · Wᵀ (see benchmarks/).

Letters: B rows, H hidden size, Q query heads, G KV heads, D head size, I intermediate size, T positions, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from reflective.engines.torch.backbones.hf import DecodePlan, HFBackbone, PlanTensors, decoder_layers
from reflective.engines.torch.kv import KVMemory
from reflective.errors import EngineError

FUSED_MODEL_TYPES = frozenset({"qwen2", "qwen3", "llama", "mistral"})
STATIC_ROPE = frozenset({"default", "linear", "llama3", "yarn"})  # angles that don't depend on the length so far


@dataclass(frozen=True, slots=True)
class FusedLayer:
    """The weights of one decoder layer, as one decoding step uses them."""

    input_norm: Tensor  # (H, 1)
    qkv: Tensor  # ((Q + 2G)·D, H)
    qkv_bias: Tensor | None  # ((Q + 2G)·D, 1)
    qk_norm: Tensor | None  # (Q + G, D)
    out: Tensor  # (H, Q·D)
    post_norm: Tensor  # (H, 1)
    gate_up: Tensor  # (2I, H)
    down: Tensor  # (H, I)


def can_fuse(model: PreTrainedModel) -> bool:
    """Whether the model has the shape that this file knows, with plain linear modules."""
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    if (
        config.model_type not in FUSED_MODEL_TYPES
        or config.hidden_act != "silu"
        or rope.get("rope_type", "default") not in STATIC_ROPE
        or rope.get("partial_rotary_factor", 1.0) != 1.0
        or any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ())
        or (config.model_type == "mistral" and config.sliding_window is not None)
    ):
        return False
    for layer in decoder_layers(model):
        a, m = layer.self_attn, layer.mlp
        linears = (a.q_proj, a.k_proj, a.v_proj, a.o_proj, m.gate_proj, m.up_proj, m.down_proj)
        if any(type(linear) is not nn.Linear for linear in linears):
            return False
        if any(linear.bias is not None for linear in (a.o_proj, m.gate_proj, m.up_proj, m.down_proj)):
            return False
        if len({linear.bias is None for linear in linears[:3]}) != 1:
            return False
    return type(model.get_output_embeddings()) is nn.Linear and model.get_output_embeddings().bias is None


def _join(linears: list[nn.Linear]) -> tuple[Tensor, Tensor | None]:
    """One matrix and bias out of several; the modules become views of it."""
    weight = torch.cat([linear.weight.detach() for linear in linears])
    bias = torch.cat([linear.bias.detach() for linear in linears]) if linears[0].bias is not None else None
    start = 0
    for linear in linears:
        stop = start + linear.out_features
        linear.weight = nn.Parameter(weight[start:stop], requires_grad=linear.weight.requires_grad)
        if bias is not None:
            linear.bias = nn.Parameter(bias[start:stop], requires_grad=linear.bias.requires_grad)
        start = stop
    return weight, bias


class FusedBackbone(HFBackbone):
    """Prefills as `HFBackbone` does and decodes with fused, feature-major matrix products."""

    def __init__(self, model: PreTrainedModel, layer: int = -2) -> None:
        super().__init__(model, layer)
        config = model.config.get_text_config()
        self._query_heads = int(config.num_attention_heads)
        self._intermediate = int(config.intermediate_size)
        self._eps = torch.tensor(float(config.rms_norm_eps), device=self.shape.device)  # ()
        self._layers: list[FusedLayer] = [self._fuse(layer) for layer in decoder_layers(model)]
        decoder: Any = model.get_decoder()
        embeddings: Any = model.get_input_embeddings()
        self._embedding: Tensor = embeddings.weight.detach()  # (V, H)
        self._final_norm: Tensor = decoder.norm.weight.detach().unsqueeze(1)  # (H, 1)
        head: Any = model.get_output_embeddings()
        self._lm_head: Tensor = head.weight.detach()  # (V, H)
        self._rotary = decoder.rotary_emb
        self._cos = self._sin = torch.empty(0, 1, self.shape.head_size)

    def _fuse(self, layer: Any) -> FusedLayer:
        a, m = layer.self_attn, layer.mlp
        qkv, bias = _join([a.q_proj, a.k_proj, a.v_proj])
        gate_up, _ = _join([m.gate_proj, m.up_proj])
        qk_norm = self._head_norms(a) if hasattr(a, "q_norm") else None
        return FusedLayer(
            input_norm=layer.input_layernorm.weight.detach().unsqueeze(1),
            qkv=qkv,
            qkv_bias=None if bias is None else bias.unsqueeze(1),
            qk_norm=qk_norm,
            out=a.o_proj.weight.detach(),
            post_norm=layer.post_attention_layernorm.weight.detach().unsqueeze(1),
            gate_up=gate_up,
            down=m.down_proj.weight.detach(),
        )

    def refresh(self) -> None:
        """Take over what an optimizer has changed in place: all but the norms of the heads are the model's own memory.

        Raises `EngineError` where the model's weights lie elsewhere than when the engine was made.
        """
        for module, layer in zip(decoder_layers(self.model), self._layers, strict=True):
            a, m = module.self_attn, module.mlp
            theirs = (a.q_proj, a.o_proj, m.gate_proj, m.down_proj)
            ours = (layer.qkv, layer.out, layer.gate_up, layer.down)
            if any(linear.weight.data_ptr() != matrix.data_ptr() for linear, matrix in zip(theirs, ours)):
                raise EngineError("the model's weights were moved after its engine was made; make the engine last.")
            if layer.qk_norm is not None:
                layer.qk_norm.copy_(self._head_norms(a))

    def _head_norms(self, attention: Any) -> Tensor:
        """The norms of the query and key heads, one row a head, (Q + G, D)."""
        q_norm, k_norm = attention.q_norm.weight.detach(), attention.k_norm.weight.detach()
        return torch.cat([q_norm.expand(self._query_heads, -1), k_norm.expand(self.shape.heads, -1)])

    def _angles(self, kv: KVMemory) -> tuple[Tensor, Tensor]:
        """cos and sign-folded sin for every position of the memory, (T, 1, D) each."""
        if self._cos.shape[0] < kv.length:
            positions = torch.arange(kv.length, device=self.shape.device).unsqueeze(0)
            cos, sin = self._rotary(self._embedding[:1].unsqueeze(0), positions)
            half = self.shape.head_size // 2
            # rotate_half(x)·sin = roll(x)·[-sin, sin]
            sin = torch.cat([-sin[..., :half], sin[..., half:]], -1)
            self._cos, self._sin = cos[0].unsqueeze(1).contiguous(), sin[0].unsqueeze(1).contiguous()
        return self._cos, self._sin

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """RMSNorm over the first axis, (H, B) -> (H, B): x / sqrt(mean(x²) + eps) · w."""
        normed: Tensor = (x * self._scale(x, 0)).to(x.dtype).mul_(weight)
        return normed

    def _scale(self, x: Tensor, dim: int) -> Tensor:
        """1 / sqrt(mean(x²) + eps) along an axis, which stays with size 1; in float32."""
        norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=torch.float32)
        return torch.addcmul(self._eps, norm, norm, value=1.0 / x.shape[dim]).rsqrt_()

    def decode(self, plan: DecodePlan, kv: KVMemory) -> tuple[Tensor, Tensor]:
        """One token for each of the first B rows: logits (B, V) and features (B, H)."""
        step = plan.tensors(kv)
        cos, sin = self._angles(kv)
        cos, sin = cos[step.positions], sin[step.positions]  # (B, 1, D)
        bias = self._bias(step)
        x = self._embedding[step.tokens].t().contiguous()  # (H, B)
        feature = x
        for index, layer in enumerate(self._layers):
            if index == self.feature_layer:
                feature = x
            x = self._attend(index, layer, x, cos, sin, bias, step, kv)
            x = self._feed_forward(layer, x)
        x = self._norm(x, self._final_norm)
        if self.feature_layer == self.shape.layers:
            feature = x
        return torch.mm(self._lm_head, x).t().contiguous(), feature.t()  # (V, B) -> (B, V)

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
        layer: FusedLayer,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        bias: Tensor | None,
        plan: PlanTensors,
        kv: KVMemory,
    ) -> Tensor:
        """x + attention(norm(x)), (H, B) -> (H, B); stores the new keys and values."""
        rows, queries, groups, size = x.shape[1], self._query_heads, self.shape.heads, self.shape.head_size
        normed = self._norm(x, layer.input_norm)
        if layer.qkv_bias is None:
            qkv = torch.mm(layer.qkv, normed)  # ((Q + 2G)·D, B)
        else:
            qkv = torch.addmm(layer.qkv_bias, layer.qkv, normed)
        heads = qkv.t().contiguous().view(rows, queries + 2 * groups, size)  # (B, Q + 2G, D)
        qk = heads[:, : queries + groups]  # (B, Q + G, D)
        if layer.qk_norm is not None:
            qk = (qk * self._scale(qk, -1)).to(x.dtype).mul_(layer.qk_norm)
        qk = torch.addcmul(qk * cos, qk.roll(size // 2, -1), sin)
        kv.write(index, plan.index, torch.cat([qk[:, queries:], heads[:, queries + groups :]], 1))
        out = _attention(
            qk[:, :queries], kv.keys(index, 0, rows, plan.length), kv.values(index, 0, rows, plan.length), bias
        )
        return torch.addmm(x, layer.out, out.reshape(rows, queries * size).t())

    def _feed_forward(self, layer: FusedLayer, x: Tensor) -> Tensor:
        """x + W_down(silu(W_gate n) · W_up n), (H, B) -> (H, B)."""
        gate_up = torch.mm(layer.gate_up, self._norm(x, layer.post_norm))  # (2I, B)
        gate = nn.functional.silu(gate_up[: self._intermediate], inplace=True)
        return torch.addmm(x, layer.down, gate.mul_(gate_up[self._intermediate :]))


def _attention(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(q·kᵀ / √D + bias) · v for one new position a row, (B, Q, D) and (B, G, T, D) -> (B, Q, D).

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
