"""What is sampled into a folder, and what is refused to be mixed with it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from reflective import files, shards
from reflective.engines.base import Sampling
from reflective.engines.torch import TorchEngine
from reflective.errors import CheckpointError
from reflective.judge.judge import Judge
from reflective.models import Checkpoint
from reflective.shards import Place
from reflective.train import rollouts
from reflective.train.rollout_settings import source_digest
from reflective.train.rollouts import load_rollouts, sample_rollouts
from reflective.types import Problem
from tiny import tiny_checkpoint

PROBLEMS = [Problem(f"What is {i} + 1?", str(i + 1), id=f"p{i}", metadata={"number": i}) for i in range(3)]


def checkpoint(seed: int = 0) -> Checkpoint:
    return tiny_checkpoint(seed=seed, step_token_ids=range(40, 100))


def sample(folder: Path, made: Checkpoint, problems: list[Problem] = PROBLEMS, layer: int = -2, **options: Any) -> bool:
    assert made.config is not None
    sprm = replace(made.config, layer=layer)
    engine = TorchEngine(made.model, made.tokenizer, Judge(sprm), catch_features=True)
    return sample_rollouts(
        engine,
        problems,
        2,
        folder,
        sampling=Sampling(),
        max_tokens=6,
        seed=0,
        note=lambda _: None,
        source=source_digest(made.model, sprm),
        **options,
    )


def test_what_was_sampled_is_not_sampled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sample(tmp_path, checkpoint())
    assert load_rollouts(tmp_path, Place(-2)).problems == [0, 0, 1, 1, 2, 2]
    monkeypatch.setattr(rollouts, "Shard", None)  # a shard more would be an error
    assert sample(tmp_path, checkpoint())


def test_trajectories_of_anything_else_are_refused(tmp_path: Path) -> None:
    made = checkpoint()
    sample(tmp_path, made)
    assert made.config is not None
    other = replace(made.config, format=replace(made.config.format, step_ids=frozenset({46})))
    other_steps = replace(made, judge=Judge(other, made.head))
    other_kind = [replace(PROBLEMS[0], kind="exact"), *PROBLEMS[1:]]
    other_metadata = [replace(PROBLEMS[0], metadata={"number": 9}), *PROBLEMS[1:]]
    for again in (
        lambda: sample(tmp_path, made, layer=-3),
        lambda: sample(tmp_path, checkpoint(seed=1)),
        lambda: sample(tmp_path, other_steps),
        lambda: sample(tmp_path, made, other_kind),
        lambda: sample(tmp_path, made, other_metadata),
    ):
        with pytest.raises(CheckpointError, match="of other weights, problems or settings"):
            again()
    with torch.no_grad():
        made.model.get_input_embeddings().weight[0, 0] += 1.0  # another model under the same name
    with pytest.raises(CheckpointError, match="of other weights"):
        sample(tmp_path, made)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("settings.json", json.dumps({"format": "2", "digest": "0"}), "another version"),
        ("manifest.json", "", "is damaged"),
        ("manifest.json", "[]", "is damaged"),
        ("manifest.json", json.dumps({"version": 99}), "is damaged"),
        (None, "", "no manifest.json"),
    ],
)
def test_a_folder_that_does_not_say_what_it_holds_is_refused(
    tmp_path: Path, name: str | None, text: str, told: str
) -> None:
    sample(tmp_path, checkpoint())
    (tmp_path / "manifest.json").unlink()
    if name is not None:
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=told):
        sample(tmp_path, checkpoint())


def test_a_full_disk_is_one_line_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(temporary: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "publish", full)
    with pytest.raises(CheckpointError, match="No space left"):
        sample(tmp_path, checkpoint())
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()

    def no_room(tensors: object, path: str, metadata: object) -> None:
        Path(path).write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(shards, "save_file", no_room)
    with pytest.raises(CheckpointError, match="No space left"):
        sample(tmp_path, checkpoint())
    monkeypatch.undo()
    left = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))
    assert left == ["manifest.json", "records.jsonl", "shards"] and not (tmp_path / "records.jsonl").read_bytes()
    assert sample(tmp_path, checkpoint())
