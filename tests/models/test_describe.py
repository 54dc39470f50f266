"""What `reflective info` tells, without loading weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

from reflective.errors import CheckpointError
from reflective.models import describe
from tiny import FAMILIES, tiny_model


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_those_of_the_model(family: str, tiny_checkpoint_folder: Callable[[str], Path]) -> None:
    told = describe(tiny_checkpoint_folder(family))
    assert told["parameters"]["backbone"] == sum(p.numel() for p in tiny_model(family).parameters())
    assert told["parameters"]["head"] == 64 * 128 + 128 + 128 + 1
    assert (told["layers"], told["hidden_size"], told["vocabulary"]) == (3, 64, 300)


def test_what_is_told_is_plain_json_with_the_heads_place_and_tokens(
    tiny_checkpoint_folder: Callable[[str], Path],
) -> None:
    folder = tiny_checkpoint_folder("qwen2")
    told = describe(folder)
    json.dumps(told)
    head = told["head"]
    assert told["format"]["step_tokens"] == [{"id": 257, "text": ".\n\n"}]
    assert (told["format"]["opening"], told["format"]["closing"]) == ("<think>", "</think>")
    assert (head["layer"], head["input_of_layer"], head["format"]) == (-2, 2, "sprm")
    assert head["aggregation"] == "geometric_mean" and head["calibration"] is None
    assert told["context_length"] == 512 and told["dtype"] == "float32"
    assert told["architecture"] == "Qwen2ForCausalLM"
    assert told["size_bytes"] == sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def test_no_weights_are_read(tmp_path: Path, tiny_checkpoint_folder: Callable[[str], Path]) -> None:
    """Of a hub model only the small files are there."""
    folder = Path(shutil.copytree(tiny_checkpoint_folder("qwen2"), tmp_path / "model"))
    (folder / "model.safetensors").unlink()
    assert describe(folder)["dtype"] == "float32"


def test_a_hub_model_is_described_from_its_small_files(
    monkeypatch: pytest.MonkeyPatch, tiny_checkpoint_folder: Callable[[str], Path]
) -> None:
    def snapshot_download(repository: str, *, allow_patterns: list[str]) -> str:
        assert not any(fnmatch in allow_patterns for fnmatch in ("*.safetensors", "*.bin"))
        return str(tiny_checkpoint_folder("qwen2"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert describe("owner/model")["name"] == "owner/model"


def test_a_model_without_a_head_is_described(tmp_path: Path, tiny_checkpoint_folder: Callable[[str], Path]) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint_folder("qwen2"), tmp_path / "model"))
    shutil.rmtree(folder / "sprm")
    told = describe(folder)
    assert told["head"] is None and told["parameters"]["head"] is None


@pytest.mark.parametrize("damage", [lambda data: data[:-4], lambda data: data[:4], lambda data: b"\xff" * 64])
def test_damaged_weights_are_told(
    tmp_path: Path, tiny_checkpoint_folder: Callable[[str], Path], damage: Callable[[bytes], bytes]
) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint_folder("qwen2"), tmp_path / "model"))
    path = folder / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"model\.safetensors' is damaged"):
        describe(folder)


def test_the_stored_type_is_told_not_that_of_the_config(
    tmp_path: Path, tiny_checkpoint_folder: Callable[[str], Path]
) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(tiny_checkpoint_folder("qwen2"), tmp_path / "model"))
    state: dict[str, Any] = load_file(folder / "model.safetensors")
    save_file({key: t.to(torch.bfloat16) for key, t in state.items()}, folder / "model.safetensors")
    assert describe(folder)["dtype"] == "bfloat16"


def test_what_is_no_language_model_is_refused(tmp_path: Path, tiny_checkpoint_folder: Callable[[str], Path]) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint_folder("qwen2"), tmp_path / "model"))
    shutil.rmtree(folder / "sprm")
    (folder / "config.json").write_text(json.dumps({"model_type": "vit", "architectures": ["ViTModel"]}))
    with pytest.raises(CheckpointError):
        describe(folder)
