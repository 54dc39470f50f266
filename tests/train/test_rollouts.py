"""What is sampled into a folder, and what is refused to be mixed with it."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from reflective import files, shards
from reflective.engines.base import Sampling
from reflective.engines.torch import TorchEngine
from reflective.errors import CheckpointError, InputError
from reflective.evaluate.report.browse import problems_to_show
from reflective.evaluate.report.content import read_runs
from reflective.judge.judge import Judge
from reflective.models import Checkpoint
from reflective.records import read_records
from reflective.records.manifest import RECORDS
from reflective.shards import Place
from reflective.train import rollouts
from reflective.train.features import read_features
from reflective.train.rollout_settings import RolloutSettings, source_digest
from reflective.train.rollouts import load_records, load_rollouts, sample_rollouts
from reflective.types import Problem, Timing, Verdict
from tiny import tiny_checkpoint

PROBLEMS = [Problem(f"What is {i} + 1?", str(i + 1), id=f"p{i}", metadata={"number": i}) for i in range(3)]


def checkpoint(seed: int = 0) -> Checkpoint:
    return tiny_checkpoint(seed=seed, step_token_ids=range(40, 100))


def sample(
    folder: Path,
    made: Checkpoint,
    problems: list[Problem] = PROBLEMS,
    layer: int = -2,
    rows: int = 64,
    caught: Sequence[int] = (),
    means: bool = False,
    layers: Sequence[int] = (),
    **options: Any,
) -> bool:
    assert made.config is not None
    sprm = replace(made.config, layer=layer)
    engine = TorchEngine(
        made.model,
        made.tokenizer,
        Judge(sprm),
        catch_features=True,
        max_rows=rows,
        layers=caught,
        catch_means=means,
    )
    how = RolloutSettings(Sampling(), 6, 0, source_digest(made.model, sprm), layers)
    return sample_rollouts(engine, problems, 2, folder, how, note=lambda _: None, **options)


def test_what_was_sampled_is_not_sampled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sample(tmp_path, checkpoint())
    assert load_rollouts(tmp_path, Place(-2)).problems == [0, 0, 1, 1, 2, 2]
    monkeypatch.setattr(rollouts, "Shard", None)  # a shard more would be an error
    assert sample(tmp_path, checkpoint())


def test_the_engine_goes_on_while_answers_are_graded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stepped, went_on = threading.Event(), []
    step = TorchEngine.step

    def counted(self: TorchEngine) -> Any:
        stepped.set()
        return step(self)

    def graded(problem: Problem, answer: str | None) -> Verdict:
        if problem.id == "p0":
            stepped.clear()
            went_on.append(stepped.wait(30))
        return Verdict("wrong")

    monkeypatch.setattr(TorchEngine, "step", counted)
    assert sample(tmp_path, checkpoint(), rows=2, grade=graded)
    assert went_on and all(went_on)
    assert [record.key for record in load_records(tmp_path)] == ["p0", "p1", "p2"]


def test_an_error_of_the_grader_ends_the_sampling_and_what_was_graded_stays(tmp_path: Path) -> None:
    def graded(problem: Problem, answer: str | None) -> Verdict:
        if problem.id == "p1":
            raise RuntimeError("the grader broke")
        return Verdict("wrong")

    with pytest.raises(RuntimeError, match="the grader broke"):
        sample(tmp_path, checkpoint(), rows=2, grade=graded)
    assert [record.key for record in load_records(tmp_path)] in (["p0"], ["p0", "p2"])
    assert sample(tmp_path, checkpoint())
    assert len(load_records(tmp_path)) == 3


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


def lines(folder: Path) -> dict[str, Any]:
    """The records without what the clock says, by key."""
    return {record.key: replace(record, timing=Timing(0.0)) for record in read_records(folder / RECORDS)}


def test_an_interrupted_run_holds_what_an_uninterrupted_one_holds(tmp_path: Path) -> None:
    made, problems = checkpoint(), [replace(PROBLEMS[0], text=f"What is {i} + 2?", id=f"q{i}") for i in range(6)]
    assert sample(tmp_path / "whole", made, problems)

    class After:
        """A user who presses Ctrl-C when something is there."""

        looks = 0

        @property
        def requested(self) -> bool:
            self.looks += 1
            return self.looks > 3

    stop: Any = After()
    parts = tmp_path / "parts"
    assert not sample(parts, made, problems, rows=2, stop=stop)
    assert 0 < len(lines(parts)) < 6
    (parts / "shards").mkdir(exist_ok=True)
    (parts / "shards" / "000005.safetensors").write_bytes(b"of a process killed between a shard and its record")
    with (parts / RECORDS).open("ab") as file:
        file.write(b'{"version":1,"prob')  # of a process killed in the middle of a line
    assert sample(parts, made, problems, rows=3)
    assert lines(parts) == lines(tmp_path / "whole")
    for number in range(6):
        name = f"shards/{number:06d}.safetensors"
        assert (parts / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_several_layers_are_kept_of_the_same_trajectories(tmp_path: Path) -> None:
    made = checkpoint()
    assert sample(tmp_path / "many", made, layers=[-1, -2, -3])
    assert sample(tmp_path / "other", made, layer=-3)
    caught, read = load_rollouts(tmp_path / "other", Place(-3)), load_rollouts(tmp_path / "many", Place(-3))
    assert caught.starts == read.starts and len(read.features) > 0
    # bfloat16, and another order of additions
    torch.testing.assert_close(caught.features, read.features, rtol=1e-2, atol=1e-2)
    assert not torch.equal(read.features, load_rollouts(tmp_path / "many", Place(-1)).features)
    with pytest.raises(InputError, match="no features at -1/before"):
        load_rollouts(tmp_path / "other", Place(-1))


def test_what_is_caught_of_further_layers_is_what_would_be_read_of_them(tmp_path: Path) -> None:
    made, places = (
        checkpoint(),
        [Place(-2), Place(-1), Place(1), Place(-2, "mean"), Place(-1, "mean"), Place(1, "mean")],
    )
    assert sample(tmp_path / "caught", made, caught=[-1, 1], means=True) and sample(tmp_path / "read", made)
    records = load_records(tmp_path / "read")
    assert made.config is not None
    read_features(made.model, made.config.format, records, places, tmp_path / "read", lambda _: None)
    for place in places:
        caught, read = (load_rollouts(tmp_path / name, place) for name in ("caught", "read"))
        assert caught.starts == read.starts and len(read.features) > 0
        torch.testing.assert_close(caught.features, read.features, rtol=1e-2, atol=1e-2)  # bfloat16
    with pytest.raises(CheckpointError, match="caught"):
        sample(tmp_path / "read", made, caught=[-1, 1])


def test_the_first_problems_can_be_sampled_before_the_others(tmp_path: Path) -> None:
    made = checkpoint()
    assert sample(tmp_path / "whole", made)
    assert sample(tmp_path / "turns", made, first=1) and len(lines(tmp_path / "turns")) == 1
    assert load_rollouts(tmp_path / "turns", Place(-2)).problems == [0, 0], "what is there can be used"
    assert sample(tmp_path / "turns", made, first=2) and sample(tmp_path / "turns", made)
    assert lines(tmp_path / "turns") == lines(tmp_path / "whole")


def test_a_problem_too_long_for_the_context_is_recorded_and_teaches_nothing(tmp_path: Path) -> None:
    problems = [PROBLEMS[0], replace(PROBLEMS[1], text="word " * 400)]
    assert sample(tmp_path, checkpoint(), problems)
    first, second = load_records(tmp_path)
    assert len(first.trajectories) == 2 and not second.trajectories and "the prompt has" in second.notes[0]
    assert load_rollouts(tmp_path, Place(-2)).problems == [0, 0]


def test_the_samples_can_be_looked_at_with_their_texts(tmp_path: Path) -> None:
    sample(tmp_path / "train", checkpoint())
    sample(tmp_path / "validation", checkpoint(), [replace(p, id=f"v{i}") for i, p in enumerate(PROBLEMS)])
    runs = read_runs([tmp_path])
    assert [run.manifest.name for run in runs] == ["train", "validation"]
    record = load_records(tmp_path / "train")[0]
    (shown, *_) = problems_to_show(runs[0], 10**6)
    texts = {t["index"]: t["rest"] for t in shown["trajectories"]}
    assert texts == {t.index: t.thinking for t in record.trajectories} and all(texts.values())
    assert record.trajectories[0].token_ids and record.prompt_ids
