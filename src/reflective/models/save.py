"""Saving: all of it or nothing.

A full disk or a killed process leaves the old folder as it was (`reflective.files`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from reflective.errors import CheckpointError
from reflective.files import disk_errors, whole_folder
from reflective.judge.config import HEAD_FILE, SPRM_FOLDER
from reflective.judge.judge import Judge
from reflective.judge.sidecar import write_judge
from reflective.models.generation import make_valid
from reflective.models.library_logging import quiet

if TYPE_CHECKING:
    from reflective.models.load import Checkpoint

SUBMODULE_PREFIX: Final = "sprm."  # in memory the head may hang on the model; it is not part of the backbone's files
MAX_SHARD: Final = "5GB"
# what a saved model replaces as a whole; other files of the folder, such as a model card, are kept
MODEL_FILES: Final = (
    "*.safetensors",
    "*.bin",
    "*.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "vocab.*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "score_module.pt",
    SPRM_FOLDER,
)


def save_checkpoint(
    folder: str | Path,
    checkpoint: Checkpoint,
    *,
    dtype: torch.dtype | None = None,
    state_dict: Mapping[str, torch.Tensor] | None = None,
) -> Path:
    """Save model, tokenizer and head as a checkpoint folder and return it.

    An existing checkpoint there is replaced as a whole, files of other names are kept. `dtype` is that of the saved
    backbone (default: as it is in memory); the head is always saved in float32. `state_dict` replaces the model's
    own, for one that is gathered from several processes.
    """
    target = Path(folder).expanduser()
    source = checkpoint.model.state_dict() if state_dict is None else state_dict
    weights = {key: tensor for key, tensor in source.items() if not key.startswith(SUBMODULE_PREFIX)}
    if dtype is not None:
        weights = _converted(weights, dtype)
    with disk_errors(target), whole_folder(target, MODEL_FILES) as temporary, quiet():
        save_backbone(temporary, checkpoint.model, checkpoint.tokenizer, weights)
        if dtype is not None:
            _set_dtype(temporary / "config.json", dtype)
        if checkpoint.judge.scores:
            (temporary / SPRM_FOLDER).mkdir()
            write_judge(temporary / SPRM_FOLDER, checkpoint.judge)
    return target


def save_backbone(
    folder: Path, model: Any, tokenizer: Any, state_dict: Mapping[str, torch.Tensor] | None = None
) -> None:
    """Write model and tokenizer into an existing folder, whatever is invalid in the model's generation config."""
    make_valid(model)
    model.save_pretrained(folder, state_dict=state_dict, max_shard_size=MAX_SHARD)
    tokenizer.save_pretrained(folder)


def _converted(weights: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The weights in another type. What shares its memory, a tied lm_head, still does, and is written once."""
    done: dict[tuple[object, ...], torch.Tensor] = {}
    for tensor in weights.values():
        done.setdefault(_place(tensor), tensor.to(dtype) if tensor.is_floating_point() else tensor)
    return {key: done[_place(tensor)] for key, tensor in weights.items()}


def _place(tensor: torch.Tensor) -> tuple[object, ...]:
    if tensor.numel() == 0 or tensor.device.type == "meta":
        return (id(tensor),)
    return tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def save_judge(folder: str | Path, judge: Judge) -> Path:
    """Save a judge, head and config at once, as the folder `folder`, and return it.

    A judge that is there already is replaced. Raises `CheckpointError` for a folder that holds anything else.
    """
    target = Path(folder).expanduser()
    if target.is_dir() and not (target / HEAD_FILE).is_file() and any(target.iterdir()):
        hint = f" Save it as '{target / SPRM_FOLDER}'." if (target / "config.json").is_file() else ""
        raise CheckpointError(f"'{folder}' holds something else than a head, which would be lost.{hint}")
    with disk_errors(target), whole_folder(target) as temporary:
        write_judge(temporary, judge)
    return target


def _set_dtype(path: Path, dtype: torch.dtype) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    key = "dtype" if "dtype" in data else "torch_dtype"  # its name before transformers 4.56
    data[key] = str(dtype).removeprefix("torch.")
    path.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")
