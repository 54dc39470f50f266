"""Ways to run a model in the embedded engine, and the choice between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from reflective.engines.torch.backbones import decoder, native
from reflective.engines.torch.backbones.base import Backbone
from reflective.engines.torch.backbones.fused import FusedBackbone
from reflective.engines.torch.backbones.hf import HFBackbone, feature_layer, kv_shape
from reflective.engines.torch.backbones.native.packing import packed_decoder, packed_name
from reflective.models.stored import StoredWeights

__all__ = ["Backbone", "choose", "packed_name", "packed_obstacle"]


def choose(
    model: Any,
    layer: int = -2,
    *,
    further: Sequence[int] = (),
    weights: StoredWeights | None = None,
    fuse: bool = True,
    compiled: bool = True,
) -> tuple[Backbone, str]:
    """The fastest way to run the model, of those that are allowed, and why a faster one is closed ("" where none is).

    `layer` is that of the feature, as in `hidden_states`; those of `further` layers come behind it. With `weights` the
    model is a form without memory, and they are packed for the compiled step; ask `packed_obstacle` first.
    """
    if weights is not None:
        packed = packed_decoder(model, weights)
        found = tuple(feature_layer(each, packed.shape.layers) for each in (layer, *further))
        return native.NativeBackbone(packed, found), ""
    reader = HFBackbone(model, layer, further)
    if not fuse:
        return reader, ""
    if reason := decoder.obstacle(model):
        return reader, f"decoding goes through the model's own modules, several times slower: {reason}."
    dense = decoder.Decoder.of(model)
    if not compiled or model.device.type != "cpu":
        return FusedBackbone(reader, dense), ""
    if reason := native.obstacle(dense.shape):
        return FusedBackbone(reader, dense), f"decoding runs two to three times slower than it could: {reason}."
    return native.NativeBackbone(dense, reader.feature_layers, reader), ""


def packed_obstacle(model: Any) -> str | None:
    """Why the weights of this model, a form without memory, can't be packed for the compiled step; None: they can."""
    shape = replace(kv_shape(model), dtype=torch.float32, device=torch.device("cpu"))
    return decoder.obstacle(model) or native.obstacle(shape)
