"""The checkpoints of a joint run on the disk: whole or not there, and of this run.

A checkpoint appears under its name when all of it is on the disk. It is the folder that the rest of the
package loads (backbone and `sprm/`), with the trainer's state beside it: optimizer, scheduler, random states, and the
trajectories that are still to be learnt from. `trl/checkpoints.py` writes them.
"""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open

from reflective.errors import CheckpointError, InputError
from reflective.files import write_text
from reflective.judge.config import HEAD_FILE, SPRM_FOLDER

PREFIX: Final = "checkpoint-"  # the trainer's
WRITING: Final = ".writing"  # holds a checkpoint until it is whole
REMOVING: Final = ".removing"  # an old one, on its way out


def whole_checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    found = [p for p in run.glob(f"{PREFIX}*") if re.fullmatch(r".*-\d+", p.name) and p.is_dir()]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


def clean(run: Path) -> None:
    """Remove what a killed process left half written, or half removed."""
    for name in (WRITING, REMOVING):
        shutil.rmtree(run / name, ignore_errors=True)


def check_room(run: Path, model: Any) -> None:
    """Raises `InputError` where a checkpoint of this model can't fit on the disk: weights, and Adam's two moments."""
    trained = sum(p.numel() * 2 * p.element_size() for p in model.parameters() if p.requires_grad)
    needed = trained + sum(p.numel() * p.element_size() for p in model.parameters())
    free = shutil.disk_usage(run).free
    if free < needed:
        raise InputError(
            f"a checkpoint takes {needed / 1e9:,.2f} GB, and the disk of '{run}' has {free / 1e9:,.2f} GB left. Make "
            "room or name another output."
        )


def check_whole(checkpoint: Path) -> None:
    """Raises `CheckpointError` where a file that a run goes on with is missing or cut off."""
    wanted = ["optimizer.pt", "scheduler.pt", "trainer_state.json", f"{SPRM_FOLDER}/{HEAD_FILE}"]
    missing = [name for name in wanted if not (checkpoint / name).is_file()]
    weights = [*checkpoint.glob("*.safetensors")]
    broken = [path for path in checkpoint.glob("*.pt") if not zipfile.is_zipfile(path)]
    for path in weights:
        try:
            with safe_open(str(path), "pt"):
                pass
        except SafetensorError:
            broken.append(path)
    if missing or broken or not weights:
        what = f"{missing[0]} is missing" if missing else f"{broken[0].name} is cut off" if broken else "no weights"
        raise CheckpointError(f"'{checkpoint}' is damaged ({what}). Remove it to go on from the one before.")


def check_settings(run: Path, digest: str) -> None:
    """Note what the run's settings are, or refuse to go on with others; what has saved nothing may have new ones."""
    path = run / "settings.json"
    begun = bool(whole_checkpoints(run))
    if begun and not path.is_file():
        raise CheckpointError(f"'{run}' holds checkpoints that no settings.json belongs to. Name another output.")
    if begun:
        try:
            known = json.loads(path.read_text(encoding="utf-8")).get("digest")
        except (ValueError, AttributeError) as error:
            raise CheckpointError(f"'{path}' is damaged ({error}). Name another output.") from error
        if known != digest:
            raise CheckpointError(
                f"'{run}' holds a run of another model, other problems or other settings. Name another output, "
                "or remove it."
            )
        return
    write_text(path, json.dumps({"digest": digest}) + "\n")
