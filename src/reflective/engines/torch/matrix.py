"""A weight matrix as a decoding step reads it: its numbers, its scales and the kind of both.

The kind "dense" is a plain tensor, row after row, in whatever number type the model has. The other kinds are layouts of
the compiled step alone (`backbones/native`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Kind = Literal["dense"]


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """The matrix W of y = W · x, M rows (outputs) and K columns (inputs)."""

    data: Tensor  # dense: (M, K)
    scale: Tensor | None = None  # what each block of `data` is multiplied by; None where dense
    kind: Kind = "dense"

    @property
    def dense(self) -> Tensor:
        """The numbers as one tensor (M, K); a view of the data where the kind is dense."""
        return self.data
