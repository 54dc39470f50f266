"""The compiled library: the structs that it reads, and whether it is there.

Letters: C columns, H hidden size, R rows of the memory, T positions, V vocabulary.
"""

from __future__ import annotations

import ctypes
import importlib.util
from ctypes import POINTER, c_float, c_int32, c_int64, c_void_p
from functools import cache

PANEL = 16  # columns that lie side by side
CHUNK = 128  # tokens of the vocabulary that are summed together
MAX_HEAD_SIZE = 256
HEAD_SIZE_MULTIPLE = 16  # two registers of eight numbers
VECTORS = ("input_norm", "qkv_bias", "qk_norm", "post_norm")  # of LayerWeights
MATRICES = ("qkv", "out", "gate_up", "down")  # of LayerWeights
KINDS = {"dense": 0}


class MatrixPointer(ctypes.Structure):
    """A `Matrix`; null where a layer has no such weights."""

    _fields_ = [("data", c_void_p), ("scale", c_void_p), ("kind", c_int32), ("rows", c_int32), ("columns", c_int32)]


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
        *(
            (name, c_int32)
            for name in ("layers", "hidden", "inner", "queries", "groups", "size", "vocabulary", "feature_layer")
        ),
        ("eps", c_float),
    ]


class Memory(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("data", "cosine", "sine")),
        ("rows", c_int64),
        ("length", c_int64),
    ]


class Columns(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("tokens", "rows", "positions", "common_rows", "common")),
        *((name, c_int32) for name in ("count", "shared_rows", "logits_from")),
    ]


WORK = ("x", "qkv", "attended", "inner", "logits", "features", "normed", "scores", "peaks", "weights", "plain")


class Work(ctypes.Structure):
    _fields_ = [*((name, c_void_p) for name in WORK), ("normed_size", c_int64), ("threads", c_int32)]


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
