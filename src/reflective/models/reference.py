"""The reference's format: a pickled `score_module.pt` beside the weights.

A pickle can run code. It is read by torch's restricted unpickler, which builds tensors and plain containers only, and
then refused unless it is one flat dict of tensors.
"""

from __future__ import annotations

import pickle
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from reflective.errors import CheckpointError
from reflective.files import disk_errors, whole_folder
from reflective.judge.config import SPRM_FOLDER, SPRMConfig
from reflective.judge.format import RuleName
from reflective.judge.fresh import check_fit, infer_config, new_head
from reflective.judge.heads.paper import SPRMHead, from_reference
from reflective.models.save import write_head
from reflective.models.source import first_line, quiet, resolve_source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REFERENCE_FILE: Final = "score_module.pt"


def import_reference(source: str | Path, out: str | Path | None = None, *, rule: RuleName = "reference") -> SPRMConfig:
    """Turn a checkpoint of the reference into one of ours, and return the head's config.

    Without `out`, `sprm/` is written into the source folder. With it, the folder is copied there, without
    `score_module.pt`.
    """
    from transformers import AutoConfig, AutoTokenizer

    folder = resolve_source(source)
    if not (folder / REFERENCE_FILE).is_file():
        raise CheckpointError(f"'{source}' has no {REFERENCE_FILE}: it is no checkpoint of the reference.")
    if out is None and not Path(source).expanduser().is_dir():
        raise CheckpointError(
            f"'{source}' lies in the hub's cache, which must stay as it is. Name a folder to write to."
        )
    with quiet():
        try:
            model_config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"'{source}' can't be read as a model: {first_line(error)}") from None
    head, config = read_reference(folder, model_config, tokenizer, rule=rule)
    if out is None:
        with disk_errors(folder), whole_folder(folder / SPRM_FOLDER) as temporary:
            write_head(temporary, head, config)
        return config
    target = Path(out).expanduser()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CheckpointError(f"'{out}' exists and is not empty. Name a new folder.")
    with disk_errors(target), whole_folder(target) as temporary:
        shutil.copytree(folder, temporary, ignore=_leave_out, dirs_exist_ok=True)
        (temporary / SPRM_FOLDER).mkdir()
        write_head(temporary / SPRM_FOLDER, head, config)
    return config


def read_reference(
    folder: Path, model_config: Any, tokenizer: PreTrainedTokenizerBase, *, rule: RuleName = "reference"
) -> tuple[SPRMHead, SPRMConfig]:
    """The head in `score_module.pt`, in float32, and the config that the reference takes for granted."""
    path = folder / REFERENCE_FILE
    try:
        state = from_reference(_read_tensors(path))
    except ValueError as error:
        raise CheckpointError(f"'{path}' holds no head of the reference: {error}") from None
    weight = state["hidden.weight"]
    if weight.dim() != 2:
        raise CheckpointError(f"'{path}' holds no head of the reference: 0.weight has shape {tuple(weight.shape)}.")
    provenance = {"imported_from": REFERENCE_FILE, "step_rule": rule}
    config = infer_config(tokenizer, int(weight.shape[1]), rule=rule, provenance=provenance)
    check_fit(config, model_config, tokenizer)
    return head_from_state(state, config, path), config


def head_from_state(state: dict[str, Tensor], config: SPRMConfig, path: Path) -> SPRMHead:
    """A head in eval mode with these weights. Raises `CheckpointError` where they are not those of the config."""
    head = new_head(config)
    want = {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()}
    got = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if want != got:
        name = next(n for n in sorted({*want, *got}) if want.get(n) != got.get(n))
        raise CheckpointError(
            f"'{path}' does not fit its config of width {config.hidden_size}: {name} should have shape "
            f"{want.get(name, 'none')}, got {got.get(name, 'none')}. Train the head again."
        )
    if not all(torch.isfinite(tensor).all() for tensor in state.values()):
        raise CheckpointError(f"'{path}' holds NaN or infinite weights. Train the head again.")
    head.load_state_dict(state)
    return head.eval()


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on the pickle protocol; what is refused is told below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"'{path}' is damaged, or would run code when it is read; it was refused. "
            f"Get it from a source you trust, saved as a dict of tensors. ({_cause(error)})"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        raise CheckpointError(f"'{path}' is damaged ({first_line(error)}). Copy it again.") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"'{path}' must hold a dict of tensors; got {type(content).__name__}.")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"'{path}' must hold tensors only; {key!r:.40} is {type(value).__name__}.")
        if not value.is_floating_point():
            raise CheckpointError(f"'{path}' must hold floating-point tensors; {key!r:.40} is {value.dtype}.")
    return content


def _cause(error: Exception) -> str:
    """The one informative line of torch's long message on what was refused."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if line.startswith(("WeightsUnpickler", "Unsupported"))), first_line(error))[
        :120
    ]


def _leave_out(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if name in (REFERENCE_FILE, SPRM_FOLDER, ".git", ".cache")}
