"""A digest of a model's weights and configuration, by which files say what they belong to."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def weights_digest(*modules: nn.Module | None) -> str:
    """Of every weight, and of the configuration where a module has one: the same name may stand for another model."""
    digest = hashlib.sha256()
    for module in modules:
        if (config := getattr(module, "config", None)) is not None:  # rotary bases and the like, which no weight shows
            digest.update(config.to_json_string().encode())
        for name, tensor in {} if module is None else module.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
