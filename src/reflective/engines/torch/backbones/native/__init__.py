"""A decoding step as one call of compiled code, for CPUs: `decode.c` beside this file.

The model is the common one (`fused.py`), in float32. With few rows the operators of a framework cost more to start than
to run; the compiled step starts its threads once. It is built when the package is installed, where there is a C
compiler; without one the engine decodes through `fused.py`, slower and with the same results.

Letters: B rows, C columns, H hidden size, Q query heads, G KV heads, D head size, I intermediate size, T positions,
V vocabulary.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Sequence
from ctypes import POINTER, addressof, byref, c_double, c_float, c_int32, c_int64, c_void_p
from functools import cache
from typing import TYPE_CHECKING, Any
from weakref import ref

import torch
from torch import Tensor
from transformers import PreTrainedModel

from reflective.engines.torch.backbones.fused import FusedBackbone, can_fuse
from reflective.engines.torch.backbones.hf import DecodePlan
from reflective.engines.torch.kv import KVMemory
from reflective.engines.torch.sampling import SamplingRows
from reflective.judge.heads.paper import SPRMHead

PANEL = 16  # columns that lie side by side
CHUNK = 128  # tokens of the vocabulary that are summed together
MAX_HEAD_SIZE = 256
PREFILL_COLUMNS = 64  # positions of a prompt in one pass: what the second-level cache holds
HEAD_SIZE_MULTIPLE = 16  # two registers of eight numbers
WEIGHTS = ("input_norm", "qkv", "qkv_bias", "qk_norm", "out", "post_norm", "gate_up", "down")  # of a FusedLayer


class _Layer(ctypes.Structure):
    _fields_ = [(name, c_void_p) for name in WEIGHTS]


if TYPE_CHECKING:
    _Integers = ctypes.Array[c_int64]


class _Model(ctypes.Structure):
    _fields_ = [
        ("layer", POINTER(_Layer)),
        *((name, c_void_p) for name in ("embedding", "final_norm", "lm_head")),
        *(
            (name, c_int32)
            for name in ("layers", "hidden", "inner", "queries", "groups", "size", "vocabulary", "feature_layer")
        ),
        ("eps", c_float),
    ]


class _Memory(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("data", "cosine", "sine")),
        ("rows", c_int64),
        ("length", c_int64),
    ]


class _Columns(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("tokens", "rows", "positions", "common_rows", "common")),
        *((name, c_int32) for name in ("count", "shared_rows", "logits_from")),
    ]


WORK = ("x", "qkv", "attended", "inner", "logits", "features", "normed", "scores", "peaks", "weights", "plain")


class _Work(ctypes.Structure):
    _fields_ = [*((name, c_void_p) for name in WORK), ("normed_size", c_int64), ("threads", c_int32)]


class _Draw(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("uniform", "inverse_temperature", "greedy", "tokens", "logprobs", "places")),
        ("tempered", c_int32),
    ]


class _Head(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("w1", "b1", "w2")),
        ("b2", c_float),
        ("hidden", c_int32),
        ("inner", c_int32),
    ]


# as decode.c has it; a library that was built from another one is not used
LAYOUT = [PANEL, CHUNK, MAX_HEAD_SIZE, *map(ctypes.sizeof, (_Layer, _Model, _Memory, _Columns, _Work, _Draw, _Head))]


@cache
def library() -> ctypes.CDLL | None:
    """The compiled step, or None where it was not built, or from other sources."""
    spec = importlib.util.find_spec(f"{__name__}._decode")
    if spec is None or spec.origin is None:
        return None
    try:
        found = ctypes.CDLL(spec.origin)
        found.reflective_layout.restype = POINTER(c_int32)
        layout = found.reflective_layout()
        if [number for number, _ in zip(layout, LAYOUT)] != LAYOUT or layout[len(LAYOUT)]:
            return None
    except (OSError, AttributeError):
        return None
    found.reflective_forward.restype = None
    found.reflective_forward.argtypes = [c_void_p] * 5
    found.reflective_head.restype = None
    found.reflective_head.argtypes = [
        *[c_void_p] * 3, c_int32, c_void_p, c_void_p, c_int32,
    ]  # fmt: skip
    return found


def can_run_native(model: PreTrainedModel) -> bool:
    """Whether the compiled step is there and knows the model: float32 on a CPU, in the shape of `can_fuse`."""
    plain = all(p.dtype == torch.float32 and p.device.type == "cpu" for p in model.parameters())
    if not plain or not can_fuse(model) or library() is None:
        return False
    config = model.config.get_text_config()
    size = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    return size <= MAX_HEAD_SIZE and size % HEAD_SIZE_MULTIPLE == 0


class NativeBackbone(FusedBackbone):
    """Prefills and decodes by `decode.c`, and draws where no row asks for more than a temperature."""

    def __init__(self, model: PreTrainedModel, layer: int = -2) -> None:
        super().__init__(model, layer)
        found = library()
        assert found is not None, "can_run_native was not asked"
        self._library = found
        # tensors whose memory the structs point into
        self._held: list[Tensor] = []
        layers = (_Layer * self.shape.layers)(*[self._layer(layer) for layer in self._layers])
        self._hidden, self._vocabulary = self._embedding.shape[1], self._lm_head.shape[0]
        self._model = _Model(
            layers,
            self._point(self._embedding),
            self._point(self._final_norm),
            self._point(self._lm_head),
            self.shape.layers,
            self._hidden,
            self._intermediate,
            self._query_heads,
            self.shape.heads,
            self.shape.head_size,
            self._vocabulary,
            self.feature_layer,
            float(self._eps),
        )
        self._buffers: dict[str, Tensor] = {}
        self._work = _Work()
        self._memory = _Memory()
        self._memory_of: ref[KVMemory] | None = None
        self._prepared = (0, 0, 0, 0)
        self._head = _Head()
        self._head_of: SPRMHead | None = None  # the head that was used last
        self._parts = torch.empty(0)
        self._inverse_of: SamplingRows | None = None
        self._inverse = torch.empty(0)  # 1 / temperature of each column, of `_inverse_of`

    def _point(self, tensor: Tensor | None) -> int | None:
        if tensor is None:
            return None
        tensor = tensor.contiguous()
        self._held.append(tensor)
        return tensor.data_ptr()

    def _layer(self, layer: Any) -> _Layer:
        return _Layer(*(self._point(getattr(layer, name)) for name in WEIGHTS))

    def refresh(self) -> None:
        """As `FusedBackbone.refresh`; of the head, the bias is held by value."""
        super().refresh()
        self._head_of = None

    # ---- memory

    def _prepare(self, kv: KVMemory, columns: int, logits: int) -> None:
        """Point at the KV memory, and make room for so many columns, with logits for so many of them."""
        if self._memory_of is None or self._memory_of() is not kv:
            cosine, sine = self._angles(kv)
            self._memory = _Memory(kv.data.data_ptr(), cosine.data_ptr(), sine.data_ptr(), kv.rows, kv.length)
            self._memory_of = ref(kv)
        inner, drawn, threads = -(-columns // PANEL) * PANEL, -(-logits // PANEL) * PANEL, torch.get_num_threads()
        if self._prepared == (inner, drawn, threads, kv.length):
            return
        chunks = -(-self._vocabulary // CHUNK)
        heads = self._query_heads * self.shape.head_size
        room = {
            "x": inner * self._hidden,
            "qkv": inner * (heads + 2 * self.shape.heads * self.shape.head_size),
            "attended": inner * heads,
            "inner": inner * self._intermediate,
            "logits": drawn * self._vocabulary,
            "features": inner * self._hidden,
            "normed": threads * inner * self._hidden,
            "scores": threads * kv.length,
            "peaks": drawn * chunks,
            "weights": drawn * chunks,
            "plain": drawn * chunks,
        }
        for name, size in room.items():
            held = self._buffers.get(name)
            if held is None or held.numel() < size:
                self._buffers[name] = held = torch.zeros(size)
                setattr(self._work, name, held.data_ptr())
        self._work.normed_size = inner * self._hidden
        self._work.threads = threads
        self._prepared = (inner, drawn, threads, kv.length)

    def _run(self, columns: _Columns, draw: _Draw | None = None) -> None:
        self._library.reflective_forward(
            byref(self._model),
            byref(self._memory),
            byref(columns),
            byref(self._work),
            None if draw is None else byref(draw),
        )

    # ---- the three ways to use it

    def prefill(self, ids: Sequence[int], kv: KVMemory, row: int) -> tuple[Tensor, Tensor]:
        """Write the keys and values of `ids` into a row; returns logits (V,) and feature (H,) of the last position."""
        for begin in range(0, len(ids), PREFILL_COLUMNS):
            chunk = ids[begin : begin + PREFILL_COLUMNS]
            count, last = len(chunk), begin + PREFILL_COLUMNS >= len(ids)
            panels = -(-count // PANEL)
            self._prepare(kv, count, PANEL)
            tokens, rows, positions = _integers(chunk), _integers([row] * count), _integers(range(begin, begin + count))
            wanted = panels - 1 if last else panels
            self._run(_columns(tokens, rows, positions, shared_rows=True, logits_from=wanted))
        logits = self._buffers["logits"][: self._vocabulary * PANEL].view(self._vocabulary, PANEL)
        features = self._buffers["features"][: count * self._hidden].view(count, self._hidden)
        return logits[:, (count - 1) % PANEL].clone(), features[-1].clone()

    def decode(self, plan: DecodePlan, kv: KVMemory) -> tuple[Tensor, Tensor]:
        """One token for each of the first B rows: logits (B, V) and features (B, H), valid until the next pass."""
        count = len(plan.tokens)
        self._prepare(kv, count, count)
        tokens, rows, positions = _integers(plan.tokens), _integers(range(count)), _integers(plan.positions)
        common = _common(plan)  # held here: the struct only points
        self._run(_columns(tokens, rows, positions, *common))
        panels = -(-count // PANEL)
        logits = self._buffers["logits"][: panels * PANEL * self._vocabulary].view(panels, self._vocabulary, PANEL)
        return logits.transpose(1, 2).reshape(-1, self._vocabulary)[:count], self._caught(count)

    def write(
        self, plan: DecodePlan, kv: KVMemory, settings: SamplingRows, uniform: Tensor, seen: Tensor | None
    ) -> tuple[list[int], list[float], Tensor]:
        """As `HFBackbone.write`; in one pass, unless a row asks for more than a temperature."""
        if settings.filtered or settings.penalized:
            return super().write(plan, kv, settings, uniform, seen)
        count, stride = len(plan.tokens), uniform.stride(0)
        self._prepare(kv, count, count)
        tokens, rows, positions = _integers(plan.tokens), _integers(range(count)), _integers(plan.positions)
        places = _integers([row * stride + position + 1 for row, position in enumerate(plan.positions)])
        if self._inverse_of is not settings:
            self._inverse = torch.ones(-(-count // PANEL) * PANEL)
            torch.reciprocal(settings.temperature.squeeze(1), out=self._inverse[:count])
            self._inverse_of = settings
        drawn, logprobs = (c_int64 * count)(), (c_double * count)()
        draw = _Draw(
            uniform.data_ptr(),
            self._inverse.data_ptr(),
            settings.greedy.data_ptr(),
            addressof(drawn),
            addressof(logprobs),
            addressof(places),
            settings.tempered,
        )
        common = _common(plan)  # held here: the struct only points
        self._run(_columns(tokens, rows, positions, *common), draw)
        return list(drawn), list(logprobs), self._caught(count)

    def score(self, head: SPRMHead, features: Tensor, rows: Sequence[int]) -> list[float]:
        """As `HFBackbone.score`."""
        if self._head_of is not head:
            weights = (head.hidden.weight, head.hidden.bias, head.output.weight, head.output.bias)
            if any(w.dtype != torch.float32 or w.device.type != "cpu" or not w.is_contiguous() for w in weights):
                return super().score(head, features, rows)
            pointers = [w.data_ptr() for w in weights[:3]]
            self._head = _Head(*pointers, weights[3].item(), head.hidden_size, head.hidden.out_features)
            self._head_of = head
        count, features = len(rows), features.contiguous()  # a prompt's feature is one row, seen as several
        if self._parts.numel() < count * self._head.inner:
            self._parts = torch.empty(count * self._head.inner)
        chosen, logits = _integers(rows), (c_double * count)()
        self._library.reflective_head(
            byref(self._head),
            features.data_ptr(),
            addressof(chosen),
            count,
            self._parts.data_ptr(),
            addressof(logits),
            self._work.threads,
        )
        return list(logits)

    def _caught(self, count: int) -> Tensor:
        return self._buffers["features"][: count * self._hidden].view(count, self._hidden)


def _integers(values: Sequence[int]) -> _Integers:
    return (c_int64 * len(values))(*values)


def _common(plan: DecodePlan) -> tuple[_Integers, _Integers] | tuple[None, None]:
    if not plan.common:
        return None, None
    return _integers([row for row, _ in plan.common]), _integers([length for _, length in plan.common])


def _columns(
    tokens: _Integers,
    rows: _Integers,
    positions: _Integers,
    common_rows: _Integers | None = None,
    common: _Integers | None = None,
    *,
    shared_rows: bool = False,
    logits_from: int = 0,
) -> _Columns:
    """Points at the arrays, which must outlive it."""
    arrays = (tokens, rows, positions, common_rows, common)
    pointers = [addressof(array) if array is not None else None for array in arrays]
    return _Columns(*pointers, len(tokens), shared_rows, logits_from)
