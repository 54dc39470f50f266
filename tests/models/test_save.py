"""Saving: all of it or nothing, whatever fails and whenever the process dies."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from reflective import files
from reflective.errors import CheckpointError
from reflective.judge import sidecar
from reflective.judge.config import JudgeConfig
from reflective.judge.heads.paper import SPRMHead
from reflective.judge.judge import Judge
from reflective.models import Checkpoint, load_checkpoint, save_checkpoint, save_judge
from tiny import tiny_checkpoint


@pytest.fixture(scope="module")
def other() -> Checkpoint:
    """A checkpoint with other weights than the one on the disk."""
    return tiny_checkpoint("qwen2", seed=1)


@pytest.fixture
def folder(tmp_path: Path, tiny_checkpoint_folder: Callable[[str], Path]) -> Path:
    return Path(shutil.copytree(tiny_checkpoint_folder("qwen2"), tmp_path / "model"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def head_of(checkpoint: Checkpoint) -> tuple[SPRMHead, JudgeConfig]:
    assert checkpoint.head is not None and checkpoint.config is not None
    return checkpoint.head, checkpoint.config


def test_an_existing_checkpoint_is_replaced_as_a_whole(folder: Path, other: Checkpoint) -> None:
    (folder / "score_module.pt").write_bytes(b"of the old model")
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"of the old model")
    save_checkpoint(folder, other)
    loaded = load_checkpoint(folder, device="cpu", dtype="float32")
    assert torch.equal(loaded.model.get_input_embeddings().weight, other.model.get_input_embeddings().weight)
    assert not (folder / "score_module.pt").exists()
    assert not (folder / "model-00001-of-00002.safetensors").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["model"]  # nothing is left lying about


def test_files_of_other_names_are_kept_with_their_identity(folder: Path, other: Checkpoint) -> None:
    (folder / "README.md").write_text("card")
    (folder / "logs" / "deep").mkdir(parents=True)
    with (folder / "logs" / "deep" / "events").open("w") as log:
        save_checkpoint(folder, other)
        log.write("still written")
    assert (folder / "README.md").read_text() == "card"
    assert (folder / "logs" / "deep" / "events").read_text() == "still written"


def test_a_new_folder_is_made_with_its_parents(tmp_path: Path, other: Checkpoint) -> None:
    path = save_checkpoint(tmp_path / "a" / "b", other)
    assert load_checkpoint(path, device="cpu").head is not None


def test_a_model_without_a_head_is_saved_without(tmp_path: Path, other: Checkpoint) -> None:
    path = save_checkpoint(tmp_path / "plain", replace(other, judge=other.judge.without_head()))
    assert not (path / "sprm").exists()


def test_the_backbone_may_be_saved_in_another_type(tmp_path: Path, other: Checkpoint) -> None:
    path = save_checkpoint(tmp_path / "small", other, dtype=torch.bfloat16)
    assert {t.dtype for t in load_file(path / "model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((path / "config.json").read_text())["dtype"] == "bfloat16"
    assert {t.dtype for t in load_file(path / "sprm" / "head.safetensors").values()} == {torch.float32}
    assert other.model.dtype == torch.float32  # the one in memory is as it was


def test_what_is_tied_is_written_once_in_another_type_too(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint("gemma")
    whole, small = (
        load_file(save_checkpoint(tmp_path / str(dtype), checkpoint, dtype=dtype) / "model.safetensors")
        for dtype in (None, torch.bfloat16)
    )
    assert small.keys() == whole.keys() and "lm_head.weight" not in small
    assert all(torch.equal(small[key], whole[key].to(torch.bfloat16)) for key in whole)


def test_a_head_that_hangs_on_the_model_is_not_among_its_weights(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint("gemma")  # with tied embeddings
    checkpoint.model.add_module("sprm", checkpoint.head)
    path = save_checkpoint(tmp_path / "model", checkpoint)
    keys = load_file(path / "model.safetensors").keys()
    assert not [key for key in keys if key.startswith("sprm")] and "lm_head.weight" not in keys
    assert load_checkpoint(path, device="cpu").head is not None


def test_a_gathered_state_dict_is_saved_in_place_of_the_models(tmp_path: Path, other: Checkpoint) -> None:
    state = {key: torch.zeros_like(tensor) for key, tensor in other.model.state_dict().items()}
    path = save_checkpoint(tmp_path / "model", other, state_dict=state)
    assert not any(tensor.any() for tensor in load_file(path / "model.safetensors").values())


def test_the_head_alone_is_saved_beside_its_model(folder: Path, other: Checkpoint) -> None:
    before = contents(folder)
    head, config = head_of(other)
    save_judge(folder / "sprm", Judge(replace(config, provenance={"task": "countdown"}), head))
    after = contents(folder)
    assert {name for name in after if before.get(name) != after[name]} == {"sprm/config.json", "sprm/head.safetensors"}
    loaded = load_checkpoint(folder, device="cpu")
    assert loaded.config is not None and loaded.config.provenance == {"task": "countdown"}
    assert loaded.head is not None and torch.equal(loaded.head.hidden.weight, head.hidden.weight)


def test_a_judge_has_a_folder_of_its_own_anywhere(tmp_path: Path, folder: Path, other: Checkpoint) -> None:
    place = save_judge(tmp_path / "heads" / "mine", other.judge)
    assert sorted(path.name for path in place.iterdir()) == ["config.json", "head.safetensors"]
    shutil.rmtree(folder / "sprm")
    loaded = load_checkpoint(folder, device="cpu", head=place)
    assert loaded.head is not None and other.head is not None and loaded.judge.config == other.judge.config
    assert all(torch.equal(loaded.head.state_dict()[name], t) for name, t in other.head.state_dict().items())


def test_a_judge_is_not_saved_over_something_else(folder: Path, other: Checkpoint) -> None:
    before = contents(folder)
    with pytest.raises(CheckpointError, match="something else than a head.*sprm"):
        save_judge(folder, other.judge)
    assert contents(folder) == before


def test_a_head_is_not_saved_with_a_config_of_another(folder: Path, other: Checkpoint) -> None:
    head, config = head_of(other)
    before = contents(folder)
    with pytest.raises(CheckpointError, match="is not that of its config"):
        save_judge(folder / "sprm", Judge(replace(config, logprob_features=True), head))
    assert contents(folder) == before


def test_a_file_in_the_way_is_refused(tmp_path: Path, other: Checkpoint) -> None:
    (tmp_path / "model").write_text("x")
    with pytest.raises(CheckpointError, match="is a file"):
        save_checkpoint(tmp_path / "model", other)


def full_disk(*args: Any, **kwargs: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def full_disk_in_safetensors(*args: Any, **kwargs: Any) -> None:
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("failure", [full_disk, full_disk_in_safetensors])
@pytest.mark.parametrize("place", ["save_file", "model", "tokenizer", "flush"])
def test_a_full_disk_leaves_what_was_there(
    folder: Path, other: Checkpoint, monkeypatch: pytest.MonkeyPatch, place: str, failure: Callable[..., None]
) -> None:
    if place == "save_file":
        monkeypatch.setattr(sidecar, "save_file", failure)
    elif place == "flush":
        monkeypatch.setattr(os, "fsync", failure)
    else:
        monkeypatch.setattr(type(getattr(other, place)), "save_pretrained", failure)
    before = contents(folder)
    with pytest.raises(CheckpointError) as caught:
        save_checkpoint(folder, other)
    assert "No space left on device" in str(caught.value) and "untouched" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert contents(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_full_disk_leaves_the_old_head(folder: Path, other: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(folder)
    monkeypatch.setattr(Path, "write_text", full_disk)  # the config, after the weights
    with pytest.raises(CheckpointError, match="No space left"):
        save_judge(folder / "sprm", other.judge)
    assert contents(folder) == before
    assert not [path for path in folder.iterdir() if path.name.endswith(".tmp")]


SAVE_AND_DIE = """
import os, signal, sys
sys.path.insert(0, {src!r})
from reflective import files
from reflective.judge.config import JudgeConfig
from reflective.judge.format import between_marks
from reflective.judge.judge import Judge
from reflective.models import save
from reflective.judge.heads.paper import SPRMHead
owner = save if hasattr(save, {place!r}) else files
original = getattr(owner, {place!r})
def die(*args):
    if {after!r}:
        original(*args)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(owner, {place!r}, die)
