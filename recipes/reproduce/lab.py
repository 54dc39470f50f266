"""Where the studies work: one model, its folders, and the trajectories that they share, sampled once.

    <output>/shared/<split>    records of the model, and shards/ of their steps
    <output>/<study>           what a study adds

In each of them: settings.json, what the records were made with, so that other settings are refused; sittings.jsonl,
how long it took, a line a sitting; and `done`, once everything of it is recorded.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from sampling import sample
from settings import DataSettings, Settings
from writing import hardware

from reflective.engines.torch import TorchEngine
from reflective.errors import InputError
from reflective.judge.config import JudgeConfig
from reflective.judge.judge import Judge
from reflective.models import Checkpoint, load_checkpoint
from reflective.models.digest import weights_digest
from reflective.records import Record
from reflective.records.manifest import RECORDS
from reflective.search import Settings as SearchSettings
from reflective.shards import Place, Steps, load_features
from reflective.tasks import TASKS, mixture
from reflective.tasks.base import Split
from reflective.train.features import read_features
from reflective.train.progress import Note
from reflective.train.rollouts import load_records
from reflective.types import Problem

SHARED = "shared"
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
SEEDS = {"train": 11, "validation": 12, "test": 13}  # of the trajectories, so that no two splits draw alike
BEFORE = Place(-2, "before")  # where the shipped head reads


class Lab:
    """What a study is given. Everything that is made here is made when it is first asked for."""

    def __init__(self, settings: Settings, root: Path, note: Note) -> None:
        self.settings, self.root, self.note = settings, root, note
        self._loaded: dict[str, tuple[list[Record], dict[str, Steps]]] = {}

    # ---- the model

    def checkpoint(self) -> Checkpoint:
        """The model, freshly loaded: an engine changes how its model attends, and a training changes its weights."""
        return load_checkpoint(self.settings.model, require_head=False)

    @cached_property
    def sprm(self) -> JudgeConfig:
        """Where steps end and where the head reads."""
        return self.checkpoint().judge.config

    @cached_property
    def weights(self) -> str:
        """A hash of the model."""
        return weights_digest(self.checkpoint().model)

    @cached_property
    def head_weights(self) -> str:
        """A hash of the head that it came with, empty without one."""
        checkpoint = self.checkpoint()
        if checkpoint.head is None:
            return ""
        how = json.dumps(dataclasses.asdict(self.sprm), sort_keys=True, default=str)
        return f"{weights_digest(checkpoint.head)}-{hashlib.sha256(how.encode()).hexdigest()[:8]}"

    # ---- what all studies share

    def problems(self, split: Split) -> list[Problem]:
        """The problems of a split, families and levels in turn."""
        data = self.settings.data
        count: int = getattr(data, f"{split}_problems")
        return list(mixture(split, count, data.levels, data.families or tuple(TASKS), data.seed))

    def search_settings(self, split: Split) -> SearchSettings:
        """How trajectories of a split are drawn."""
        return search_settings(self.settings.data, SEEDS[split])

    def records(self, split: Split, problems: int | None = None) -> list[Record]:
        """The model's trajectories of a split, of the first `problems` of them; sampled where they are missing."""
        folder, data = self.root / SHARED / split, self.settings.data
        wanted: int = getattr(data, f"{split}_problems")
        if count_lines(folder / RECORDS) < wanted:
            k: int = getattr(data, f"{split}_trajectories")
            self.note(f"{split}: {wanted:,} problems × {k} trajectories")
            engine = engine_of(self.checkpoint(), self.sprm, max_rows=data.rows, keep_confidences=split == "test")
            found = sample(
                engine, self.problems(split), k, folder, self.search_settings(split), self.note, keep_ids=True
            )
            engine.close()
        else:
            found = load_records(folder)
        return found[:problems]

    def steps(self, split: Split, problems: int | None = None) -> tuple[list[Record], dict[str, Steps]]:
        """The records of a split and the hidden states at their steps, where the shipped head reads."""
        if split not in self._loaded:
            folder, records = self.root / SHARED / split, self.records(split)
            read_features(self.reader, self.sprm.format, records, [BEFORE], folder, self.note)
            self._loaded[split] = records, load_features(folder, BEFORE)
        records, steps = self._loaded[split]
        return records[:problems], steps

    @cached_property
    def reader(self) -> Any:
        """The model by Hugging Face's own forward, in float32."""
        return self.checkpoint().model.float().eval()

    # ---- a study's folder

    @contextmanager
    def sitting(self, name: str) -> Iterator[Path]:
        """The folder of a study while it works there. Refuses a folder with other settings; keeps the time."""
        self.claim(name)
        folder = self.root / name
        began, worked = time.monotonic(), time.process_time()
        try:
            yield folder
            (folder / "done").touch()
        finally:
            with (folder / "sittings.jsonl").open("a", encoding="utf-8") as file:
                spent = {"seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - worked}
                row = {name: round(value, 1) for name, value in spent.items()} | {"hardware": hardware()}
                file.write(json.dumps(row) + "\n")

    def claim(self, name: str) -> None:
        """Note what a study's records are made with. Raises `InputError` where they were made with something else."""
        path = self.root / name / "settings.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        wanted = {
            "model": Path(self.settings.model).name,
            "weights": self.weights,
            "head_weights": self.head_weights,
            **self.settings.of_study(name),
        }
        wanted = json.loads(json.dumps(wanted))
        if not path.exists():
            path.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
            return
        found = json.loads(path.read_text(encoding="utf-8"))
        for key in {**wanted, **found}:
            if wanted.get(key) != found.get(key):
                raise InputError(
                    f"'{path.parent}' was made with another {key!r} (see {path.name}). "
                    "Name another --output, or remove the folder."
                )


def engine_of(checkpoint: Checkpoint, sprm: JudgeConfig, **options: Any) -> TorchEngine:
    """The engine of a model; one without a head knows from `sprm` where reasoning and steps end."""
    if checkpoint.head is not None:
        return TorchEngine.from_checkpoint(checkpoint, **options)
    return TorchEngine(checkpoint.model, checkpoint.tokenizer, Judge(sprm), name=checkpoint.name, **options)


def is_done(root: Path, name: str) -> bool:
    """Whether everything of a study is recorded."""
    return (root / name / "done").exists()


def study_settings(root: Path, name: str) -> dict[str, Any]:
    """What a study's records were made with."""
    found: dict[str, Any] = json.loads((root / name / "settings.json").read_text(encoding="utf-8"))
    return found


def seconds_of(root: Path, name: str) -> float:
    """How long a study took, over all its sittings."""
    return float(sum(row["seconds"] for row in json_lines(root / name / "sittings.jsonl")))


def made_on(root: Path, names: Sequence[str]) -> list[str]:
    """The machines that these studies' records were made on, the first first."""
    rows = [row for name in names for row in json_lines(root / name / "sittings.jsonl")]
    return list(dict.fromkeys(row["hardware"] for row in rows))


def json_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a file; none where it is not there. A line that a killed process began is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def search_settings(data: DataSettings, seed: int) -> SearchSettings:
    """Temperature 1, and the bounds of the data's settings."""
    return SearchSettings(seed=1000 * data.seed + seed, max_tokens=data.max_tokens, answer_tokens=data.answer_tokens)


def count_lines(path: Path) -> int:
    """Whole lines of a file; 0 where it is not there."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        return sum(line.endswith(b"\n") for line in file)
