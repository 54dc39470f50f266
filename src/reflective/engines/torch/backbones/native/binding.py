"""The compiled library: the structs that it reads, and whether it is there.

Letters: C columns, H hidden size, R rows of the memory, T positions, V vocabulary.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Mapping
from ctypes import POINTER, c_float, c_int32, c_int64, c_void_p
from functools import cache

from reflective.engines.torch.matrix import Kind, Matrix

PANEL = 16  # columns that lie side by side
CHUNK = 128  # tokens of the vocabulary that are summed together
MAX_HEAD_SIZE = 256
MAX_BLOCK, MIN_BLOCK = 64, 32  # columns of a row that share a scale, of int8 and of int4
HEAD_SIZE_MULTIPLE = 16  # two registers of eight numbers
VECTORS = ("input_norm", "qkv_bias", "qk_norm", "post_norm")  # of LayerWeights
MATRICES = ("qkv", "out", "gate_up", "down")  # of LayerWeights
KINDS: Mapping[Kind, int] = {"dense": 0, "bfloat16": 1, "int8": 2, "int7": 3, "int4": 4}  # as decode.c numbers them


class MatrixPointer(ctypes.Structure):
    """A `Matrix`, whose memory must outlive it."""

    _fields_ = [("data", c_void_p), ("scale", c_void_p), ("kind", c_int32), ("rows", c_int32), ("columns", c_int32)]

    @classmethod
    def of(cls, matrix: Matrix) -> MatrixPointer:
        """Points at its memory."""
        scale = None if matrix.scale is None else matrix.scale.data_ptr()
        return cls(matrix.data.data_ptr(), scale, KINDS[matrix.kind], *matrix.shape)


def packed_kind(kind: Kind) -> Kind:
    """The kind that weights are packed in here: int7 for int8 where VNNI is missing."""
    found = library()
    assert found is not None, "obstacle() was not asked"
    return "int7" if kind == "int8" and found.reflective_int8_kind() == KINDS["int7"] else kind


class Layer(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in VECTORS),
        *((name, MatrixPointer) for name in MATRICES),
    ]


class Model(ctypes.Structure):
    _fields_ = [
        ("layer", POINTER(Layer)),
        ("final_norm", c_void_p),
        ("embedding", MatrixPointer),
        ("lm_head", MatrixPointer),
        ("feature_layers", c_void_p),
        *(
            (name, c_int32)
            for name in ("layers", "hidden", "inner", "queries", "groups", "size", "vocabulary", "features")
        ),
        ("eps", c_float),
    ]


class Memory(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("data", "cosine", "sine")),
        ("rows", c_int64),
        ("length", c_int64),
        ("half", c_int32),
    ]


class Columns(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("tokens", "rows", "positions", "common_rows", "common")),
        *((name, c_int32) for name in ("count", "shared_rows", "logits_from")),
    ]


PREPARED = ("codes", "code_scales", "code_offsets")
WORK = (
    *("x", "qkv", "attended", "inner", "logits", "features", "normed", "scores"),
    *("peaks", "weights", "plain", "scratch"),
)


class Prepared(ctypes.Structure):
    _fields_ = [(name, c_void_p) for name in PREPARED]


class Work(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in WORK),
        ("prepared", Prepared),
        ("normed_size", c_int64),
        ("scratch_size", c_int64),
        ("threads", c_int32),
    ]


class Draw(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("uniform", "inverse_temperature", "greedy", "tokens", "logprobs", "places")),
        ("tempered", c_int32),
    ]


class Head(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("w1", "b1", "w2")),
        ("b2", c_float),
        ("hidden", c_int32),
        ("inner", c_int32),
    ]


# as decode.c has it; a library that was built from another one is not used
LAYOUT = [
    PANEL,
    CHUNK,
    MAX_HEAD_SIZE,
    *map(ctypes.sizeof, (MatrixPointer, Layer, Model, Memory, Columns, Work, Draw, Head)),
]


@cache
def library() -> ctypes.CDLL | None:
    """The compiled step, or None where it was not built, or from other sources."""
    spec = importlib.util.find_spec(f"{__package__}._decode")
    return load(spec.origin) if spec is not None and spec.origin is not None else None


def load(path: str) -> ctypes.CDLL | None:
    """The compiled step in a file; None where it was built from other sources."""
    try:
        found = ctypes.CDLL(path)
        found.reflective_layout.restype = POINTER(c_int32)
        layout = found.reflective_layout()
        if [number for number, _ in zip(layout, LAYOUT)] != LAYOUT or layout[len(LAYOUT)]:
            return None
    except (OSError, AttributeError):
        return None
    found.reflective_pack.argtypes = [c_void_p] * 2 + [c_int32] * 4
    found.reflective_packed_size.restype = None
    found.reflective_packed_size.argtypes = [c_int32] * 3 + [c_void_p] * 2
    found.reflective_row.restype = None
    found.reflective_row.argtypes = [c_void_p, c_int64, c_void_p]
    found.reflective_product.restype = None
    found.reflective_product.argtypes = [c_void_p, c_void_p, c_int32, c_void_p, c_void_p]
    found.reflective_forward.restype = None
    found.reflective_forward.argtypes = [c_void_p] * 5
    found.reflective_head.restype = None
    found.reflective_head.argtypes = [
        *[c_void_p] * 3, c_int32, c_void_p, c_void_p, c_int32,
    ]  # fmt: skip
    return found
