"""Saving: all of it or nothing.

Everything is written to a temporary sibling, flushed to the disk, and then takes the old folder's place in one
rename. A full disk or a killed process leaves the old folder as it was, and at most a hidden `.tmp` folder beside it.
"""

from __future__ import annotations

import ctypes
import errno
import fnmatch
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from reflective.errors import CheckpointError
from reflective.judge.config import CONFIG_FILE, HEAD_FILE, SPRM_FOLDER, SPRMConfig
from reflective.judge.heads.paper import SPRMHead
from reflective.models.source import first_line, quiet

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
    with disk_errors(target), replacing(target, keep=True) as temporary, quiet():
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
    with disk_errors(target), replacing(target / SPRM_FOLDER) as temporary:
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


@contextmanager
def replacing(target: Path, *, keep: bool = False) -> Iterator[Path]:
    """A new empty folder beside `target`, which takes its place when the block ends without an error.

    With `keep`, files of the old folder that are none of `MODEL_FILES` and were not written anew stay.
    """
    target = target.resolve()
    if target.exists() and not target.is_dir():
        raise CheckpointError(f"'{target}' is a file; name a folder to save to.")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.tmp"
    temporary.mkdir()
    try:
        yield temporary
        if keep and target.is_dir():
            _carry_over(target, temporary)
        _flush(temporary)
        _swap(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # half of the new, or the whole of the old


@contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """Turns what the disk says into one line; the folder that was there is still whole."""
    try:
        yield
    except SafetensorError as error:
        full = "space" in str(error) or "os error 28" in str(error)
        reason = os.strerror(errno.ENOSPC) if full else first_line(error)
        raise CheckpointError(_not_saved(target, reason)) from error
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.EXDEV):
            reason = "it is a mount point, which can't be replaced; name a folder inside it"
        else:
            reason = error.strerror or first_line(error)
        raise CheckpointError(_not_saved(target, reason)) from error


def _not_saved(target: Path, reason: str) -> str:
    return f"'{target}' was not saved: {reason}. What was there before is untouched; make room or name another folder."


def _carry_over(old: Path, new: Path) -> None:
    for entry in old.iterdir():
        if (new / entry.name).exists() or any(fnmatch.fnmatch(entry.name, pattern) for pattern in MODEL_FILES):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, new / entry.name, symlinks=True, copy_function=_link)
        else:
            _link(str(entry), str(new / entry.name))


def _link(source: str, target: str) -> None:
    """A second name for the file, so that it costs no space and a process that appends to it goes on doing so."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target, follow_symlinks=False)


def _flush(folder: Path) -> None:
    """Wait until the folder and all in it is on the disk."""
    for directory, _, names in os.walk(folder):
        for path in [*(Path(directory) / name for name in names), Path(directory)]:
            if path.is_symlink():
                continue
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _swap(new: Path, old: Path) -> None:
    """Let `new` take the name of `old`. Afterwards `new` is gone or is the old folder."""
    if not old.exists():
        os.rename(new, old)
    elif not _exchange(new, old):
        # no atomic exchange on this system: for a moment nothing has the name, and both are there beside it
        aside = new.with_suffix(".old.tmp")
        os.rename(old, aside)
        os.rename(new, old)
        os.rename(aside, new)
    descriptor = os.open(old.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(a: Path, b: Path) -> bool:
    """Swap two names in one step, where the kernel and the file system can (Linux)."""
    at_fdcwd, rename_exchange = -100, 2
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    if renameat2(at_fdcwd, os.fsencode(a), at_fdcwd, os.fsencode(b), rename_exchange) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EBUSY, errno.EXDEV):
        raise OSError(code, os.strerror(code), str(b))
    return False


def _set_dtype(path: Path, dtype: torch.dtype) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    key = "dtype" if "dtype" in data else "torch_dtype"  # its name before transformers 4.56
    data[key] = str(dtype).removeprefix("torch.")
    path.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")
