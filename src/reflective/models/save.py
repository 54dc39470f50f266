"""Saving: all of it or nothing.

A full disk or a killed process leaves the old folder as it was (`reflective.files`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from safetensors.torch import save_file

from reflective.errors import CheckpointError
from reflective.files import disk_errors, whole_folder
from reflective.judge.config import CONFIG_FILE, HEAD_FILE, SPRM_FOLDER, SPRMConfig
from reflective.judge.heads.paper import SPRMHead
from reflective.models.source import quiet

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
        checkpoint.model.save_pretrained(temporary, state_dict=weights, max_shard_size=MAX_SHARD)
        checkpoint.tokenizer.save_pretrained(temporary)
        if dtype is not None:
            _set_dtype(temporary / "config.json", dtype)
        if checkpoint.head is not None and checkpoint.config is not None:
            (temporary / SPRM_FOLDER).mkdir()
            write_head(temporary / SPRM_FOLDER, checkpoint.head, checkpoint.config)
    return target


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


def save_head(folder: str | Path, head: SPRMHead, config: SPRMConfig) -> Path:
    """Save the head into an existing model folder, head and config at once, and return the `sprm` folder."""
    target = Path(folder).expanduser()
    if not (target / "config.json").is_file():
        raise CheckpointError(f"'{folder}' is no model folder (no config.json); a head is saved beside its model.")
    with disk_errors(target), whole_folder(target / SPRM_FOLDER) as temporary:
        write_head(temporary, head, config)
    return target / SPRM_FOLDER


def write_head(folder: Path, head: SPRMHead, config: SPRMConfig) -> None:
    """Write the head's two files into an existing folder."""
    mine = (head.hidden_size, head.uses_logprobs, head.probability_exponent)
    wanted = (config.hidden_size, config.logprob_features, config.probability_exponent)
    if mine != wanted:
        raise CheckpointError(
            f"the head is not that of its config: width, logprob_features and probability_exponent are {mine} and "
            f"{wanted}."
        )
    state = {key: t.detach().float().cpu().contiguous() for key, t in head.state_dict().items()}
    save_file(state, str(folder / HEAD_FILE), metadata={"format": "pt"})
    text = json.dumps(config.to_json(), indent=2, ensure_ascii=False)
    (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")


def _set_dtype(path: Path, dtype: torch.dtype) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    key = "dtype" if "dtype" in data else "torch_dtype"  # its name before transformers 4.56
    data[key] = str(dtype).removeprefix("torch.")
    path.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")
