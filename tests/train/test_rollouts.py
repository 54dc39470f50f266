"""What is sampled into a folder, and what is refused to be mixed with it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from reflective import files
from reflective.engines.base import Sampling
from reflective.engines.torch import TorchEngine
from reflective.errors import CheckpointError
from reflective.judge.judge import Judge
from reflective.models import Checkpoint
from reflective.train import rollouts
from reflective.train.rollout_settings import source_digest
from reflective.train.rollouts import load_rollouts, sample_rollouts
from reflective.types import Problem
from tiny import tiny_checkpoint

PROBLEMS = [Problem(f"What is {i} + 1?", str(i + 1), id=f"p{i}", metadata={"number": i}) for i in range(3)]


def checkpoint(seed: int = 0) -> Checkpoint:
    return tiny_checkpoint(seed=seed, step_token_ids=range(40, 100))


def sample(folder: Path, made: Checkpoint, problems: list[Problem] = PROBLEMS, layer: int = -2) -> bool:
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
    )


def test_what_was_sampled_is_not_sampled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sample(tmp_path, checkpoint())
    assert load_rollouts(tmp_path).problems == [0, 0, 1, 1, 2, 2]
    monkeypatch.setattr(rollouts, "_save_shard", None)  # a shard more would be an error
    assert sample(tmp_path, checkpoint())


def test_trajectories_of_anything_else_are_refused(tmp_path: Path) -> None:
    made = checkpoint()
    sample(tmp_path, made)
    assert made.config is not None
    other = replace(made.config, format=replace(made.config.format, step_ids=frozenset({46})))
    other_steps = replace(made, judge=Judge(other))
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
    ("text", "told"),
    [
        (json.dumps({"format": "1", "digest": "0"}), "another version"),
        ("", "is damaged"),
        ("[]", "is damaged"),
        (None, "no settings.json"),
    ],
)
def test_a_folder_that_does_not_say_what_it_holds_is_refused(tmp_path: Path, text: str | None, told: str) -> None:
    sample(tmp_path, checkpoint())
    (tmp_path / "settings.json").unlink()
    if text is not None:
        (tmp_path / "settings.json").write_text(text, encoding="utf-8")
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

    monkeypatch.setattr(rollouts, "save_file", no_room)
    with pytest.raises(CheckpointError, match="No space left"):
        sample(tmp_path, checkpoint())
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]
    assert sample(tmp_path, checkpoint())
