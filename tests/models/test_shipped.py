"""Heads that come with the package: listed, and found for the models that they belong to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from reflective.engines.vllm.engine import VLLMEngine
from reflective.engines.vllm.plan import WITHOUT_SCORES
from reflective.errors import CheckpointError
from reflective.evaluate.policies import model_of_run
from reflective.judge.judge import Judge
from reflective.models import Metadata, load_checkpoint, read_metadata, save_checkpoint, save_judge, shipped
from reflective.models.fingerprint import fingerprint_of
from tiny import tiny_checkpoint, tiny_model

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """The model of the shipped head, without a head of its own."""
    made = tiny_checkpoint("qwen2")
    return save_checkpoint(tmp_path / "plain", replace(made, judge=made.judge.without_head()))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that ships one head, of the tiny model with seed 0."""
    root = tmp_path / "heads"
    made = tiny_checkpoint("qwen2")
    fingerprint = fingerprint_of(made.model, made.tokenizer, made.judge.config.layer)
    save_judge(root / "tiny-head", Judge(replace(made.judge.config, fingerprint=fingerprint), made.judge.head))
    entry = {"name": "tiny-head", "hub_ids": ["Owner/Tiny"], "summary": "for tests"}
    (root / "index.json").write_text(json.dumps({"heads": [entry]}))
    monkeypatch.setattr(shipped.resources, "files", lambda package: root)
    return root


def test_the_index_of_this_package_is_read_and_every_head_in_it_is_whole() -> None:
    for head in shipped.shipped_heads():
        assert head.hub_ids and head.config.fingerprint is not None
        assert (head.folder / "MODEL_CARD.md").is_file() and (head.folder / "head.safetensors").is_file()


def test_a_model_without_a_chat_template_finds_its_head_and_says_what_it_lacks(package: Path, plain: Path) -> None:
    (plain / "chat_template.jinja").unlink()
    remark = load_checkpoint(plain, device="cpu", dtype="float32").remark
    assert "the head 'tiny-head'" in remark and "The model has no chat template" in remark


def test_a_run_finds_the_head_of_the_package_that_scored_it(package: Path, plain: Path) -> None:
    digest = load_checkpoint(plain, device="cpu", dtype="float32").judge.digest
    found = model_of_run(str(plain), digest)
    assert (found.shipped, found.judge.digest) == ("tiny-head", digest)
    assert not model_of_run(str(plain), "another").judge.scores
    assert not model_of_run(str(plain), "").judge.scores, "a run without scores"


def test_a_model_without_a_head_finds_its_one_by_its_fingerprint(package: Path, plain: Path) -> None:
    loaded = load_checkpoint(plain, device="cpu", dtype="float32")
    assert loaded.head is not None and loaded.deviation is not None and loaded.deviation < 1e-3
    assert "the head 'tiny-head', which comes with the package" in loaded.remark
    assert "no chat template" not in loaded.remark
    without = load_checkpoint(plain, device="cpu", head="none", require_head=False)
    assert without.head is None and without.remark == ""


def test_a_hub_id_finds_it_without_weights(package: Path, plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: str(plain))
    found = read_metadata("owner/tiny")
    assert found.judge.scores and found.head_folder == package / "tiny-head"
    with pytest.raises(CheckpointError, match="no SPRM head"):
        read_metadata("owner/another")


def test_one_that_vllm_cannot_compute_is_left_out_there_unless_a_head_is_needed(
    package: Path, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: str(plain))
    path = package / "tiny-head/config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "feature_position": "mean"}))
    started: dict[str, Any] = {}

    def start(self: VLLMEngine, model: Metadata, **options: Any) -> None:
        started.update(options, model=model)
        self.remark = ""

    monkeypatch.setattr(VLLMEngine, "__init__", start)
    engine = VLLMEngine.from_source("owner/tiny", require_head=False)
    assert "can't compute the head 'tiny-head'" in engine.remark and not started["model"].judge.scores
    assert started["additional_config"] == WITHOUT_SCORES
    with pytest.raises(CheckpointError, match="reads more of a trajectory than its last position"):
        VLLMEngine.from_source("owner/tiny", require_head=True)


def test_a_model_of_the_same_shapes_is_left_without(package: Path, tmp_path: Path) -> None:
    made = tiny_checkpoint("qwen2", seed=1)
    folder = save_checkpoint(tmp_path / "other", replace(made, judge=made.judge.without_head()))
    loaded = load_checkpoint(folder, device="cpu", dtype="float32", require_head=False)
    assert loaded.head is None and loaded.remark == ""
    with pytest.raises(CheckpointError, match="no SPRM head"):
        load_checkpoint(folder, device="cpu", dtype="float32")


def test_a_models_own_head_comes_first(package: Path, tiny_checkpoint_folder: Callable[[str], Path]) -> None:
    assert read_metadata(tiny_checkpoint_folder("qwen2"), weights=True).shipped == ""


def test_they_are_listed(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from reflective.cli import main

    assert main(["heads", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["name"], listed["models"], listed["summary"]) == ("tiny-head", ["Owner/Tiny"], "for tests")
    assert main(["heads"]) == 0
    assert "Owner/Tiny" in capsys.readouterr().out


def test_a_damaged_index_is_one_line(package: Path) -> None:
    (package / "index.json").write_text("{")
    with pytest.raises(CheckpointError, match="Install reflective again"):
        shipped.shipped_heads()
    shutil.rmtree(package)
    assert shipped.shipped_heads() == ()


def test_the_model_that_the_tests_take_for_another_is_one() -> None:
    assert not (tiny_model("qwen2").lm_head.weight == tiny_model("qwen2", seed=1).lm_head.weight).any()
