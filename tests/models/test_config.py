"""`sprm/config.json`: what it keeps, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reflective.errors import CheckpointError
from reflective.judge.calibrate import Calibration, Coefficients
from reflective.judge.config import FORMAT_VERSION, JudgeConfig, config_text, read_config
from reflective.judge.format import Format, between_marks, whole_response

CONFIG = JudgeConfig(8, between_marks([5, 7], 1, 2, turn_ids=[3]))
OLD = {  # of format version 3
    "format_version": 3,
    "hidden_size": 8,
    "step_token_ids": [5, 7],
    "think_id": 1,
    "think_end_id": 2,
    "turn_token_ids": [3],
}


def changed(**changes: Any) -> dict[str, Any]:
    return {**CONFIG.to_json(), **changes}


def test_json_there_and_back_is_the_identity() -> None:
    config = JudgeConfig(
        hidden_size=8,
        format=between_marks(
            [5, 7], [1, 4], [2], closes="last", plain_turns=True, line_end_ids=[8], line_start_ids=[9]
        ),
        layer=3,
        feature_position="at",
        aggregation="min",
        dropout=0.1,
        logprob_features=True,
        calibration=Calibration({"single": Coefficients(1.0, 2.0, 3.0)}),
        sampling={"temperature": 0.8},
        template_kwargs={"enable_thinking": False},
        fingerprint={"layers": 3},
        provenance={"task": "countdown", "trajectories": 512},
    )
    assert JudgeConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    whole = JudgeConfig(8, whole_response([5], [6], turn_ids=[3], line_end_ids=[8], line_start_ids=[9]))
    assert JudgeConfig.from_json(json.loads(config_text(whole))) == whole


def test_older_versions_are_read() -> None:
    assert JudgeConfig.from_json(OLD) == CONFIG
    last = JudgeConfig.from_json({**OLD, "think_closes": "last"})
    assert last.format == between_marks([5, 7], 1, 2, closes="last", turn_ids=[3])


def test_defaults_are_the_references() -> None:
    data = {"format_version": 1, "hidden_size": 8, "step_token_ids": [5], "think_id": 1, "think_end_id": 2}
    config = JudgeConfig.from_json(data)
    assert (config.layer, config.feature_position, config.aggregation) == (-2, "before", "geometric_mean")
    assert (config.dropout, config.logprob_features, config.calibration) == (0.5, False, None)


def test_marks_are_sequences_of_sets_of_tokens() -> None:
    assert CONFIG.format == Format(frozenset({5, 7}), (frozenset({1}),), (frozenset({2}),), turn_ids=frozenset({3}))


def test_the_layer_read_counts_hidden_states_from_either_end() -> None:
    def index(layer: int) -> int:
        return JudgeConfig(8, between_marks([5], 1, 2), layer=layer).layer_index(24)

    assert [index(-2), index(23), index(0), index(-25), index(-1), index(24)] == [23, 23, 0, 0, 24, 24]
    for outside in (25, -26):
        with pytest.raises(CheckpointError, match="24 layers has 25"):
            index(outside)


def test_an_unknown_key_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(CheckpointError, match="unknown key 'agregation'. Did you mean 'aggregation'"):
        JudgeConfig.from_json(changed(agregation="min"))
    with pytest.raises(CheckpointError, match=r"unknown key 'zzz'\. Known: aggregation"):
        JudgeConfig.from_json(changed(zzz=1))


def test_a_newer_format_is_refused_whatever_else_it_says() -> None:
    with pytest.raises(CheckpointError, match="newer than this reflective"):
        JudgeConfig.from_json({"format_version": FORMAT_VERSION + 1, "something": "new"})


@pytest.mark.parametrize("version", [None, 0, "1", True, 1.0])
def test_a_format_version_that_is_none_is_refused(version: object) -> None:
    with pytest.raises(CheckpointError, match="format_version"):
        JudgeConfig.from_json(changed(format_version=version))


def test_missing_keys_are_named() -> None:
    with pytest.raises(CheckpointError, match="missing hidden_size, think_end_id"):
        JudgeConfig.from_json({"format_version": 1, "step_token_ids": [5], "think_id": 1})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", 0),
        ("hidden_size", 8.0),
        ("layer", "-2"),
        ("feature_position", "after"),
        ("aggregation", "median"),
        ("aggregation", ["min"]),
        ("dropout", 1.0),
        ("dropout", True),
        ("logprob_features", 1),
        ("provenance", "me"),
        ("kind", ""),
        ("sampling", []),
    ],
)
def test_values_of_another_kind_are_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=f"{key} is "):
        JudgeConfig.from_json(changed(**{key: value}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("step_token_ids", 5),
        ("step_token_ids", [5, "6"]),
        ("step_token_ids", [-1]),
        ("think_id", None),
        ("think_closes", []),
    ],
)
def test_values_of_another_kind_are_refused_in_older_versions(key: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=f"{key} is "):
        JudgeConfig.from_json({**OLD, key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("step_token_ids", 5),
        ("step_token_ids", [5, "6"]),
        ("opening", []),
        ("opening", [1]),
        ("closing", None),
        ("closing", [[-1]]),
        ("closes", "never"),
        ("turn_token_ids", {"a": 1}),
    ],
)
def test_values_of_another_kind_are_refused_in_the_format(key: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=f"{key} is "):
        JudgeConfig.from_json(changed(format={**CONFIG.to_json()["format"], key: value}))
    with pytest.raises(CheckpointError, match="reasoning 'between marks' or 'whole response'"):
        JudgeConfig.from_json(changed(format={"reasoning": "somewhere"}))


def test_an_impossible_format_is_refused_when_the_config_is_read() -> None:
    with pytest.raises(CheckpointError, match="no step token"):
        JudgeConfig.from_json({**OLD, "step_token_ids": []})
    with pytest.raises(CheckpointError, match="same token"):
        JudgeConfig.from_json({**OLD, "think_id": 2})


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "[" * 100_000, "\x00"])
def test_a_malformed_file_is_refused_with_its_path(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match="config.json"):
        read_config(path)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match="not JSON"):
        read_config(path)
