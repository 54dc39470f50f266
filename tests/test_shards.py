"""Tensors beside records: what is written comes back, by trajectory and by place, and nothing else does."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from reflective.errors import CheckpointError, InputError
from reflective.shards import Place, Shard, load_features, path_of, read_shard, read_shards
from reflective.types import Trajectory

BEFORE, AT = Place(-2), Place(-1, "at")


def trajectory(index: int, logprobs: tuple[float, ...] | None, confidences: tuple[float, ...] = ()) -> Trajectory:
    count = len(logprobs) if logprobs is not None else 3
    return Trajectory(
        index, tuple(range(count)), "r", "", (), None, "length", None, logprobs, token_confidences=confidences
    )


TRAJECTORIES = [
    trajectory(0, (-0.1, -0.2, -0.3, -0.4), (9.0, 8.0, 7.0, 6.0)),
    trajectory(1, (-1.0 / 3,), (1.5,)),
    trajectory(2, ()),
]
FEATURES = {BEFORE: torch.arange(6.0).view(3, 2), AT: -torch.arange(6.0).view(3, 2)}


def shard() -> Shard:
    return Shard.of("p0", TRAJECTORIES, [[1, 3], [0], []], FEATURES)


def test_what_is_written_comes_back_by_trajectory_and_by_place(tmp_path: Path) -> None:
    shard().write(tmp_path, 12)
    assert path_of(tmp_path, 12) == tmp_path / "shards" / "000012.safetensors"
    found = read_shard(path_of(tmp_path, 12))
    assert (found.key, found.tokens, found.steps) == ("p0", [4, 1, 0], [[1, 3], [0], []])
    assert found.figure("logprobs") == [[-0.1, -0.2, -0.3, -0.4], [-1.0 / 3], []], "to the last bit"
    assert found.figure("confidences") == [[9.0, 8.0, 7.0, 6.0], [1.5], []]
    steps = found.at(AT)
    assert steps.counts == [2, 1, 0] and steps.features.tolist() == FEATURES[AT].tolist()
    # steps end at tokens 1 and 3 of the first trajectory and at token 0 of the second: mean and lowest of each
    wanted = torch.tensor([[-0.15, -0.2], [-0.35, -0.4], [-1 / 3, -1 / 3]])
    torch.testing.assert_close(steps.logprobs, wanted)


def test_only_the_places_that_are_asked_for_are_read(tmp_path: Path) -> None:
    for number, key in enumerate(("b", "a")):
        replace(shard(), key=key).write(tmp_path, number)
    assert [s.key for s in read_shards(tmp_path, [])] == ["b", "a"] and not read_shard(
        path_of(tmp_path, 0), []
    ).features
    assert list(load_features(tmp_path, AT)) == ["b", "a"]
    with pytest.raises(InputError, match=r"no features at -3/before of 'b'; there are: none"):
        load_features(tmp_path, Place(-3))


def test_figures_that_not_every_trajectory_has_are_not_kept() -> None:
    made = Shard.of("p", [trajectory(0, (-1.0,), (2.0,)), trajectory(1, None)])
    assert not made.figures
    with pytest.raises(InputError, match="no logprobs were kept"):
        made.figure("logprobs")


def test_a_problem_without_trajectories_has_an_empty_shard(tmp_path: Path) -> None:
    Shard.of("p", []).write(tmp_path, 0)
    assert read_shard(path_of(tmp_path, 0)).tokens == []


@pytest.mark.parametrize("damage", [b"", b"half of it", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_damaged_shard_is_named(tmp_path: Path, damage: bytes) -> None:
    shard().write(tmp_path, 0)
    path_of(tmp_path, 0).write_bytes(damage)
    with pytest.raises(CheckpointError, match=r"000000\.safetensors' can't be read"):
        read_shard(path_of(tmp_path, 0))


def test_a_place_is_written_and_read_as_text() -> None:
    assert Place.parse(str(AT)) == AT and str(BEFORE) == "-2/before"
    with pytest.raises(InputError, match="no place"):
        Place.parse("-2/behind")


def test_a_rule_that_stops_trajectories_can_be_replayed_on_the_figures(tmp_path: Path) -> None:
    shard().write(tmp_path, 0)
    found = read_shard(path_of(tmp_path, 0))
    # stop at the first token whose confidence falls below 7.5: tokens that would have been written
    written = [
        next((i + 1 for i, c in enumerate(row) if c < 7.5), len(row)) if row else 0
        for row in found.figure("confidences")
    ]
    assert written == [3, 1, 0] and math.fsum(found.figure("logprobs")[0][:3]) == pytest.approx(-0.6)
