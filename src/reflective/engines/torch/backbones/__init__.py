"""Ways to run a model in the embedded engine, and the choice between them."""

from __future__ import annotations

from typing import Any

from reflective.engines.torch.backbones import decoder, native
from reflective.engines.torch.backbones.base import Backbone
from reflective.engines.torch.backbones.fused import FusedBackbone
from reflective.engines.torch.backbones.hf import HFBackbone


def choose(model: Any, layer: int = -2, *, fuse: bool = True, compiled: bool = True) -> tuple[Backbone, str]:
    """The fastest way to run the model, of those that are allowed, and why a faster one is closed ("" where none is).

    `layer` is that of the feature, as in `hidden_states`.
    """
    reader = HFBackbone(model, layer)
    if not fuse:
        return reader, ""
    if reason := decoder.obstacle(model):
        return reader, f"decoding goes through the model's own modules, several times slower: {reason}."
    weights = decoder.Decoder(model)
    if not compiled or model.device.type != "cpu":
        return FusedBackbone(reader, weights), ""
    if reason := native.obstacle(weights):
        return FusedBackbone(reader, weights), f"decoding runs two to three times slower than it could: {reason}."
    return native.NativeBackbone(reader, weights), ""
