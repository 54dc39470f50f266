"""A checkpoint of the reference, with `score_module.pt` beside its weights, made one of ours."""

from __future__ import annotations

import shutil
from pathlib import Path

from reflective.errors import CheckpointError
from reflective.files import disk_errors, whole_folder
from reflective.judge.config import SPRM_FOLDER, JudgeConfig
from reflective.judge.detection import RuleName
from reflective.judge.sidecar import REFERENCE_FILE, read_reference, write_judge
from reflective.models.library_logging import quiet
from reflective.models.metadata import read_plain
from reflective.models.source import resolve_source


def import_reference(source: str | Path, out: str | Path | None = None, *, rule: RuleName = "reference") -> JudgeConfig:
    """Turn a checkpoint of the reference into one of ours, and return its config.

    Without `out`, `sprm/` is written into the source folder. With it, the folder is copied there, without
    `score_module.pt`.
    """
    folder = resolve_source(source)
    if not (folder / REFERENCE_FILE).is_file():
        raise CheckpointError(f"'{source}' has no {REFERENCE_FILE}: it is no checkpoint of the reference.")
    if out is None and not Path(source).expanduser().is_dir():
        raise CheckpointError(
            f"'{source}' lies in the hub's cache, which must not be modified. Name a folder to write to."
        )
    with quiet():
        model_config, tokenizer = read_plain(folder, source)
    judge = read_reference(folder, model_config, tokenizer, rule=rule)
    if out is None:
        with disk_errors(folder), whole_folder(folder / SPRM_FOLDER) as temporary:
            write_judge(temporary, judge)
        return judge.config
    target = Path(out).expanduser()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CheckpointError(f"'{out}' exists and is not empty. Name a new folder.")
    with disk_errors(target), whole_folder(target) as temporary:
        shutil.copytree(folder, temporary, ignore=_leave_out, dirs_exist_ok=True)
        (temporary / SPRM_FOLDER).mkdir()
        write_judge(temporary / SPRM_FOLDER, judge)
    return judge.config


def _leave_out(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if name in (REFERENCE_FILE, SPRM_FOLDER, ".git", ".cache")}
