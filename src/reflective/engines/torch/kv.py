"""KV memory of the running rows: allocated once, written in place, never concatenated.

Letters: L layers, R rows, T positions, G KV heads, D head size.

Running rows are always the first B of R, so that what attention reads is a view. When a row leaves, the last running
row moves into its place. Rows that leave but may be continued are parked: copied out, at their exact length.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from reflective.engines.torch.memory import untouched_zeros
from reflective.errors import EngineError


@dataclass(frozen=True, slots=True)
class KVShape:
    """What one position costs: `layers` × 2 × `heads` × `head_size` numbers of `dtype`."""

    layers: int
    heads: int
    head_size: int
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes_per_position(self) -> int:
        """Bytes that one token of one row takes."""
        return self.layers * 2 * self.heads * self.head_size * self.dtype.itemsize


class KVMemory:
    """Keys and values of all rows, `data` (L, 2, R, G, T, D); index 0 of the second axis is the keys.

    Rows and heads lie next to each other, so that attention over the first B rows is one batched matrix product
    of B·G views.
    """

    def __init__(self, shape: KVShape, rows: int, length: int) -> None:
        self.shape, self.rows, self.length = shape, rows, length
        try:
            # zeros: rows are masked beyond their length, but a weight of 0 times a NaN of old memory would be NaN
            self.data = untouched_zeros(
                (shape.layers, 2, rows, shape.heads, length, shape.head_size), shape.dtype, shape.device
            )
        except (RuntimeError, OSError, OverflowError) as error:
            need = rows * length * shape.bytes_per_position / 2**30
            raise EngineError(
                f"no memory for the keys and values of {rows} rows × {length} tokens ({need:.1f} GiB). "
                "Use a lower --max-rows or --max-tokens."
            ) from error
        self._flat = self.data.view(shape.layers, -1, shape.head_size)  # (L, 2·R·G·T, D)
        heads = torch.arange(2 * shape.heads, device=shape.device)
        # where row 0, position 0 of each key head, then of each value head lies in the flat view, (2G,)
        self._head_offset = (heads // shape.heads * rows * shape.heads + heads % shape.heads) * length

    def index(self, positions: Tensor) -> Tensor:
        """Flat places of position `positions[b]` of rows b = 0..B-1, keys then values of each row, (B·2G,)."""
        rows = torch.arange(len(positions), device=positions.device) * (self.shape.heads * self.length)
        return ((rows + positions).unsqueeze(1) + self._head_offset).flatten()

    def write(self, layer: int, index: Tensor, kv: Tensor) -> None:
        """Store keys and values `kv` (B, 2G, D) at the flat places `index` (B·2G,)."""
        self._flat[layer].index_copy_(0, index, kv.reshape(-1, self.shape.head_size))

    def fill(self, layer: int, row: int, start: int, keys: Tensor, values: Tensor) -> None:
        """Store N positions of one row, keys and values (G, N, D)."""
        stop = start + keys.shape[1]
        self.data[layer, 0, row, :, start:stop] = keys
        self.data[layer, 1, row, :, start:stop] = values

    def keys(self, layer: int, start: int, stop: int, length: int) -> Tensor:
        """Keys of rows start..stop, a view (B, G, length, D)."""
        return self.data[layer, 0, start:stop, :, :length]

    def values(self, layer: int, start: int, stop: int, length: int) -> Tensor:
        """Values of rows start..stop, a view (B, G, length, D)."""
        return self.data[layer, 1, start:stop, :, :length]

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of a row over another row."""
        self.data[:, :, target, :, :length].copy_(self.data[:, :, source, :, :length])

    def park(self, row: int, length: int) -> Tensor:
        """A copy of a row, (L, 2, G, length, D)."""
        return self.data[:, :, row, :, :length].clone()

    def restore(self, parked: Tensor, row: int, length: int | None = None) -> None:
        """Write the first `length` positions of a parked row back (None: all)."""
        length = parked.shape[3] if length is None else length
        self.data[:, :, row, :, :length].copy_(parked[:, :, :, :length])

    def take_over(self, other: KVMemory, rows: int) -> None:
        """Copy the first `rows` rows of a smaller memory."""
        self.data[:, :, :rows, :, : other.length].copy_(other.data[:, :, :rows])


@dataclass(frozen=True, slots=True)
class Parked:
    """What is kept of a row that left: its keys and values and, for a shared prompt, what its last position gave."""

    kv: Tensor  # (L, 2, G, T, D)
    logits: Tensor | None = None  # (V,)
    feature: Tensor | None = None  # (H,)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(t.numel() * t.element_size() for t in (self.kv, self.logits, self.feature) if t is not None)


class ParkingLot:
    """Parked rows by key, the least recently used ones dropped beyond `capacity` bytes.

    A dropped row costs its owner another prefill, never a wrong result.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity, self.used = capacity, 0
        self._rows: OrderedDict[Hashable, Parked] = OrderedDict()

    def __len__(self) -> int:
        return len(self._rows)

    def put(self, key: Hashable, parked: Parked) -> None:
        """Keep a row; the oldest ones make room for it."""
        self.drop(key)
        self._rows[key] = parked
        self.used += parked.nbytes
        while self.used > self.capacity and self._rows:
            self.drop(next(iter(self._rows)))

    def get(self, key: Hashable) -> Parked | None:
        """The row, or None when it was dropped."""
        parked = self._rows.get(key)
        if parked is not None:
            self._rows.move_to_end(key)
        return parked

    def drop(self, key: Hashable) -> None:
        """Forget a row; unknown keys are ignored."""
        parked = self._rows.pop(key, None)
        if parked is not None:
            self.used -= parked.nbytes

    def clear(self) -> None:
        """Forget everything."""
        self._rows.clear()
        self.used = 0
