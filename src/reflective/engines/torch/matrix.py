"""A weight matrix as a decoding step reads it: its numbers, its scales and the kind of both.

The kind "dense" is a plain tensor, row after row, in whatever number type the model has. The other kinds are packed for
the compiled step (`backbones/native/pack.h`): bfloat16 unchanged, int8 and int4 as codes with a scale for each block of
64 or 32 columns of a row, and int7 in the place of int8 on processors without products for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Kind = Literal["dense", "bfloat16", "int8", "int7", "int4"]


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """The matrix W of y = W · x, M rows (outputs) and K columns (inputs)."""

    data: Tensor  # dense: (M, K); packed: bytes
    scale: Tensor | None = None  # of each block; None where the kind has none
    kind: Kind = "dense"
    shape: tuple[int, int] = (0, 0)  # (M, K)

    @staticmethod
    def of(weight: Tensor) -> Matrix:
        """A dense one, which shares the tensor's memory."""
        return Matrix(weight, shape=(weight.shape[0], weight.shape[1]))

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.data.nbytes + (self.scale.nbytes if self.scale is not None else 0)
