"""Models to start from: a new one of any Hugging Face architecture, or one from a folder; always float32 weights."""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from reflective.errors import CheckpointError, InputError, first_line
from reflective.train.sft.tokenizer import padded_vocab_size

# Linear layers whose output is added to the residual stream, by their names in the common architectures.
RESIDUAL_PROJECTIONS = ("o_proj", "down_proj", "c_proj", "out_proj", "dense_4h_to_h", "fc2")


def new_model(architecture: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    """A model of random weights; `architecture` holds `model_type` and that configuration's own keys."""
    values = dict(architecture)
    try:
        model_type = values.pop("model_type")
        config = AutoConfig.for_model(model_type, **values)
    except (KeyError, ValueError) as error:
        raise InputError(f"[architecture] needs a `model_type` that transformers knows, got {architecture}.") from error
    unknown = sorted(key for key in values if key not in type(config)().to_dict() and not hasattr(type(config)(), key))
    if unknown:
        raise InputError(f"a {model_type} configuration has no {', '.join(map(repr, unknown))}.")
    config.vocab_size = padded_vocab_size(len(tokenizer))
    config.eos_token_id, config.pad_token_id, config.bos_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id, None
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    _scale_residual_projections(model, config.num_hidden_layers)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True
    )
    return model


@torch.no_grad()
def _scale_residual_projections(model: nn.Module, layers: int) -> None:
    """Two projections per layer write into the stream: 1/√(2·layers) keeps its variance that of one (GPT-2)."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name.rsplit(".", 1)[-1] in RESIDUAL_PROJECTIONS:
            module.weight.mul_(1 / math.sqrt(2 * layers))


def load_model(folder: str | Path) -> PreTrainedModel:
    """The model in a folder (or on the hub), in float32 whatever it was saved in."""
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"can't load a model from {str(folder)!r}: {error}") from error
    return model


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder (or on the hub)."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        if not Path(folder).is_dir():
            raise InputError(
                f"no tokenizer: '{folder}' is no folder here, and the hub has none of that name or can't be reached. "
                "Make one with build_tokenizer, or name another folder."
            ) from error
        raise CheckpointError(f"can't load a tokenizer from {str(folder)!r}: {first_line(error)}.") from error
    return tokenizer


def keep_freed_memory() -> None:
    """Lets the C library keep large blocks instead of giving them back to the system after every operation.

    Otherwise each activation on a CPU is paid with page faults that cost more than the arithmetic on it. Linux, glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    mmap_max, trim_threshold, top_pad = -4, -1, -2  # malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(top_pad, 256 * 2**20)
