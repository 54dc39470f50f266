"""The weights of a GGUF file as an engine packs them: straight from the file, some rows at a time.

The numbers of a few rows are undone from the file's quantisation and packed anew, so that neither the whole model nor
a whole matrix is ever held in another number type. What describes the model (config, tokenizer, and the table of
tensors, which takes long to read) is kept in a folder of the cache, without weights.

Known are the decoders that the compiled step knows; in Llama's files the rows of queries and keys are ordered for
another form of rotary embeddings, and put back.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy
import torch
from torch import Tensor

from reflective.errors import CheckpointError
from reflective.files import sampled_digest
from reflective.models.gguf import TABLE, converted
from reflective.models.stored import PackedKind, Place, StoredWeights

DECODERS: Final = frozenset({"qwen2", "qwen3", "llama", "mistral"})  # model types whose weights have the names below
REORDERED: Final = ("llama", "mistral")  # model types whose files hold the rows of queries and keys in another order
OUTER: Final = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
LAYER: Final = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


class Rows:
    """A matrix (M, K) or vector (M,) of the file, whose rows are undone when they are asked for: `rows[a:b]`."""

    def __init__(self, data: numpy.ndarray[Any, Any], type: int, shape: tuple[int, ...]) -> None:
        self._data, self._type, self.shape = data, type, shape  # data (M, bytes of a row)

    def __getitem__(self, rows: slice) -> Tensor:
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        data = numpy.ascontiguousarray(self._data[rows])
        numbers = torch.from_numpy(numpy.array(dequantize(data, GGMLQuantizationType(self._type)), dtype="float32"))
        return numbers.view(-1, *self.shape[1:])


class GGUFWeights(StoredWeights):
    """The tensors of a GGUF file by their names in transformers, and the kind that they are to be held in."""

    def __init__(self, path: Path, folder: Path, config: Any, kind: PackedKind) -> None:
        self.path, self.folder, self.kind = path, folder, kind
        self._config = config.get_text_config()
        table = json.loads((folder / TABLE).read_text(encoding="utf-8"))
        size, self._places = path.stat().st_size, {}
        for name, (type, shape, start) in table.items():
            place = Place(path, type, tuple(shape), start)
            if start + _bytes(type, place.shape) > size:
                raise CheckpointError(f"'{path}' is cut short. Copy or download it again.")
            if (ours := hugging_face_name(name)) is not None:
                self._places[ours] = place
        if config.tie_word_embeddings and "lm_head.weight" in self._places:  # the finer one of two copies
            self._places["model.embed_tokens.weight"] = self._places.pop("lm_head.weight")

    def dense_folder(self) -> Path:
        """See `StoredWeights.dense_folder`; the file is converted for it."""
        return converted(self.path)

    def digest(self, model: Any) -> str:
        """See `StoredWeights.digest`; of the file's size and samples of it."""
        text = f"{self.kind} {model.config.to_json_string()} {sampled_digest(self.path)}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _tensor(self, name: str, place: Place, pages: Any) -> Rows:
        size, count = _bytes(place.type, place.shape), place.shape[0]
        data = numpy.frombuffer(pages, numpy.uint8, count=size, offset=place.start).reshape(count, -1)
        order = self._order(name, count)
        return Rows(data if order is None else data[order], place.type, place.shape)

    def _order(self, name: str, rows: int) -> numpy.ndarray[Any, Any] | None:
        """Where each row of a matrix lies in the file; None where they are in order."""
        if self._config.model_type not in REORDERED or not any(f".{each}_proj." in name for each in "qk"):
            return None
        heads = self._config.num_attention_heads if ".q_proj." in name else self._config.num_key_value_heads
        # of a head, the file holds pairs of what is rotated together, transformers one half after the other
        return numpy.arange(rows).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)


def hugging_face_name(name: str) -> str | None:
    """What transformers calls a tensor of a GGUF file; None for one that decoders here do not have."""
    stem, _, kind = name.rpartition(".")
    theirs: Mapping[str, str] = {theirs: ours for ours, theirs in OUTER.items()}
    if stem in theirs:
        return f"{theirs[stem]}.{kind}"
    block, _, rest = stem.partition(".")
    number, _, part = rest.partition(".")
    ours = next((ours for ours, theirs in LAYER.items() if theirs == part), None)
    return f"model.layers.{number}.{ours}.{kind}" if block == "blk" and ours is not None else None


def _bytes(type: int, shape: tuple[int, ...]) -> int:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    block, size = GGML_QUANT_SIZES[GGMLQuantizationType(type)]
    return int(numpy.prod(shape)) // block * size
