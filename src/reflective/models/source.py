"""From what the user names to a folder, a device and a number type."""

from __future__ import annotations

import errno
from importlib import resources
from pathlib import Path
from typing import Final

import torch

from reflective.errors import CheckpointError, InputError, first_line
from reflective.models.folders import ADAPTER_CONFIG, refuse_other_folders, refuse_unfinished
from reflective.models.gguf import converted, is_gguf
from reflective.models.stored import QUANTIZED

NANO: Final = "nano"
SMALL_WEIGHTS: Final = 2**29  # bytes as stored: about 0.25B parameters in bfloat16
UNKNOWN_DEVICE: Final = "unknown device {!r}; give auto, cpu, cuda or cuda:1."
DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

SMALL_FILES: Final = ["*.json", "*.txt", "*.model", "*.jinja", "sprm/*", "score_module.pt"]
WEIGHTS: Final = ("*.safetensors", "*.bin")


def resolve_source(source: str | Path, *, weights: bool = True) -> Path:
    """The folder of "nano", a folder, a GGUF file (converted once, see `models.gguf`) or a hub id.

    A hub model is downloaded; without `weights`, only what describes it.
    """
    if str(source) == NANO:
        return _nano()
    text = str(source)
    folder = Path(text).expanduser()
    if not text.strip():
        raise CheckpointError("no model was named. Give 'nano', a folder, a GGUF file or a hub id.")
    if folder.is_file():
        if not is_gguf(folder):
            raise CheckpointError(f"'{source}' is a file; a model is a folder with a config.json, or a GGUF file.")
        return converted(folder)
    if folder.is_dir():
        refuse_other_folders(folder, source)
        if weights:
            refuse_unfinished(folder, source)
        return folder
    if isinstance(source, Path) or text.startswith((".", "/", "~")) or text.count("/") > 1 or "\\" in text:
        raise CheckpointError(f"no such folder: '{source}'. Give 'nano', a model folder or a hub id.")
    return _download(text, weights)


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """The device by name; "auto" is the first GPU, or else the CPU."""
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        raise InputError(UNKNOWN_DEVICE.format(device)) from None
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if found.type not in counts:
        raise InputError(UNKNOWN_DEVICE.format(device))
    if (found.index or 0) >= counts[found.type]:
        raise InputError(
            f"device '{device}' is not there: {found.type} devices of this machine: {counts[found.type]}. "
            "Give auto, cpu, cuda or cuda:1."
        )
    return found


def resolve_dtype(
    dtype: str | torch.dtype = "auto", device: str | torch.device = "auto", stored_bytes: int | None = None
) -> torch.dtype:
    """The number type by name; "auto" is bfloat16 where the device computes in it natively, or else float32.

    A CPU without bfloat16 instructions is about six times slower in it than in float32. One with them is still three
    times slower where the weights are small (`stored_bytes`), since a step then costs what its operators cost to start,
    and the compiled step is in float32; at 0.5B parameters both are level, and bfloat16 takes half the memory.
    """
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        where = resolve_device(device)
        small = where.type == "cpu" and stored_bytes is not None and stored_bytes < SMALL_WEIGHTS
        return torch.bfloat16 if has_native_bfloat16(where) and not small else torch.float32
    if dtype in QUANTIZED:
        raise InputError(f"dtype {dtype!r} is for writing on a CPU with --engine torch; give auto or float32 here.")
    if dtype not in DTYPES:
        raise InputError(f"unknown dtype {dtype!r}; give auto, {', '.join((*DTYPES, *QUANTIZED))}.")
    return DTYPES[dtype]


def has_native_bfloat16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 are faster there than in float32, and not emulated."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def _nano() -> Path:
    folder = Path(str(resources.files("reflective.nano"))) / "weights"
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"the model 'nano' is not part of this installation (no '{folder}'). "
            "Install reflective from a release, or train it with recipes/nano."
        )
    return folder


def _download(repository: str, weights: bool) -> Path:
    from huggingface_hub import errors, snapshot_download

    def fetch(*patterns: str) -> Path:
        return Path(snapshot_download(repository, allow_patterns=[*SMALL_FILES, *patterns]))

    try:
        folder = fetch(*WEIGHTS[:1]) if weights else fetch()
        if weights and not any(folder.glob(WEIGHTS[0])):  # an older repository
            folder = fetch(*WEIGHTS)
    except errors.HFValidationError:
        message = f"'{repository}' is neither a folder nor a hub id. Give 'nano', a model folder or owner/model."
    except errors.GatedRepoError:
        message = (
            f"the hub model '{repository}' is gated: accept its terms at https://huggingface.co/{repository}, "
            "then log in with: hf auth login"
        )
    except errors.RepositoryNotFoundError:
        message = (
            f"'{repository}' is no folder here and no model on the hub. Check the name; "
            "if it is private, log in with: hf auth login"
        )
    except OSError as error:
        if error.errno == errno.ENOSPC:
            message = f"the disk is full: '{repository}' can't be downloaded. Free some space or set HF_HOME."
        elif isinstance(error, errors.HfHubHTTPError):
            message = f"the hub refused '{repository}': {first_line(error)}."
        else:
            message = _unreachable(repository)
    except Exception:  # the HTTP library's own errors, which differ by version of the hub's client
        message = _unreachable(repository)
    else:
        if not any((folder / name).is_file() for name in ("config.json", ADAPTER_CONFIG)):
            raise CheckpointError(f"the hub model '{repository}' has no config.json: it is no transformers model.")
        refuse_other_folders(folder, repository)
        return folder
    raise CheckpointError(message)


def _unreachable(repository: str) -> str:
    return (
        f"'{repository}' is no folder here, is not in the hub's cache, and the hub can't be reached. "
        "Check the name and the network, or give a model folder."
    )
