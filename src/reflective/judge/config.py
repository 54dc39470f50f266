"""What a head needs to know: `sprm/config.json`, its fields and their meaning. No torch."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal, get_args

from reflective.errors import CheckpointError
from reflective.judge.aggregate import AGGREGATIONS, DEFAULT_AGGREGATION
from reflective.judge.calibrate import Calibration
from reflective.judge.format import StepRule

FORMAT_VERSION: Final = 3  # 1 has plain calibrations only, 2 no exponent; both are read
SPRM_FOLDER: Final = "sprm"
CONFIG_FILE: Final = "config.json"
HEAD_FILE: Final = "head.safetensors"

FeaturePosition = Literal["before", "at"]
Closes = Literal["first", "last"]


@dataclass(frozen=True, slots=True)
class SPRMConfig:
    """The head's place in the model and the rule of its steps.

    `layer` is an index into Hugging Face's `hidden_states`, of which a model with L layers has L + 1: −2 is what
    enters the last decoder layer. `feature_position` is "before" the step token, the position that it was drawn from
    (reference), or "at" it. `probability_exponent` is the v of `sprm.head`. `turn_token_ids` begin or end a turn of the
    chat template. `provenance` says in free form where the head comes from.
    """

    hidden_size: int
    step_token_ids: tuple[int, ...]
    think_id: int
    think_end_id: int
    layer: int = -2
    feature_position: FeaturePosition = "before"
    think_closes: Closes = "first"
    turn_token_ids: tuple[int, ...] = ()
    aggregation: str = DEFAULT_AGGREGATION
    dropout: float = 0.5
    logprob_features: bool = False
    probability_exponent: float = 0.0
    calibration: Calibration | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        checks: tuple[tuple[str, bool, str], ...] = (
            ("hidden_size", _is_int(self.hidden_size) and self.hidden_size > 0, "a whole number above 0"),
            ("step_token_ids", _are_ids(self.step_token_ids), "a list of token ids"),
            ("think_id", _is_id(self.think_id), "a token id"),
            ("think_end_id", _is_id(self.think_end_id), "a token id"),
            ("layer", _is_int(self.layer), "a whole number"),
            ("feature_position", self.feature_position in get_args(FeaturePosition), "'before' or 'at'"),
            ("think_closes", self.think_closes in get_args(Closes), "'first' or 'last'"),
            ("turn_token_ids", _are_ids(self.turn_token_ids), "a list of token ids"),
            ("aggregation", self.aggregation in tuple(AGGREGATIONS), f"one of {', '.join(AGGREGATIONS)}"),
            ("dropout", _is_number(self.dropout) and 0 <= self.dropout < 1, "a number from 0 up to below 1"),
            ("logprob_features", isinstance(self.logprob_features, bool), "true or false"),
            (
                "probability_exponent",
                _is_number(self.probability_exponent)
                and 0 <= self.probability_exponent < math.inf
                and (self.logprob_features or not self.probability_exponent),
                "a number from 0, and 0 without logprob_features",
            ),
            ("calibration", self.calibration is None or isinstance(self.calibration, Calibration), "a calibration"),
            ("provenance", isinstance(self.provenance, Mapping), "an object"),
        )
        for name, ok, want in checks:
            if not ok:
                raise CheckpointError(f"the head's {name} is {getattr(self, name)!r:.80}; it must be {want}.")
        _ = self.rule  # what is wrong with the step rule shows here, not at the first step

    @property
    def rule(self) -> StepRule:
        """Where steps end."""
        return StepRule(
            step_ids=frozenset(self.step_token_ids),
            think_id=self.think_id,
            think_end_id=self.think_end_id,
            closes=self.think_closes,
            turn_ids=frozenset(self.turn_token_ids),
        )

    def layer_index(self, layers: int) -> int:
        """The decoder layer, from 0, whose input the head reads in a model of `layers` layers; `layers` itself means
        the output of the final norm."""
        index = self.layer if self.layer >= 0 else layers + 1 + self.layer
        if not 0 <= index <= layers:
            raise CheckpointError(
                f"the head reads hidden_states[{self.layer}], but this model of {layers} layers has {layers + 1}. "
                "The head belongs to another model."
            )
        return index

    def to_json(self) -> dict[str, Any]:
        """A JSON object; `from_json` reads it back."""
        data = {f.name: getattr(self, f.name) for f in fields(self)}
        data["step_token_ids"] = list(self.step_token_ids)
        data["turn_token_ids"] = list(self.turn_token_ids)
        data["calibration"] = self.calibration.to_json() if self.calibration else None
        data["provenance"] = dict(self.provenance)
        return {"format_version": data.pop("format_version"), **data}

    @classmethod
    def from_json(cls, data: Any) -> SPRMConfig:
        """From `to_json`'s object. Raises `CheckpointError` for a newer format and for unknown or missing keys."""
        if not isinstance(data, Mapping):
            raise CheckpointError(f"a head's config must be a JSON object; got {type(data).__name__}.")
        version: Any = data.get("format_version")
        if not _is_int(version) or version < 1:
            raise CheckpointError(f"format_version is {version!r:.40}; it must be a whole number from 1.")
        if version > FORMAT_VERSION:
            raise CheckpointError(
                f"format version {version} is newer than this reflective reads ({FORMAT_VERSION}). Upgrade reflective."
            )
        known = {f.name for f in fields(cls)}
        for key in data:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1)
                raise CheckpointError(f"unknown key {key!r:.60}" + (f"; did you mean {near[0]!r}?" if near else "."))
        missing = [n for n in ("hidden_size", "step_token_ids", "think_id", "think_end_id") if n not in data]
        if missing:
            raise CheckpointError(f"missing {', '.join(missing)}.")
        values = dict(data)
        for name in ("step_token_ids", "turn_token_ids"):
            if isinstance(values.get(name), list):
                values[name] = tuple(values[name])
        if values.get("calibration") is not None:
            values["calibration"] = Calibration.from_json(values["calibration"])
        return cls(**values)


def read_config(path: Path) -> SPRMConfig:
    """Read `sprm/config.json`."""
    try:
        return SPRMConfig.from_json(json.loads(path.read_text(encoding="utf-8")))
    except CheckpointError as error:
        raise CheckpointError(f"'{path}': {error}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"'{path}' is not JSON ({error}). Copy the sprm folder again.") from None
    except OSError as error:
        raise CheckpointError(f"'{path}' can't be read: {error.strerror or error}.") from None


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_id(value: Any) -> bool:
    return _is_int(value) and value >= 0


def _are_ids(values: object) -> bool:
    return isinstance(values, tuple) and all(map(_is_id, values))
