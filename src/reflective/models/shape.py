"""The shape of a dense decoder, from which its memory and compute are estimated before anything is loaded. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from reflective.errors import InputError, first_line

BF16: Final = 2  # bytes


@dataclass(frozen=True, slots=True)
class Shape:
    """A dense decoder with SwiGLU and grouped queries, by the entries of its config.json."""

    hidden: int
    layers: int
    inner: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    tied: bool
    qkv_bias: bool = True
    head_norms: bool = False

    @property
    def layer_parameters(self) -> int:
        """Of one decoder layer."""
        query, key = self.heads * self.head_size, self.kv_heads * self.head_size
        attention = self.hidden * (query + 2 * key) + query * self.hidden
        bias = (query + 2 * key) if self.qkv_bias else 0
        norms = 2 * self.hidden + (2 * self.head_size if self.head_norms else 0)
        return attention + bias + 3 * self.hidden * self.inner + norms

    @property
    def parameters(self) -> int:
        """Of the whole model, N."""
        tables = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return tables + self.layers * self.layer_parameters + self.hidden

    @property
    def head_parameters(self) -> int:
        """Of the score head: W1 2H × H, b1 2H, W2 2H, b2."""
        return 2 * self.hidden * self.hidden + 2 * self.hidden + 2 * self.hidden + 1

    @property
    def kv_bytes(self) -> int:
        """Keys and values of one token, in bfloat16."""
        return 2 * self.layers * self.kv_heads * self.head_size * BF16

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Shape:
        """From the entries of a config.json."""
        try:
            heads = int(config["num_attention_heads"])
            kind = str(config.get("model_type", ""))
            return cls(
                hidden=int(config["hidden_size"]),
                layers=int(config["num_hidden_layers"]),
                inner=int(config["intermediate_size"]),
                heads=heads,
                kv_heads=int(config.get("num_key_value_heads") or heads),
                head_size=int(config.get("head_dim") or config["hidden_size"] // heads),
                vocabulary=int(config["vocab_size"]),
                tied=bool(config.get("tie_word_embeddings", False)),
                qkv_bias=kind == "qwen2" or bool(config.get("attention_bias", False)),
                head_norms=kind == "qwen3",
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"the config.json is not one of a dense decoder: {error!r} is missing or odd.") from error


# Qwen2.5, the backbones of the paper's three sizes
KNOWN: Final[Mapping[str, Shape]] = {
    "1.5b": Shape(1536, 28, 8960, 12, 2, 128, 151_936, tied=True),
    "7b": Shape(3584, 28, 18_944, 28, 4, 128, 152_064, tied=False),
    "32b": Shape(5120, 64, 27_648, 40, 8, 128, 152_064, tied=False),
}


def shape_of(model: str) -> Shape:
    """The shape of "1.5b", "7b", "32b", or of a folder with a config.json."""
    if model.lower() in KNOWN:
        return KNOWN[model.lower()]
    path = Path(model) / "config.json"
    try:
        return Shape.of(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        known = ", ".join(KNOWN)
        raise InputError(
            f"{model!r} is none of {known} and no folder with a config.json ({first_line(error)})."
        ) from error
