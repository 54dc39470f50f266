"""Weights where a checkpoint stores them: mapped files whose tensors are read one at a time.

For engines that hold weights in a layout of their own: no copy of the whole is made, in any number type.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import torch

from reflective.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PackedKind = Literal["bfloat16", "int8", "int4"]
QUANTIZED: Final[tuple[PackedKind, ...]] = ("int8", "int4")
NUMBERS: Final = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}  # as safetensors names them


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies."""

    path: Path
    type: Any  # of its numbers, as the file's format names it
    shape: tuple[int, ...]
    start: int  # bytes into the file


class StoredWeights:
    """The tensors of a folder's `*.safetensors` by name, and the kind that they are to be held in."""

    def __init__(self, folder: Path, kind: PackedKind) -> None:
        self.folder, self.kind = folder, kind
        self._places: dict[str, Place] = {}
        for path in sorted(folder.glob("*.safetensors")):
            self._places |= _places(path)

    def held_as(self, kind: PackedKind) -> StoredWeights:
        """The same, to be held as another kind."""
        other = copy(self)
        other.kind = kind
        return other

    def check(self, model: PreTrainedModel, source: str | Path) -> None:
        """Raise `CheckpointError` unless every parameter of the model is there, in its shape."""
        tied = set(getattr(model, "_tied_weights_keys", None) or ()) if model.config.tie_word_embeddings else set()
        parameters = {name: tuple(p.shape) for name, p in model.named_parameters() if name not in tied}
        wrong = sorted(n for n, shape in parameters.items() if n not in self._places or self._places[n].shape != shape)
        if wrong:
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise CheckpointError(
                f"the weights of '{source}' are not those of its config.json: {', '.join(wrong[:3])}{more} are missing "
                "or of another shape. Copy the whole folder."
            )

    def holds(self, dtype: torch.dtype) -> bool:
        """Whether every tensor is stored in this number type."""
        return all(place.type == dtype for place in self._places.values())

    def digest(self, model: PreTrainedModel) -> str:
        """Of every weight, the kind that they are held in, and the configuration (see `models.digest`)."""
        digest = hashlib.sha256(f"{self.kind} {model.config.to_json_string()}".encode())
        for name in sorted(self._places):
            with self.read(name) as (tensor,):
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    def __contains__(self, name: str) -> bool:
        return name in self._places

    @contextmanager
    def read(self, *names: str) -> Iterator[list[Any]]:
        """The tensors, or what gives some of a tensor's rows (`rows[a:b]`), valid inside: views of the mapped files,
        whose pages are let go afterwards."""
        maps: dict[Path, mmap.mmap] = {}
        try:
            tensors = []
            for name in names:
                place = self._places[name]
                if place.path not in maps:
                    with open(place.path, "rb") as file:
                        maps[place.path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
                tensors.append(self._tensor(name, place, maps[place.path]))
            yield tensors
        except OSError as error:
            raise CheckpointError(f"the weights in '{self.folder}' can't be read: {error}.") from None

    def _tensor(self, name: str, place: Place, pages: mmap.mmap) -> Any:
        whole = torch.frombuffer(pages, dtype=place.type, count=math.prod(place.shape), offset=place.start)
        return whole.view(place.shape)

    def dense_folder(self) -> Path:
        """The folder from which transformers loads the same model."""
        return self.folder


def _places(path: Path) -> dict[str, Place]:
    """Where each tensor of a file lies: 8 bytes with the header's length, the header (JSON), the numbers."""
    damaged = CheckpointError(f"'{path}' is damaged. Copy or download it again.")
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > size:
                raise damaged
            header: dict[str, Any] = json.loads(file.read(length))
        found = {}
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            if entry["dtype"] not in NUMBERS:
                continue
            dtype, shape = NUMBERS[entry["dtype"]], tuple(entry["shape"])
            begin, end = entry["data_offsets"]
            if begin < 0 or end - begin != math.prod(shape) * dtype.itemsize or 8 + length + end > size:
                raise damaged
            found[name] = Place(path, dtype, shape, 8 + length + begin)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged from error
    return found
