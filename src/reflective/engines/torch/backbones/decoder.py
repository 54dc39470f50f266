"""The weights of the most common decoder: pre-norm RMSNorm, rotary grouped-query attention, SwiGLU.

That is Qwen2, Qwen3, Llama and Mistral. The projections that read the same input are stored as one matrix; the Hugging
Face modules become views of it, so nothing is held twice.

Letters: H hidden size, Q query heads, G KV heads, D head size, I intermediate size, T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from reflective.engines.torch.backbones.hf import decoder_layers, kv_shape
from reflective.engines.torch.kv import KVShape
from reflective.engines.torch.matrix import Matrix
from reflective.errors import EngineError
from reflective.models.gguf_weights import DECODERS

STATIC_ROPE = frozenset({"default", "linear", "llama3", "yarn"})  # angles that don't depend on the length so far


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """The weights of one decoder layer, as one decoding step uses them."""

    input_norm: Tensor  # (H, 1)
    qkv: Matrix  # ((Q + 2G)·D, H)
    qkv_bias: Tensor | None  # ((Q + 2G)·D, 1)
    qk_norm: Tensor | None  # (Q + G, D)
    out: Matrix  # (H, Q·D)
    post_norm: Tensor  # (H, 1)
    gate_up: Matrix  # (2I, H)
    down: Matrix  # (H, I)


def obstacle(model: PreTrainedModel) -> str | None:
    """Why the model can't be read as such a decoder with plain linear modules; None where it can."""
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    if (
        config.model_type not in DECODERS
        or config.hidden_act != "silu"
        or rope.get("rope_type", "default") not in STATIC_ROPE
        or rope.get("partial_rotary_factor", 1.0) != 1.0
        or any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ())
        or (config.model_type == "mistral" and config.sliding_window is not None)
    ):
        return f"its architecture ({config.model_type}) is not one that the fast decoding step knows"
    for layer in decoder_layers(model):
        a, m = layer.self_attn, layer.mlp
        linears = (a.q_proj, a.k_proj, a.v_proj, a.o_proj, m.gate_proj, m.up_proj, m.down_proj)
        for linear in linears:
            if reason := _wrapped(linear):
                return reason
        biased = any(linear.bias is not None for linear in (a.o_proj, m.gate_proj, m.up_proj, m.down_proj))
        if biased or len({linear.bias is None for linear in linears[:3]}) != 1:
            return "its projections have biases that the fast decoding step does not know"
    head: Any = model.get_output_embeddings()
    if reason := _wrapped(head):
        return reason
    return "its LM head has a bias" if head.bias is not None else None


def _wrapped(linear: Any) -> str | None:
    """Why a projection is no plain `nn.Linear`. A subclass may compute anything, so the type itself must be it."""
    if type(linear) is nn.Linear:
        return None
    if hasattr(linear, "base_layer"):
        return "adapters wrap its projections (merge them first: model.merge_and_unload())"
    return f"its projections are {type(linear).__name__} modules, not plain linear ones"


class Decoder:
    """The weights of a model without an `obstacle`, its sizes, and the angles of its positions."""

    def __init__(
        self,
        model: PreTrainedModel,
        shape: KVShape,
        layers: list[LayerWeights],
        embedding: Matrix,
        final_norm: Tensor,
        lm_head: Matrix,
        rotary: Any,
    ) -> None:
        config = model.config.get_text_config()
        self.model, self.shape, self.layers = model, shape, layers
        self.embedding, self.final_norm, self.lm_head = embedding, final_norm, lm_head  # (V, H), (H, 1), (V, H)
        self.query_heads = int(config.num_attention_heads)
        self.intermediate = int(config.intermediate_size)
        self.eps = float(config.rms_norm_eps)
        self._rotary = rotary
        self._cos = self._sin = torch.empty(0, 1, shape.head_size)

    @classmethod
    def of(cls, model: PreTrainedModel) -> Decoder:
        """On the model's own memory."""
        shape, decoder = kv_shape(model), cast(Any, model.get_decoder())
        embedding, head = cast(Any, model.get_input_embeddings()), cast(Any, model.get_output_embeddings())
        return cls(
            model,
            shape,
            [_layer(layer, shape) for layer in decoder_layers(model)],
            Matrix.of(embedding.weight.detach()),
            decoder.norm.weight.detach().unsqueeze(1),
            Matrix.of(head.weight.detach()),
            decoder.rotary_emb,
        )

    @property
    def packed(self) -> bool:
        """Whether only the compiled step can read the weights."""
        return self.lm_head.kind != "dense"

    def matrices(self) -> Iterator[Matrix]:
        """All of them."""
        for layer in self.layers:
            yield from (layer.qkv, layer.out, layer.gate_up, layer.down)
        yield from (self.embedding, self.lm_head)

    def refresh(self) -> None:
        """Take over what an optimizer has changed in place: all but the norms of the heads are the model's own memory.

        Raises `EngineError` where the model's weights lie elsewhere than when they were read.
        """
        for module, layer in zip(decoder_layers(self.model), self.layers, strict=True):
            a, m = module.self_attn, module.mlp
            theirs = (a.q_proj, a.o_proj, m.gate_proj, m.down_proj)
            ours = (layer.qkv, layer.out, layer.gate_up, layer.down)
            if any(linear.weight.data_ptr() != matrix.data.data_ptr() for linear, matrix in zip(theirs, ours)):
                raise EngineError("the model's weights were moved after its engine was made; make the engine last.")
            if layer.qk_norm is not None:
                layer.qk_norm.copy_(head_norms(a.q_norm.weight, a.k_norm.weight, layer.qk_norm.shape[0], self.shape))

    def angles(self, length: int) -> tuple[Tensor, Tensor]:
        """cos and sign-folded sin for at least so many positions, (T, 1, D) each."""
        if self._cos.shape[0] < length:
            positions = torch.arange(length, device=self.shape.device).unsqueeze(0)
            cos, sin = self._rotary(self.final_norm, positions)  # of the tensor, the number type is read alone
            half = self.shape.head_size // 2
            # rotate_half(x)·sin = roll(x)·[-sin, sin]
            sin = torch.cat([-sin[..., :half], sin[..., half:]], -1)
            self._cos, self._sin = cos[0].unsqueeze(1).contiguous(), sin[0].unsqueeze(1).contiguous()
        return self._cos, self._sin


def _layer(layer: Any, shape: KVShape) -> LayerWeights:
    a, m = layer.self_attn, layer.mlp
    qkv, bias = _join([a.q_proj, a.k_proj, a.v_proj])
    gate_up, _ = _join([m.gate_proj, m.up_proj])
    heads = a.q_proj.out_features // shape.head_size + shape.heads
    return LayerWeights(
        input_norm=layer.input_layernorm.weight.detach().unsqueeze(1),
        qkv=Matrix.of(qkv),
        qkv_bias=None if bias is None else bias.unsqueeze(1),
        qk_norm=head_norms(a.q_norm.weight, a.k_norm.weight, heads, shape) if hasattr(a, "q_norm") else None,
        out=Matrix.of(a.o_proj.weight.detach()),
        post_norm=layer.post_attention_layernorm.weight.detach().unsqueeze(1),
        gate_up=Matrix.of(gate_up),
        down=Matrix.of(m.down_proj.weight.detach()),
    )


def head_norms(q_norm: Tensor, k_norm: Tensor, heads: int, shape: KVShape) -> Tensor:
    """The norms of the query and key heads, one row per head, (Q + G, D)."""
    query, key = q_norm.detach().expand(heads - shape.heads, -1), k_norm.detach().expand(shape.heads, -1)
    return torch.cat([query, key])


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
