"""A judge's folder: `config.json` and `head.safetensors`, as `sprm/` inside a checkpoint or anywhere else.

The reference's `score_module.pt` beside the weights is read, too. It is a pickle, which can run code: torch's
restricted unpickler reads it, which builds tensors and plain containers only, and anything but one flat dict of tensors
is refused.
"""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from reflective.errors import CheckpointError, first_line
from reflective.judge.config import (
    CONFIG_FILE,
    HEAD_FILE,
    SPRM_FOLDER,
    JudgeConfig,
    check_fit,
    config_text,
    read_config,
)
from reflective.judge.detection import RuleName, detect_format
from reflective.judge.heads import StepHead, new_head
from reflective.judge.heads.paper import from_reference
from reflective.judge.judge import Judge

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REFERENCE_FILE: Final = "score_module.pt"


def has_head(folder: Path) -> bool:
    """Whether the folder holds a head, whole or not, of either format."""
    return head_folder(folder) is not None or (folder / REFERENCE_FILE).is_file()


def head_folder(folder: Path) -> Path | None:
    """Where the files of a head lie: `sprm/` in a checkpoint, or the folder itself; None where there are none."""
    if (folder / SPRM_FOLDER).is_dir():
        return folder / SPRM_FOLDER
    return folder if (folder / HEAD_FILE).is_file() else None


def no_head(source: str | Path) -> str:
    """The message for a model without a head."""
    return (
        f"no SPRM head in '{source}' (looked for {SPRM_FOLDER}/{HEAD_FILE}, {REFERENCE_FILE}).\n"
        f"Train one with: reflective train head --model {source} --task <task>"
    )


def read_judge(folder: Path, model_config: Any, tokenizer: PreTrainedTokenizerBase) -> Judge | None:
    """The judge in a folder, in eval mode, checked against the model; None where the folder has no head."""
    sprm = head_folder(folder)
    if sprm is None:
        return read_reference(folder, model_config, tokenizer) if has_head(folder) else None
    for name in (CONFIG_FILE, HEAD_FILE):
        if not (sprm / name).is_file():
            raise CheckpointError(f"'{sprm}' is incomplete: it has no {name}. Copy the sprm folder again.")
    config = read_config(sprm / CONFIG_FILE)
    check_fit(config, model_config, tokenizer)
    path = sprm / HEAD_FILE
    try:
        state = load_file(str(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"'{path}' is damaged ({first_line(error)}). Copy it again.") from None
    return Judge(config, head_from_state(state, config, path))


def write_judge(folder: Path, judge: Judge) -> None:
    """Write the two files into an existing folder."""
    if judge.head is None:
        raise CheckpointError("the judge has no head, so there is nothing to save. Train one first.")
    with torch.random.fork_rng(devices=[]):  # saving in the midst of training must not move its random numbers
        want = {name: tuple(t.shape) for name, t in new_head(judge.config).state_dict().items()}
    got = {name: tuple(t.shape) for name, t in judge.head.state_dict().items()}
    terms = judge.head.logprob_terms
    exponent = terms.exponent if terms is not None else 0.0
    if want != got or exponent != judge.config.probability_exponent:
        raise CheckpointError(
            "the head is not that of its config: width, logprob_features or probability_exponent differ "
            f"({judge.head.hidden_size} and {judge.config.hidden_size} wide, exponents {exponent} and "
            f"{judge.config.probability_exponent})."
        )
    state = {key: t.detach().float().cpu().contiguous() for key, t in judge.head.state_dict().items()}
    save_file(state, str(folder / HEAD_FILE), metadata={"format": "pt"})
    (folder / CONFIG_FILE).write_text(config_text(judge.config), encoding="utf-8")


def head_from_state(state: dict[str, Tensor], config: JudgeConfig, path: Path) -> StepHead:
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


# ---- the reference's format


def read_reference(
    folder: Path, model_config: Any, tokenizer: PreTrainedTokenizerBase, *, rule: RuleName = "reference"
) -> Judge:
    """The head in `score_module.pt`, in float32, and the config that the reference takes for granted."""
    path = folder / REFERENCE_FILE
    try:
        state = from_reference(_read_tensors(path))
    except ValueError as error:
        raise CheckpointError(f"'{path}' holds no head of the reference: {error}") from None
    weight = state["hidden.weight"]
    if weight.dim() != 2:
        raise CheckpointError(f"'{path}' holds no head of the reference: 0.weight has shape {tuple(weight.shape)}.")
    config = JudgeConfig(
        hidden_size=int(weight.shape[1]),
        format=detect_format(tokenizer, marks=("<think>", "</think>"), rule=rule),
        provenance={"imported_from": REFERENCE_FILE, "step_rule": rule},
    )
    check_fit(config, model_config, tokenizer)
    return Judge(config, head_from_state(state, config, path))


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on the pickle protocol; refusals are reported below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"'{path}' is damaged, or would run code when it is read; it was refused. "
            f"Get it from a source you trust, saved as a dict of tensors. ({_cause(error)})"
        ) from None
    except Exception as error:  # its readers raise what they like over bytes that are no file of theirs
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
