"""Hub ids without a network: each failure of the hub's client becomes a line that says what to do."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

from reflective.errors import CheckpointError
from reflective.models import load_checkpoint, resolve_source


def failing(error: Exception) -> Callable[..., str]:
    def snapshot_download(*args: Any, **kwargs: Any) -> str:
        raise error

    return snapshot_download


def hub_error(kind: type[errors.HfHubHTTPError]) -> errors.HfHubHTTPError:
    error = kind.__new__(kind)  # its constructor wants a response of the HTTP library in use
    Exception.__init__(error, "403 Client Error.\nmany more lines")
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.HFValidationError("bad"), "neither a folder nor a hub id"),
        (hub_error(errors.GatedRepoError), "is gated: accept its terms at https://huggingface.co/owner/model"),
        (hub_error(errors.RepositoryNotFoundError), "no folder here and no model on the hub"),
        (hub_error(errors.HfHubHTTPError), "refused 'owner/model': 403 Client Error"),
        (errors.LocalEntryNotFoundError("offline"), "the hub can't be reached"),
        (errors.OfflineModeIsEnabled("offline"), "the hub can't be reached"),
        (RuntimeError("a transport's own error"), "the hub can't be reached"),
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
    ],
)
def test_failures_of_the_hub_are_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception, message: str) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", failing(error))
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint("owner/model")
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_the_real_client_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="hub can't be reached"):
        load_checkpoint("nobody/no-such-model")
    with pytest.raises(CheckpointError, match="neither a folder nor a hub id"):
        load_checkpoint("not a name!")


def test_a_downloaded_model_loads(
    monkeypatch: pytest.MonkeyPatch, tiny_checkpoint_folder: Callable[[str], Path]
) -> None:
    asked: list[list[str]] = []

    def snapshot_download(repository: str, *, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(tiny_checkpoint_folder("qwen2"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    loaded = load_checkpoint("owner/model", device="cpu")
    assert loaded.name == "owner/model" and loaded.head is not None
    assert len(asked) == 1 and "*.safetensors" in asked[0] and "*.bin" not in asked[0]
    resolve_source("owner/model", weights=False)
    assert "*.safetensors" not in asked[1] and "sprm/*" in asked[1]


def test_an_older_repository_is_asked_for_its_other_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_checkpoint_folder: Callable[[str], Path]
) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint_folder("qwen2"), tmp_path / "model"))
    (folder / "model.safetensors").unlink()
    asked: list[list[str]] = []

    def snapshot_download(repository: str, *, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    resolve_source("owner/model")
    assert "*.bin" in asked[1]


def test_a_hub_repository_that_is_no_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: str(tmp_path))
    with pytest.raises(CheckpointError, match="no transformers model"):
        resolve_source("owner/data")
