"""Checkpoints of a supervised run: complete or absent, and with everything that an exact resumption needs.

A checkpoint is a Hugging Face folder that any runtime loads (float32), plus a sub-folder `trainer/` with the tensors of
the optimizers and the counters: safetensors and JSON, nothing pickled. Random states are not in it: a step draws from a
seed that is made of its number.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from reflective.errors import CheckpointError, ReflectiveError
from reflective.files import disk_errors, remove_leftovers, whole_folder
from reflective.judge.config import SPRM_FOLDER
from reflective.models.library_logging import quiet
from reflective.models.save import MODEL_FILES
from reflective.train.progress import Note
from reflective.train.sft.models import load_model, load_tokenizer
from reflective.train.sft.tokenizer import save_tokenizer

PREFIX = "step-"
TRAINER = "trainer"


@dataclass
class Progress:
    """How far a run has come. `step` is the next step's number, and with the seed it is the place in the data."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    settings: str = ""  # a digest of what must not change between interruption and resumption


def save_checkpoint(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    optimizers: Sequence[Optimizer],
    progress: Progress,
    keep: int,
) -> Path:
    """Writes `folder/step-NNNNNNNN` and drops all but the newest `keep`.

    Raises `CheckpointError` where the disk is full; nothing is left of what was begun.
    """
    target = folder / f"{PREFIX}{progress.step:08d}"
    with disk_errors(target):
        if not target.exists():
            with whole_folder(target) as temporary:
                (temporary / TRAINER).mkdir()
                write_model(temporary, model, tokenizer)
                tensors = dict(_optimizer_tensors(model, optimizers))
                save_file(tensors, temporary / TRAINER / "state.safetensors")
                (temporary / TRAINER / "progress.json").write_text(json.dumps(asdict(progress), indent=2) + "\n")
        for old in checkpoints(folder)[:-keep]:
            old.rename(folder / f".{old.name}.old")  # a checkpoint that is half removed must not look complete
    clean(folder)
    return target


def clean(folder: Path) -> None:
    """Remove old checkpoints that were renamed, and what a killed run left half written."""
    for left_behind in folder.glob(f".{PREFIX}*"):
        shutil.rmtree(left_behind, ignore_errors=True)


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob(f"{PREFIX}*") if path.is_dir())


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint to resume from."""
    return next(reversed(checkpoints(folder)), None)


def load_progress(checkpoint: Path) -> Progress:
    """The counters of a checkpoint."""
    try:
        values = json.loads((checkpoint / TRAINER / "progress.json").read_text(encoding="utf-8"))
        return Progress(**values)
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{checkpoint} can't be resumed: {error}. Remove it to go on from the one before."
        ) from error


def load_state(checkpoint: Path, model: PreTrainedModel, optimizers: Sequence[Optimizer]) -> None:
    """Restore the optimizers' state. The model itself is loaded by `load_model`."""
    try:
        tensors = load_file(checkpoint / TRAINER / "state.safetensors")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{checkpoint} can't be resumed: {error}. Remove it to go on from the one before."
        ) from error
    names = dict(model.named_parameters())
    owner = {id(p): optimizer for optimizer in optimizers for g in optimizer.param_groups for p in g["params"]}
    for full_name, tensor in tensors.items():
        key, name = full_name.split("/", 1)
        p = names.get(name)
        if p is None or id(p) not in owner:
            raise CheckpointError(f"{checkpoint} holds the state of {name!r}, which this run does not train.")
        # AdamW counts its steps in a float tensor that stays on the CPU unless it is fused on a GPU
        owner[id(p)].state[p][key] = tensor.to(p.device)


def write_model(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """The plain Hugging Face folder: weights, configuration and tokenizer."""
    with quiet():
        model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)


def publish_model(
    target: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, note: Note, *, look: bool
) -> None:
    """Write the result of a run as a plain Hugging Face folder, in one step. With `look`, a folder that holds these
    weights already is left alone, and with it a head that was fitted to them since."""
    if look and _holds(target, model):
        return
    if (target / SPRM_FOLDER).is_dir():
        note(f"the head in {target / SPRM_FOLDER} was fitted to other weights; it is removed")
    remove_leftovers(target)  # of a run that was killed while it wrote
    with disk_errors(target), whole_folder(target, MODEL_FILES) as temporary:
        write_model(temporary, model, tokenizer)


def _holds(folder: Path, model: PreTrainedModel) -> bool:
    """Whether a whole Hugging Face folder is there already, with the weights that the model has."""
    if not (folder / "config.json").is_file():  # or it would be looked for on the hub
        return False
    try:
        with quiet():
            load_tokenizer(folder)
            there = load_model(folder).state_dict()
    except (ReflectiveError, RuntimeError):  # missing, damaged, or of another shape
        return False
    mine = model.state_dict()
    return mine.keys() == there.keys() and all(t.cpu().float().equal(there[name].float()) for name, t in mine.items())


def _optimizer_tensors(model: PreTrainedModel, optimizers: Sequence[Optimizer]) -> Iterator[tuple[str, Tensor]]:
    """Each parameter's state as `key/parameter name`."""
    for name, p in model.named_parameters():
        for optimizer in optimizers:
            state: dict[str, Any] = optimizer.state.get(p, {})
            for key, value in state.items():
                yield f"{key}/{name}", value.detach().to("cpu").contiguous()
