"""Weights packed for the compiled step, one matrix at a time, straight from what a checkpoint stores.

Letters: M rows (outputs), K columns (inputs).
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from ctypes import byref, c_int64
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from reflective.engines.torch.backbones.decoder import Decoder, LayerWeights, head_norms
from reflective.engines.torch.backbones.hf import kv_shape
from reflective.engines.torch.backbones.native.binding import KINDS, MatrixPointer, library, packed_kind
from reflective.engines.torch.matrix import Kind, Matrix
from reflective.errors import CheckpointError, EngineError
from reflective.models.stored import StoredWeights

STRIP = 16  # rows that lie side by side
BROKEN = "{} holds NaN or infinite weights: the checkpoint is damaged."
CHUNK = 2**22  # numbers that are read and packed in one go
# Of keys and values. Beside codes, whose error is larger, half the memory costs nothing; where the weights are exact,
# so is the rest.
KV_NUMBERS: Mapping[Kind, torch.dtype] = {
    "bfloat16": torch.float32,
    "int8": torch.bfloat16,
    "int4": torch.bfloat16,
}


def pack(kind: Kind, parts: Sequence[Any], name: str = "a matrix") -> Matrix:
    """The rows of all parts (M, K) as one matrix; each part begins at a whole number of strips.

    A part is a tensor or gives some of its rows as one (`part[a:b]`; see `StoredWeights.read`).

    Raises `CheckpointError` where a weight is NaN or infinite, `EngineError` where memory is short.
    """
    found = library()
    assert found is not None, "obstacle() was not asked"
    held, columns = packed_kind(kind), parts[0].shape[1]
    padded = [-(-part.shape[0] // STRIP) * STRIP for part in parts]
    rows = sum(padded[:-1]) + parts[-1].shape[0]
    bytes_needed, scales = c_int64(), c_int64()
    found.reflective_packed_size(KINDS[held], rows, columns, byref(bytes_needed), byref(scales))
    try:
        data = _pages(bytes_needed.value)
        scale = torch.zeros(scales.value, dtype=torch.bfloat16) if scales.value else None
        matrix = Matrix(data, scale, held, (rows, columns))
        pointer = MatrixPointer.of(matrix)
        first = 0
        step = max(CHUNK // columns // STRIP, 1) * STRIP  # rows in one go: nothing is converted as a whole
        for part, room in zip(parts, padded, strict=True):
            for begin in range(0, part.shape[0], step):
                rows = part[begin : begin + step]
                source = (rows if rows.dtype == torch.bfloat16 else rows.float()).contiguous()
                half, threads = source.dtype == torch.bfloat16, torch.get_num_threads()
                place = (source.data_ptr(), half, first + begin, source.shape[0], threads)
                if found.reflective_pack(byref(pointer), *place):
                    raise CheckpointError(BROKEN.format(name))
            first += room
    except (MemoryError, OSError, RuntimeError) as error:
        raise EngineError(
            f"no memory for {name} in {kind} ({bytes_needed.value / 2**20:,.0f} MiB). Use int4 or a smaller model."
        ) from error
    return matrix


def packed_name(kind: Kind) -> str:
    """The kind, and how many bits int8 has on this processor: two machines may differ in it."""
    return "int8 (7 bits)" if packed_kind(kind) == "int7" else kind


def packed_decoder(model: PreTrainedModel, weights: StoredWeights) -> Decoder:
    """The decoder of a model without weights of its own (`models.stored`), one matrix after the other.

    Norms and biases stay float32. With int4 the LM head and the embedding are int8: they are read as codes, too, and
    an error in a logit is not averaged out by anything that follows.
    """
    config, kind = model.config.get_text_config(), weights.kind
    shape = replace(kv_shape(model), dtype=KV_NUMBERS[kind], device=torch.device("cpu"))

    def vector(name: str) -> Tensor:
        with weights.read(name) as (tensor,):
            numbers: Tensor = tensor[:].float().unsqueeze(1)
        if not numbers.isfinite().all():
            raise CheckpointError(BROKEN.format(name))
        return numbers

    def matrix(*names: str, joined: bool = False, kind: Kind = kind) -> Matrix:
        with weights.read(*names) as tensors:
            return pack(kind, [torch.cat([tensor[:] for tensor in tensors])] if joined else tensors, names[0])

    def layer(prefix: str) -> LayerWeights:
        qkv = [f"{prefix}.self_attn.{name}_proj" for name in "qkv"]
        q_norm, k_norm = (f"{prefix}.self_attn.{name}_norm.weight" for name in "qk")
        heads = int(config.num_attention_heads) + shape.heads
        return LayerWeights(
            input_norm=vector(f"{prefix}.input_layernorm.weight"),
            qkv=matrix(*(f"{name}.weight" for name in qkv), joined=True),
            qkv_bias=torch.cat([vector(f"{n}.bias") for n in qkv]) if f"{qkv[0]}.bias" in weights else None,
            qk_norm=head_norms(vector(q_norm)[:, 0], vector(k_norm)[:, 0], heads, shape) if q_norm in weights else None,
            out=matrix(f"{prefix}.self_attn.o_proj.weight"),
            post_norm=vector(f"{prefix}.post_attention_layernorm.weight"),
            gate_up=matrix(f"{prefix}.mlp.gate_proj.weight", f"{prefix}.mlp.up_proj.weight"),
            down=matrix(f"{prefix}.mlp.down_proj.weight"),
        )

    outer: Kind = "int8" if kind == "int4" else kind
    layers = [layer(f"model.layers.{index}") for index in range(shape.layers)]
    embedding = matrix("model.embed_tokens.weight", kind=outer)
    lm_head = embedding if model.config.tie_word_embeddings else matrix("lm_head.weight", kind=outer)
    rotary = type(cast(Any, model.get_decoder()).rotary_emb)(config)  # its frequencies are computed, not weights
    return Decoder(model, shape, layers, embedding, vector("model.norm.weight"), lm_head, rotary)


def unpacked(matrix: Matrix) -> Tensor:
    """The numbers of a matrix, (M, K) float32: what the products multiply with."""
    found = library()
    assert found is not None, "obstacle() was not asked"
    out = torch.empty(matrix.shape)
    pointer = MatrixPointer.of(matrix)
    for row in range(matrix.shape[0]):
        found.reflective_row(byref(pointer), row, out[row].data_ptr())
    return out


def _pages(size: int) -> Tensor:
    """Zeroed memory of its own pages, large ones where the system has them: a pass reads all of it in order."""
    pages = mmap.mmap(-1, max(size, 1))
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):
            pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(pages, dtype=torch.uint8)
