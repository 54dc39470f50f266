"""The heads that the package ships, and which of them belongs to a model that has none of its own.

`reflective/heads/index.json` lists them: `{"heads": [{"name": …, "hub_ids": [owner/model, …], "summary": …}]}`, where
the name is that of the head's folder. A head belongs to a model whose hub id is listed, or whose shapes and vocabulary
are those of the head's fingerprint; the features are compared when the weights are there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

from reflective.errors import CheckpointError
from reflective.judge.config import CONFIG_FILE, JudgeConfig, read_config
from reflective.models.fingerprint import check_shapes

INDEX: Final = "index.json"


@dataclass(frozen=True, slots=True)
class ShippedHead:
    """One head of the package."""

    name: str
    folder: Path
    hub_ids: tuple[str, ...]
    summary: str

    @property
    def config(self) -> JudgeConfig:
        """What it is."""
        return read_config(self.folder / CONFIG_FILE)

    @property
    def size_bytes(self) -> int:
        """Of its files."""
        return sum(path.stat().st_size for path in self.folder.iterdir() if path.is_file())


def shipped_heads() -> tuple[ShippedHead, ...]:
    """The heads of this installation, in the order of the index."""
    root = Path(str(resources.files("reflective.heads")))
    path = root / INDEX
    if not path.is_file():
        return ()
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["heads"]
        return tuple(
            ShippedHead(str(e["name"]), root / str(e["name"]), tuple(e["hub_ids"]), str(e.get("summary", "")))
            for e in entries
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"'{path}' is damaged ({error}). Install reflective again.") from None


def head_of_hub_id(source: str | Path) -> ShippedHead | None:
    """The head of a hub id; None where none is shipped for it."""
    asked = str(source).strip("/").casefold()
    return next((head for head in shipped_heads() if asked in {i.casefold() for i in head.hub_ids}), None)


def heads_by_shapes(model_config: Any, tokenizer: Any) -> Sequence[ShippedHead]:
    """The heads whose fingerprint has the shapes and the vocabulary of a model; its weights may still be others."""
    return [head for head in shipped_heads() if _has_shapes(head, model_config, tokenizer)]


def _has_shapes(head: ShippedHead, model_config: Any, tokenizer: Any) -> bool:
    fingerprint = head.config.fingerprint
    if fingerprint is None:
        return False
    try:
        check_shapes(fingerprint, model_config, tokenizer, head.name)
    except CheckpointError:
        return False
    return True
