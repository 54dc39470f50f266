"""Any Hugging Face causal LM over our KV memory: its own forward, our cache, our attention.

The way for every architecture that has decoder layers and calls attention through the attention interface of
`transformers`. Architectures of the most common shape decode faster (`fused.py`, `native/`).

Letters: B rows, Q query heads, G KV heads, D head size, T positions, N new positions, H hidden size, F numbers of the
features (H a layer), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, Cache, PreTrainedModel
from transformers.masking_utils import sdpa_mask

from reflective.engines.torch.backbones.base import DecodePlan, PlanTensors, draw_next, head_logits
from reflective.engines.torch.kv import KVMemory, KVShape
from reflective.engines.torch.sampling import SamplingRows
from reflective.errors import EngineError
from reflective.judge.heads import StepHead

ATTENTION = "reflective"
PREFILL_CHUNK = 512  # positions a forward; bounds the memory that a long prompt takes


class RowCache(Cache):
    """Hands the model's keys and values to `KVMemory` and back; for one forward."""

    def __init__(self, kv: KVMemory, *, row: int = 0, start: int = 0, plan: PlanTensors | None = None) -> None:
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
                f"{shape.heads} heads of {shape.head_size} were expected: this architecture needs the engine vllm."
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

    The mask is boolean, True where visible. In ours a row's position is the number of positions that it sees, so a
    sliding window needs nothing else. A mask by `transformers` has its window cut out already, and stays as it is.
    """
    if kwargs.get("s_aux") is not None:
        raise EngineError("attention sinks are not supported by the torch engine; use the engine vllm.")
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


def mask(*args: Any, **kwargs: Any) -> Any:
    """The mask where a caller's forward brings none of ours, so that the model works as before outside the engine."""
    return sdpa_mask(*args, **{**kwargs, "allow_is_causal_skip": False})


