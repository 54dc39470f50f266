"""Loading a checkpoint: backbone, tokenizer, head, and every reason to refuse."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from reflective.errors import CheckpointError
from reflective.judge.config import CONFIG_FILE, HEAD_FILE, SPRM_FOLDER, SPRMConfig, read_config
from reflective.judge.fresh import check_fit
from reflective.judge.heads.paper import SPRMHead
from reflective.models.reference import REFERENCE_FILE, head_from_state, read_reference
from reflective.models.source import first_line, quiet, resolve_device, resolve_dtype, resolve_source

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOKENIZER_FILES: Final = ("tokenizer.json", "*.model", "vocab.*", "*.tiktoken", "tekken.json")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model with its tokenizer and, where it has one, its head. `name` is what the user called it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    head: SPRMHead | None = None
    config: SPRMConfig | None = None
    name: str = ""


def load_checkpoint(
    source: str | Path,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    require_head: bool = True,
) -> Checkpoint:
    """Load "nano", a folder or a hub id, in eval mode.

    The head is read from `sprm/`, or else from the reference's `score_module.pt`; it stays in float32. Without
    `require_head`, a plain language model loads, too, and head and config are None. Code from a checkpoint never runs.
    """
    device = resolve_device(device)
    folder = resolve_source(source)
    number_type = resolve_dtype(dtype, device, stored_bytes(folder))
    if require_head and not has_head(folder):
        raise CheckpointError(no_head(source))
    with quiet():
        model_config, tokenizer = read_plain(folder, source)
        # the head first: it is small, and what is wrong with it should not cost the loading of the backbone
        head, config = read_head(folder, model_config, tokenizer)
        model = _load_model(folder, source, number_type, device)
    return Checkpoint(model, tokenizer, head.to(device) if head is not None else None, config, str(source))


def stored_bytes(folder: Path) -> int:
    """What the backbone's weights take on the disk."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def has_head(folder: Path) -> bool:
    """Whether the folder holds a head, whole or not, of either format."""
    return (folder / SPRM_FOLDER).is_dir() or (folder / REFERENCE_FILE).is_file()


def no_head(source: str | Path) -> str:
    """The message for a model without a head."""
    return (
        f"no SPRM head in '{source}' (looked for {SPRM_FOLDER}/{HEAD_FILE}, {REFERENCE_FILE}).\n"
        f"Train one with: reflective train head --model {source} --task <task>"
    )


def read_plain(folder: Path, source: str | Path) -> tuple[Any, PreTrainedTokenizerBase]:
    """The model's config and tokenizer, without its weights."""
    from transformers import AutoConfig, AutoTokenizer

    try:
        model_config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises whatever its parsers raise
        raise CheckpointError(
            f"the config.json of '{source}' is not one of a model that transformers knows: {first_line(error)}"
        ) from None
    if not any(path for pattern in TOKENIZER_FILES for path in folder.glob(pattern)):
        raise CheckpointError(  # transformers would make one that knows no word
            f"'{source}' has no tokenizer. Copy tokenizer.json and tokenizer_config.json into the folder."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the same
        raise CheckpointError(
            f"the tokenizer of '{source}' can't be loaded: {first_line(error)} "
            "Copy tokenizer.json and tokenizer_config.json into the folder."
        ) from None
    return model_config, tokenizer


def read_head(
    folder: Path, model_config: Any, tokenizer: PreTrainedTokenizerBase
) -> tuple[SPRMHead | None, SPRMConfig | None]:
    """The head and its config, checked against the model; (None, None) where the folder has no head."""
    sprm = folder / SPRM_FOLDER
    if not sprm.is_dir():
        return read_reference(folder, model_config, tokenizer) if has_head(folder) else (None, None)
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
    return head_from_state(state, config, path), config


def _load_model(folder: Path, source: str | Path, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    import transformers

    auto: Any = transformers.AutoModelForCausalLM  # its return type does not know of the loading report
    if not any(path for pattern in ("*.safetensors", "*.bin") for path in folder.glob(pattern)):
        raise CheckpointError(f"'{source}' has no weights (no *.safetensors or *.bin). Copy the whole folder.")
    try:
        model, report = auto.from_pretrained(
            folder, dtype=dtype, local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
        model = model.to(device)
    except (torch.OutOfMemoryError, MemoryError):
        raise CheckpointError(
            f"'{source}' does not fit into the memory of {device}. Give dtype bfloat16, another device "
            "or a smaller model."
        ) from None
    except Exception as error:  # readers of several formats, each with errors of its own
        raise CheckpointError(
            f"the weights of '{source}' can't be loaded: {first_line(error)} Copy or download them again."
        ) from None
    wrong = sorted({*report["missing_keys"], *(str(key) for key in report["mismatched_keys"])})
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CheckpointError(
            f"the weights of '{source}' are not those of its config.json: {', '.join(wrong[:3])}{more} are missing or "
            "of another shape. Copy the whole folder."
        )
    result: PreTrainedModel = model.eval()
    return result
