"""What a folder must be to be loaded as a model, and how a folder that is something else is refused.

Adapters, folders of GGUF files and unfinished downloads are recognised, and each is refused with one line that says
what to do.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from reflective.errors import CheckpointError

ADAPTER_CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = ("*.safetensors", "*.bin")
UNFINISHED: Final = ("*.incomplete", ".cache/huggingface/download/**/*.incomplete")
POINTER: Final = b"version https://git-lfs"  # how a file begins that git left as a pointer to the real one


def refuse_other_folders(folder: Path, source: str | Path) -> None:
    """Raise `CheckpointError` for a folder that holds no model: an adapter, GGUF files, or nothing of the kind."""
    if (folder / ADAPTER_CONFIG).is_file():
        if _own_weights(folder):
            raise CheckpointError(
                f"'{source}' has an {ADAPTER_CONFIG} beside its weights, and transformers takes such a folder for an "
                f"adapter. Move {ADAPTER_CONFIG} away."
            )
        base = _read(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
        of = f" of '{base}'" if base else ""
        raise CheckpointError(
            f"'{source}' is an adapter (LoRA){of}, not a model. Merge the two and name the merged folder: "
            f"AutoPeftModelForCausalLM.from_pretrained('{source}').merge_and_unload().save_pretrained(FOLDER), and "
            "copy the tokenizer there."
        )
    if (folder / "config.json").is_file():
        return
    files = sorted(folder.glob("*.gguf"))
    if files:
        raise CheckpointError(f"'{source}' holds GGUF files. Name one of them: --model {files[0]}")
    hint = f" Did you mean '{folder.parent}'?" if (folder.parent / "config.json").is_file() else ""
    raise CheckpointError(f"'{source}' is no model folder: it has no config.json.{hint}")


def refuse_unfinished(folder: Path, source: str | Path) -> None:
    """Raise `CheckpointError` for a folder that lacks weights: named in an index, or still on the way."""
    named: set[str] = set()
    for index in folder.glob("*.index.json"):
        places = _read(index).get("weight_map", {})
        if not isinstance(places, dict):
            raise CheckpointError(f"'{index}' must map weights to files (weight_map). Copy it again.")
        named.update(str(name) for name in places.values() if name)
    missing = sorted(name for name in named if not (folder / name).is_file())
    if missing and not _single_file(folder):
        raise CheckpointError(
            f"'{source}' is incomplete: {len(missing)} of {len(named)} weight files are missing ({missing[0]}"
            f"{', …' if len(missing) > 1 else ''}). Finish the download, or copy the whole folder."
        )
    if not _own_weights(folder) and any(path for pattern in UNFINISHED for path in folder.glob(pattern)):
        raise CheckpointError(
            f"the download of '{source}' was not finished: it has *.incomplete files and no weights. Start it again."
        )
    for path in _own_weights(folder):
        with path.open("rb") as file:
            if file.read(len(POINTER)) == POINTER:
                raise CheckpointError(
                    f"'{path}' is a pointer of git-lfs, not the weights. Fetch them in that folder with: git lfs pull"
                )


def _own_weights(folder: Path) -> list[Path]:
    """Files of weights that are a model's, not an adapter's."""
    found = [path for pattern in WEIGHTS for path in sorted(folder.glob(pattern))]
    return [path for path in found if not path.name.startswith(("adapter_", "training_args"))]


def _single_file(folder: Path) -> bool:
    """Whether all weights lie in one file, beside which a stale index means nothing."""
    return any((folder / name).is_file() for name in ("model.safetensors", "pytorch_model.bin"))


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"'{path}' can't be read ({error}). Copy it again.") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"'{path}' must hold a JSON object. Copy it again.")
    return data