def _softcapped(
    query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None, scaling: float, softcap: float
) -> Tensor:
    """softmax(c · tanh(q·k / c)) · v (Gemma 2)."""
    scores = torch.tanh(query @ key.transpose(2, 3) * scaling / softcap) * softcap
    if visible is not None:
        scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)  # finite, for padding that sees nothing
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
    if not (heads := int(getattr(config, "num_attention_heads", None) or 0)):
        raise EngineError(f"{type(model).__name__} has no attention heads; use another engine (vllm).")
    return KVShape(
        layers=len(decoder_layers(model)),
        heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head_size=int(getattr(config, "head_dim", None) or config.hidden_size // heads),
        dtype=model.dtype,
        device=model.device,
    )


def feature_layer(layer: int, layers: int) -> int:
    """The decoder layer whose input is the feature; `layers` for what leaves the final norm.

    `layer` counts as in `hidden_states`: -2 is the state that enters the last decoder layer, -1 what leaves the final
    norm (design, section 1).
    """
    index = layer if layer >= 0 else layers + 1 + layer
    if not 0 <= index <= layers:
        raise EngineError(f"layer {layer} does not exist: the model has {layers} decoder layers.")
    return index


class HFBackbone:
    """A `Backbone` that runs the Hugging Face model and catches the hidden states that heads read."""

    def __init__(self, model: PreTrainedModel, layer: int = -2, further: Sequence[int] = ()) -> None:
        AttentionInterface.register(ATTENTION, attention)
        AttentionMaskInterface.register(ATTENTION, mask)
        self.model = model.eval()
        model.set_attn_implementation(ATTENTION)
        if model.config.get_text_config()._attn_implementation != ATTENTION:
            raise EngineError(
                f"{type(model).__name__} does not let its attention be replaced; use another engine (vllm)."
            )
        self.shape = kv_shape(model)
        self.feature_layers = tuple(feature_layer(each, self.shape.layers) for each in (layer, *further))

    def refresh(self) -> None:
        """See `Backbone.refresh`; here every pass reads the model's own weights."""

    @contextmanager
    def _feature(self) -> Iterator[Callable[[], Tensor]]:
        """Catch the features (B, N, F) of the forward inside; the result gives them behind it."""
        caught: dict[int, Tensor] = {}
        with ExitStack() as hooks:
            for layer in self.feature_layers:
                hooks.callback(self._hook(layer, caught).remove)
            yield lambda: torch.cat([caught[layer] for layer in self.feature_layers], -1)

    def _hook(self, layer: int, caught: dict[int, Tensor]) -> Any:
        if layer == self.shape.layers:

            def after(_: nn.Module, __: Any, output: Any) -> None:
                caught[layer] = output.last_hidden_state

            return self.model.get_decoder().register_forward_hook(after)

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            caught[layer] = args[0] if args else kwargs["hidden_states"]

        return decoder_layers(self.model)[layer].register_forward_pre_hook(before, with_kwargs=True)

    def prefill(self, ids: Sequence[int], kv: KVMemory, row: int, start: int = 0) -> tuple[Tensor, Tensor]:
        """See `Backbone.prefill`."""
        for begin in range(start, len(ids), PREFILL_CHUNK):
            logits, features = self._chunk(ids, begin, kv, row, keep=1)
        return logits[-1], features[-1].clone()  # which may be kept: without the rest of the chunk

    def read(
        self, ids: Sequence[int], kv: KVMemory, features_at: Sequence[int], *, start: int = 0, logprobs: bool = False
    ) -> tuple[Tensor, list[float]]:
        """See `Backbone.read`."""
        features: list[Tensor] = []
        found: list[float] = []
        for begin in range(start, len(ids), PREFILL_CHUNK):
            logits, hidden = self._chunk(ids, begin, kv, 0, keep=0 if logprobs else 1)
            here = [p - begin for p in features_at if begin <= p < begin + len(hidden)]
            features.append(hidden[here])
            if logprobs:
                following = torch.tensor(ids[begin + 1 : begin + 1 + len(hidden)], device=logits.device)  # (M,)
                logits = logits[: len(following)].float()  # (M, V); after the last of all ids nothing follows
                chosen = logits.gather(1, following.unsqueeze(1)).squeeze(1)
                found += (chosen - logits.logsumexp(-1)).tolist()
        return torch.cat(features), found

    def _chunk(self, ids: Sequence[int], begin: int, kv: KVMemory, row: int, keep: int) -> tuple[Tensor, Tensor]:
        """One forward over N positions from `begin` on: the last `keep` logits (0: all) and features (N, F)."""
        device = self.model.device
        chunk = torch.tensor([list(ids[begin : begin + PREFILL_CHUNK])], device=device)  # (1, N)
        new = chunk.shape[1]
        positions = torch.arange(begin, begin + new, device=device)
        # (1, 1, N, T): position p sees 0..p
        visible = torch.arange(begin + new, device=device) <= positions.view(1, 1, new, 1)
        with self._feature() as caught:
            out = self.model(
                input_ids=chunk,
                attention_mask=visible,
                position_ids=positions.unsqueeze(0),
                past_key_values=RowCache(kv, row=row, start=begin),
                use_cache=True,
                logits_to_keep=keep,
            )
        return out.logits[0], caught()[0]

    def decode(self, plan: DecodePlan, kv: KVMemory) -> tuple[Tensor, Tensor]:
        """See `Backbone.decode`."""
        step = plan.tensors(kv)
        visible = step.visible
        if visible is None:
            visible = torch.ones((step.tokens.shape[0], 1, 1, step.length), dtype=torch.bool, device=step.tokens.device)
        with self._feature() as caught:
            out = self.model(
                input_ids=step.tokens.unsqueeze(1),
                attention_mask=visible,
                position_ids=step.positions.unsqueeze(1),
                past_key_values=RowCache(kv, plan=step),
                use_cache=True,
                logits_to_keep=1,
            )
        return out.logits[:, -1], caught()[:, -1]

    def write(
        self, plan: DecodePlan, kv: KVMemory, settings: SamplingRows, uniform: Tensor, seen: Tensor | None
    ) -> tuple[list[int], list[float], Tensor]:
        """See `Backbone.write`."""
        logits, features = self.decode(plan, kv)
        return *draw_next(logits, plan, settings, uniform, seen), features

    def score(self, head: StepHead, features: Tensor, rows: Sequence[int]) -> list[float]:
        """See `Backbone.score`."""
        return head_logits(head, features, rows)
