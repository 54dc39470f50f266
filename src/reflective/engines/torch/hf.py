"""Any Hugging Face causal LM over our KV memory: its own forward, our cache, our attention.

The way for every architecture that has decoder layers and calls attention through the attention interface of
`transformers`. Architectures of the most common shape decode faster through `fused.py`, which prefills here, too.

Letters: B rows, Q query heads, G KV heads, D head size, T positions, N new positions, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, Cache, PreTrainedModel

from reflective.engines.torch.kv import KVMemory, KVShape
from reflective.errors import EngineError

ATTENTION = "reflective"
PREFILL_CHUNK = 512  # positions a forward; bounds the memory that a long prompt takes


@dataclass(frozen=True, slots=True)
class DecodePlan:
    """What one decoding step of the first B rows needs to know."""

    tokens: Tensor  # (B,) int64, the last sampled token of each row
    positions: Tensor  # (B,) int64, where it goes
    index: Tensor  # (B·2G,) int64, where the new keys and values go (KVMemory.index)
    length: int  # positions to attend to, of the longest row
    visible: Tensor | None  # (B, 1, 1, length) bool; None: every row sees all of them


class RowCache(Cache):
    """Hands the model's keys and values to `KVMemory` and back; for one forward."""

    def __init__(self, kv: KVMemory, *, row: int = 0, start: int = 0, plan: DecodePlan | None = None) -> None:
        self.layers: list[Any] = []
        self._kv, self._row, self._start, self._plan = kv, row, start, plan

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Store the new positions (B, G, N, D); return all that are visible (B, G, T, D)."""
        keys, values, layer = key_states, value_states, layer_idx
        shape = self._kv.shape
        if keys.shape[1] != shape.heads or keys.shape[3] != shape.head_size or values.shape != keys.shape:
            raise EngineError(
                f"layer {layer} has keys {tuple(keys.shape)} and values {tuple(values.shape)}, where "
                f"{shape.heads} heads of {shape.head_size} were expected: this architecture needs --engine vllm."
            )
        if (plan := self._plan) is not None:
            rows = keys.shape[0]
            self._kv.write(layer, plan.index, torch.cat([keys, values], 1))  # (B, 2G, 1, D)
            first, last, length = 0, rows, plan.length
        else:
            first, last, length = self._row, self._row + 1, self._start + keys.shape[2]
            self._kv.fill(layer, self._row, self._start, keys[0], values[0])
        return self._kv.keys(layer, first, last, length), self._kv.values(layer, first, last, length)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Positions before this forward."""
        return self._start if self._plan is None else self._plan.length - 1


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention over cached positions, query (B, Q, N, D), key and value (B, G, T, D) -> (B, N, Q, D).

    The mask is boolean, True where visible. A row's position is the number of positions that it sees, so a sliding
    window needs nothing else.
    """
    if kwargs.get("s_aux") is not None:
        raise EngineError("attention sinks are not supported by the torch engine; use --engine vllm.")
    batch, heads, new, size = query.shape
    groups, length = key.shape[1], key.shape[2]
    visible = attention_mask
    if visible is not None and sliding_window is not None and length > sliding_window:
        position = visible.sum(-1, keepdim=True) - 1
        visible = visible & (torch.arange(length, device=visible.device) > position - sliding_window)
    # query heads of a group become query positions: the keys are not repeated
    query = query.reshape(batch, groups, heads // groups * new, size)  # head-major, so g·N + n
    if visible is not None and new > 1:
        visible = visible.repeat(1, 1, heads // groups, 1)
    if softcap is None:
        out = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=visible, scale=scaling)
    else:
        out = _softcapped(query, key, value, visible, scaling or size**-0.5, softcap)
    return out.reshape(batch, heads, new, size).transpose(1, 2), None


def _softcapped(
    query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None, scaling: float, softcap: float
) -> Tensor:
    """softmax(c · tanh(q·k / c)) · v (Gemma 2)."""
    scores = torch.tanh(query @ key.transpose(2, 3) * scaling / softcap) * softcap
    if visible is not None:
        scores = scores.masked_fill(~visible, -torch.inf)
    return scores.softmax(-1, dtype=torch.float32).to(value.dtype) @ value


def decoder_layers(model: PreTrainedModel) -> Any:
    """The decoder layers of a causal LM (an `nn.ModuleList`, typed by the architecture), or a clear error."""
    layers = getattr(model.get_decoder(), "layers", None)
    if not isinstance(layers, nn.ModuleList) or len(layers) == 0:
        raise EngineError(f"{type(model).__name__} has no list of decoder layers; the engine can't read a feature.")
    return layers


def kv_shape(model: PreTrainedModel) -> KVShape:
    """The shape of the model's keys and values, from its config."""
    config = model.config.get_text_config()
    heads = int(config.num_attention_heads)
    return KVShape(
        layers=len(decoder_layers(model)),
        heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head_size=int(getattr(config, "head_dim", None) or config.hidden_size // heads),
        dtype=model.dtype,
        device=model.device,
    )


class HFBackbone:
    """Runs a Hugging Face model and catches the hidden state that the head reads.

    `layer` counts as in `hidden_states`: -2 is the state that enters the last decoder layer, -1 what leaves the final
    norm (design, section 1).
    """

    def __init__(self, model: PreTrainedModel, layer: int = -2) -> None:
        AttentionInterface.register(ATTENTION, attention)
        self.model = model.eval()
        model.set_attn_implementation(ATTENTION)
        self.shape = kv_shape(model)
        index = layer if layer >= 0 else self.shape.layers + 1 + layer
        if not 0 <= index <= self.shape.layers:
            raise EngineError(f"layer {layer} does not exist: the model has {self.shape.layers} decoder layers.")
        self.feature_layer = index

    @contextmanager
    def _feature(self) -> Iterator[list[Tensor]]:
        """Catch the feature (B, N, H) of the forward inside."""
        caught: list[Tensor] = []
        if self.feature_layer < self.shape.layers:
            module = decoder_layers(self.model)[self.feature_layer]

            def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                caught.append(args[0] if args else kwargs["hidden_states"])

            hook = module.register_forward_pre_hook(before, with_kwargs=True)
        else:

            def after(_: nn.Module, __: Any, output: Any) -> None:
                caught.append(output.last_hidden_state)

            hook = self.model.get_decoder().register_forward_hook(after)
        try:
            yield caught
        finally:
            hook.remove()

    def prefill(
        self, ids: Sequence[int], kv: KVMemory, row: int, start: int = 0, features_at: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Write the keys and values of `ids` into a row from position `start` on.

        Returns the logits of the last position (V,) and the features (n, H) at `features_at`, indices into `ids`;
        by default those of the last position alone.
        """
        device = self.model.device
        wanted = [len(ids) - 1] if features_at is None else list(features_at)
        features: list[Tensor] = []
        logits = torch.empty(0)
        for begin in range(0, len(ids), PREFILL_CHUNK):
            chunk = torch.tensor([list(ids[begin : begin + PREFILL_CHUNK])], device=device)  # (1, N)
            new, past = chunk.shape[1], start + begin
            positions = torch.arange(past, past + new, device=device)
            # (1, 1, N, T): position p sees 0..p
            visible = torch.arange(past + new, device=device) <= positions.view(1, 1, new, 1)
            with self._feature() as caught:
                out = self.model(
                    input_ids=chunk,
                    attention_mask=visible,
                    position_ids=positions.unsqueeze(0),
                    past_key_values=RowCache(kv, row=row, start=past),
                    use_cache=True,
                    logits_to_keep=1,
                )
            here = [p - begin for p in wanted if begin <= p < begin + new]
            if here:
                features.append(caught[0][0, here])
            logits = out.logits[0, -1]
        width = self.model.get_input_embeddings().weight.shape[1]
        return logits, torch.cat(features) if features else logits.new_empty(0, width)

    def decode(self, plan: DecodePlan, kv: KVMemory) -> tuple[Tensor, Tensor]:
        """One token for each of the first B rows: logits (B, V) and features (B, H)."""
        visible = plan.visible
        if visible is None:
            visible = torch.ones((plan.tokens.shape[0], 1, 1, plan.length), dtype=torch.bool, device=plan.tokens.device)
        with self._feature() as caught:
            out = self.model(
                input_ids=plan.tokens.unsqueeze(1),
                attention_mask=visible,
                position_ids=plan.positions.unsqueeze(1),
                past_key_values=RowCache(kv, plan=plan),
                use_cache=True,
                logits_to_keep=1,
            )
        return out.logits[:, -1], caught[0][:, -1]
