"""Shards: the tensors of a record, beside it in one safetensors file per problem, whole or not there.

    <folder>/shards/000012.safetensors      of the record with the number 12 in its run

A shard holds of the problem's trajectories, one after another in the order of the record,

    features/-2/before   (N, H) bfloat16   the hidden states of their steps, a tensor per place
    logprobs             (T,) float64      the log-probability of each token (temperature 1, no filter)
    confidences          (T,) float32      DeepConf's confidence of each token (`reflective.confidence`)
    certainties          (T,) float32      the self-certainty of each token

each where it was kept, and in its metadata the record's key, the positions of the step tokens, and how many tokens each
trajectory has. A head is fitted on the features; the figures of the tokens replay rules that stop a trajectory on its
way. The shard is written before its record, so that a record that is there has its shard.

Letters: N steps of a problem's trajectories, n of one, T tokens of all, H hidden size.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from reflective.errors import CheckpointError, InputError
from reflective.files import disk_errors, whole_file
from reflective.judge.logprobs import step_logprobs
from reflective.types import Trajectory

SHARDS: Final = "shards"
FEATURES: Final = "features/"

Position = Literal["before", "at", "mean"]
Figure = Literal["logprobs", "confidences", "certainties"]
# as precise as engines give log-probabilities, since means of them are what a head is fitted on
DTYPES: Final[Mapping[Figure, torch.dtype]] = {
    "logprobs": torch.float64,
    "confidences": torch.float32,
    "certainties": torch.float32,
}


@dataclass(frozen=True, slots=True)
class Place:
    """A layer, as an index into `hidden_states`, and a position.

    "at" the step token, "before" it, where it is drawn, or the "mean" over the positions that drew the step's tokens.
    """

    layer: int
    position: Position = "before"

    def __str__(self) -> str:
        return f"{self.layer}/{self.position}"

    @classmethod
    def parse(cls, text: str) -> Place:
        """From `str(place)`."""
        layer, _, position = text.partition("/")
        for known in get_args(Position):
            if position == known:
                return cls(int(layer), known)
        raise InputError(f"{text!r} is no place; one is a layer and 'before', 'at' or 'mean', such as -2/before.")


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """The steps of a problem's trajectories at one place, one after the other."""

    positions: list[list[int]]  # of the step tokens of each trajectory
    features: Tensor  # (N, H)
    logprobs: Tensor  # (N, 2): mean and lowest token log-probability of each step

    @property
    def counts(self) -> list[int]:
        """n of each trajectory."""
        return [len(places) for places in self.positions]


@dataclass(frozen=True, slots=True, eq=False)
class Shard:
    """What lies beside one record."""

    key: str
    tokens: list[int]  # of each trajectory
    steps: list[list[int]] = field(default_factory=list)  # positions of the step tokens of each trajectory
    features: Mapping[Place, Tensor] = field(default_factory=dict)  # (N, H) each
    figures: Mapping[Figure, Tensor] = field(default_factory=dict)  # (T,) each

    @classmethod
    def of(
        cls,
        key: str,
        trajectories: Sequence[Trajectory],
        steps: Sequence[Sequence[int]] = (),
        features: Mapping[Place, Tensor] | None = None,
    ) -> Shard:
        """From a problem's trajectories and, where features were taken, the positions of their steps and (N, H)."""
        columns: dict[Figure, list[Sequence[float]]] = {
            "logprobs": [t.token_logprobs or () for t in trajectories],
            "confidences": [t.token_confidences for t in trajectories],
            "certainties": [t.token_certainties for t in trajectories],
        }
        tokens = [t.tokens for t in trajectories]
        figures = {
            name: torch.tensor([value for row in rows for value in row], dtype=DTYPES[name])
            for name, rows in columns.items()
            if any(tokens) and [len(row) for row in rows] == tokens  # kept of all trajectories
        }
        return cls(key, tokens, [list(places) for places in steps], dict(features or {}), figures)

    def figure(self, name: Figure) -> list[list[float]]:
        """A figure of each token of each trajectory. Raises `InputError` where it was not kept."""
        if name not in self.figures:
            raise InputError(f"no {name} were kept of the tokens of {self.key!r:.60}.")
        return [part.tolist() for part in self.figures[name].split(self.tokens)]

    def at(self, place: Place) -> Steps:
        """The steps as they are read at one place."""
        if place not in self.features:
            known = ", ".join(map(str, self.features)) or "none"
            raise InputError(f"no features at {place} of {self.key!r:.60}; there are: {known}.")
        rows = (
            [
                row
                for values, positions in zip(self.figure("logprobs"), self.steps, strict=True)
                for row in step_logprobs(values, positions)
            ]
            if any(self.steps)
            else []
        )
        return Steps(self.steps, self.features[place], torch.tensor(rows, dtype=torch.float32).view(-1, 2))

    def write(self, folder: Path, number: int) -> None:
        """Write it into the folder `shards` of a run, whole or not at all; what is there of that number is replaced.

        Raises `CheckpointError` where the disk is full.
        """
        tensors = {f"{FEATURES}{place}": t.bfloat16().contiguous() for place, t in self.features.items()}
        tensors |= {str(name): t.to(DTYPES[name]).contiguous() for name, t in self.figures.items()}
        about = json.dumps({"key": self.key, "tokens": self.tokens, "steps": self.steps}, ensure_ascii=False)
        path = path_of(folder, number)
        with disk_errors(path), whole_file(path) as temporary:
            save_file(tensors, str(temporary), metadata={"shard": about})


def path_of(folder: Path, number: int) -> Path:
    """Where the shard of a record lies."""
    return folder / SHARDS / f"{number:06d}.safetensors"


def read_shard(path: Path, places: Sequence[Place] | None = None) -> Shard:
    """A shard, with the features of these places alone (None: of all). Raises `CheckpointError` for a damaged one."""
    try:
        with safe_open(str(path), "pt") as file:
            about: dict[str, Any] = json.loads(file.metadata()["shard"])
            names = list(file.keys())
            found = {Place.parse(n.removeprefix(FEATURES)): n for n in names if n.startswith(FEATURES)}
            wanted = {place: name for place, name in found.items() if places is None or place in places}
            return Shard(
                about["key"],
                about["tokens"],
                about["steps"],
                {place: file.get_tensor(name) for place, name in wanted.items()},
                {name: file.get_tensor(name) for name in get_args(Figure) if name in names},
            )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"'{path}' can't be read: {type(error).__name__} {error}. Remove it.") from error


def read_shards(folder: Path, places: Sequence[Place] | None = None) -> Iterator[Shard]:
    """The shards of a run folder, in the order of their numbers."""
    for path in sorted((folder / SHARDS).glob("*.safetensors")):
        yield read_shard(path, places)


def load_features(folder: Path, place: Place) -> dict[str, Steps]:
    """The steps of every problem of a run folder that has trajectories, at one place, by the keys of their records."""
    return {shard.key: shard.at(place) for shard in read_shards(folder, [place]) if shard.tokens}
