"""The reference's `score_module.pt`: read, imported, and never run."""

from __future__ import annotations

import pickle
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reflective.errors import CheckpointError
from reflective.models import import_reference, load_checkpoint


def module(width: int = 64) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Dropout(0.5), nn.Linear(2 * width, 1)).eval()


@pytest.fixture
def folder(tmp_path: Path, tiny_checkpoint_folder: Callable[[str], Path]) -> Path:
    """A checkpoint as the reference writes it."""
    path = Path(shutil.copytree(tiny_checkpoint_folder("qwen2"), tmp_path / "model"))
    shutil.rmtree(path / "sprm")
    torch.save(module().state_dict(), path / "score_module.pt")
    return path


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder, device="cpu")
    message = str(caught.value)
    assert len(message.splitlines()) <= 2 and "score_module.pt" in message
    return message


def test_loading_reads_the_reference_directly(folder: Path) -> None:
    loaded = load_checkpoint(folder, device="cpu")
    h = torch.randn(5, 64)
    assert loaded.head is not None and loaded.config is not None
    torch.testing.assert_close(loaded.head(h), module()(h).squeeze(-1))
    assert loaded.tokenizer.decode(sorted(loaded.config.format.step_ids)) == ".\n\n"
    assert (loaded.config.layer, loaded.config.feature_position) == (-2, "before")


def test_import_in_place_adds_the_head_only(folder: Path) -> None:
    before = {path.name for path in folder.iterdir()}
    config = import_reference(folder)
    assert {path.name for path in folder.iterdir()} == before | {"sprm"}
    (folder / "score_module.pt").unlink()
    loaded = load_checkpoint(folder, device="cpu")
    h = torch.randn(5, 64)
    assert loaded.config == config and loaded.head is not None
    torch.testing.assert_close(loaded.head(h), module()(h).squeeze(-1))


def test_import_to_another_folder_leaves_the_source(folder: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    config = import_reference(folder, tmp_path / "out" / "model")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert not (tmp_path / "out" / "model" / "score_module.pt").exists()
    loaded = load_checkpoint(tmp_path / "out" / "model", device="cpu")
    assert loaded.config == config and config.provenance["imported_from"] == "score_module.pt"


def test_import_does_not_write_over_anything(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(CheckpointError, match="not empty"):
        import_reference(folder, tmp_path / "out")


def test_import_of_what_is_none(folder: Path) -> None:
    (folder / "score_module.pt").unlink()
    with pytest.raises(CheckpointError, match="has no score_module.pt"):
        import_reference(folder)


def test_import_with_the_papers_rule(folder: Path) -> None:
    assert import_reference(folder, rule="paper").format.step_ids == {257}


@pytest.mark.parametrize("junk", [b"", b"junk", b"PK\x03\x04", b"\x80\x02}q\x00."])
def test_a_file_of_other_bytes_is_damaged(folder: Path, junk: bytes) -> None:
    (folder / "score_module.pt").write_bytes(junk)
    refusal(folder)


def test_bfloat16_and_wrapped_weights(folder: Path) -> None:
    state = OrderedDict((f"module.{key}", t) for key, t in module().to(torch.bfloat16).state_dict().items())
    torch.save(state, folder / "score_module.pt")
    loaded = load_checkpoint(folder, device="cpu")
    assert loaded.head is not None
    assert torch.equal(loaded.head.hidden.weight, module().to(torch.bfloat16).state_dict()["0.weight"].float())


class RunsCode:
    """Unpickling it writes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.trace, "it ran")


def test_the_trap_works_when_it_is_unpickled_plainly(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(RunsCode(tmp_path / "trace")))
    assert (tmp_path / "trace").exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("hidden", [True, False])
def test_a_pickle_that_would_run_code_is_refused_and_does_not(
    folder: Path, tmp_path: Path, zipped: bool, hidden: bool
) -> None:
    content = (
        {**module().state_dict(), "extra": RunsCode(tmp_path / "trace")} if hidden else RunsCode(tmp_path / "trace")
    )
    if zipped:
        torch.save(content, folder / "score_module.pt")
    else:
        (folder / "score_module.pt").write_bytes(pickle.dumps(content))
    assert "would run code" in refusal(folder)
    with pytest.raises(CheckpointError):
        import_reference(folder)
    assert not (tmp_path / "trace").exists()
    assert not (folder / "sprm").exists()


def test_a_pickled_module_is_refused(folder: Path) -> None:
    torch.save(module(), folder / "score_module.pt")
    assert "would run code" in refusal(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(1)], "must hold a dict of tensors; got list"),
        (torch.zeros(1), "got Tensor"),
        ({"state": {"0.weight": torch.zeros(1)}}, "'state' is dict"),
        ({"0.weight": 1.0}, "'0.weight' is float"),
        ({0: torch.zeros(1)}, "0 is Tensor"),
        ({"0.weight": torch.zeros(1, dtype=torch.int8)}, "is torch.int8"),
        ({"0.weight": torch.zeros(2, 1)}, "a reference head has the keys"),
        ({}, "got nothing"),
    ],
)
def test_whatever_is_no_flat_dict_of_the_heads_tensors_is_refused(folder: Path, content: object, message: str) -> None:
    torch.save(content, folder / "score_module.pt")
    assert message in refusal(folder)


@pytest.mark.parametrize("keep", [0, 1, 100, 5000])
def test_a_truncated_file_is_refused(folder: Path, keep: int) -> None:
    path = folder / "score_module.pt"
    path.write_bytes(path.read_bytes()[:keep])
    assert "damaged" in refusal(folder)


def test_text_is_refused(folder: Path) -> None:
    (folder / "score_module.pt").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "damaged" in refusal(folder)


def changed(**changes: Tensor) -> dict[str, Tensor]:
    return {**module().state_dict(), **{key.replace("_", "."): t for key, t in changes.items()}}


def test_shapes_that_are_no_head(folder: Path) -> None:
    torch.save({**module().state_dict(), "3.weight": torch.zeros(1, 64)}, folder / "score_module.pt")
    assert "output.weight should have shape (1, 128)" in refusal(folder)
    torch.save({**module().state_dict(), "0.weight": torch.zeros(64)}, folder / "score_module.pt")
    assert "0.weight has shape (64,)" in refusal(folder)


def test_a_head_of_another_width(folder: Path) -> None:
    torch.save(module(32).state_dict(), folder / "score_module.pt")
    with pytest.raises(CheckpointError, match="width 32, this model's are 64"):
        load_checkpoint(folder, device="cpu")