config = JudgeConfig(64, between_marks([257], 261, 262), provenance={{"new": True}})
save.save_judge({folder!r} + "/sprm", Judge(config, SPRMHead(64)))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("place", "after"), [("write_judge", True), ("_swap", False), ("_swap", True)])
def test_a_killed_process_leaves_the_old_or_the_new_head(folder: Path, place: str, after: bool) -> None:
    before = contents(folder / "sprm")
    src = str(Path(__file__).parents[2] / "src")
    code = SAVE_AND_DIE.format(src=src, place=place, after=after, folder=str(folder))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == -signal.SIGKILL, result.stderr
    if place == "_swap" and after:
        loaded = load_checkpoint(folder, device="cpu")
        assert loaded.config is not None and loaded.config.provenance == {"new": True}
    else:
        assert contents(folder / "sprm") == before
        assert load_checkpoint(folder, device="cpu").head is not None  # what lies about beside it harms nothing


def test_without_an_atomic_exchange_the_result_is_the_same(
    folder: Path, other: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_exchange", lambda a, b: False)
    save_checkpoint(folder, other)
    assert load_checkpoint(folder, device="cpu").head is not None
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_linked_folder_stays_a_link(tmp_path: Path, folder: Path, other: Checkpoint) -> None:
    link = tmp_path / "latest"
    link.symlink_to(folder)
    before = contents(folder)
    save_checkpoint(link, other)
    assert link.is_symlink() and contents(folder) != before
    assert load_checkpoint(link, device="cpu").head is not None


def test_a_mount_point_is_refused_in_a_line(folder: Path, other: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(a: Path, b: Path) -> bool:
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(files, "_exchange", busy)
    with pytest.raises(CheckpointError, match="mount point"):
        save_checkpoint(folder, other)
