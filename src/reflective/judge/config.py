"""What a judge is, without its head's weights: `sprm/config.json`, its fields and their meaning. No torch."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal, get_args

from reflective.errors import CheckpointError
from reflective.judge.aggregate import AGGREGATIONS, DEFAULT_AGGREGATION
from reflective.judge.calibrate import Calibration
from reflective.judge.format import Closing, Format, Mark, between_marks, whole_response
from reflective.judge.schedule import Schedule
from reflective.settings import check_names

FORMAT_VERSION: Final = 6
"""1: plain calibrations only, 2: no exponent, 3: single marks, 4: no schedule, 5: an older limit; all are read."""
MARKS_VERSION: Final = 4  # the first with a format of its own
SPRM_FOLDER: Final = "sprm"
CONFIG_FILE: Final = "config.json"
HEAD_FILE: Final = "head.safetensors"

FeaturePosition = Literal["before", "at", "mean"]
BETWEEN, WHOLE = "between marks", "whole response"
_LISTS_OF_IDS: Final = re.compile(r"\[[\s\d,]*\]")


@dataclass(frozen=True, slots=True)
class JudgeConfig:
    """A judge's place in the model and the format that it judges.

    `kind` names the head (`judge.heads`). `layer` is an index into Hugging Face's `hidden_states`, of which a model
    with L layers has L + 1: −2 is what enters the last decoder layer. `feature_position` is "before" the step token,
    the position that it was drawn from (reference), "at" it, or the "mean" over the positions that drew the step's
    tokens. `probability_exponent` is the v of `heads.paper`. `schedule` says when effort auto stops (`judge.schedule`).
    `sampling` holds the settings that the head's trajectories were drawn with, and `template_kwargs` what the chat
    template was given. `fingerprint` tells the model that the head belongs to (`models.fingerprint`). `provenance` says
    in free form where the head comes from.
    """

    hidden_size: int
    format: Format
    layer: int = -2
    feature_position: FeaturePosition = "before"
    aggregation: str = DEFAULT_AGGREGATION
    kind: str = "paper"
    dropout: float = 0.5
    logprob_features: bool = False
    probability_exponent: float = 0.0
    calibration: Calibration | None = None
    schedule: Schedule | None = None
    sampling: Mapping[str, float] = field(default_factory=dict)
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: Mapping[str, Any] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        exponent_fits = (
            _is_number(self.probability_exponent)
            and 0 <= self.probability_exponent < math.inf
            and (self.logprob_features or not self.probability_exponent)
        )
        checks: tuple[tuple[str, bool, str], ...] = (
            ("hidden_size", _is_int(self.hidden_size) and self.hidden_size > 0, "a whole number above 0"),
            ("format", isinstance(self.format, Format), "a format"),
            ("layer", _is_int(self.layer), "a whole number"),
            ("feature_position", self.feature_position in get_args(FeaturePosition), "'before', 'at' or 'mean'"),
            ("aggregation", self.aggregation in tuple(AGGREGATIONS), f"one of {', '.join(AGGREGATIONS)}"),
            ("kind", isinstance(self.kind, str) and bool(self.kind), "the name of a kind of head"),
            ("dropout", _is_number(self.dropout) and 0 <= self.dropout < 1, "a number from 0 up to below 1"),
            ("logprob_features", isinstance(self.logprob_features, bool), "true or false"),
            ("probability_exponent", exponent_fits, "a number from 0, and 0 without logprob_features"),
            ("calibration", self.calibration is None or isinstance(self.calibration, Calibration), "a calibration"),
            ("schedule", self.schedule is None or isinstance(self.schedule, Schedule), "a schedule"),
            ("sampling", isinstance(self.sampling, Mapping), "an object"),
            ("template_kwargs", isinstance(self.template_kwargs, Mapping), "an object"),
            ("fingerprint", self.fingerprint is None or isinstance(self.fingerprint, Mapping), "an object"),
            ("provenance", isinstance(self.provenance, Mapping), "an object"),
        )
        for name, ok, want in checks:
            if not ok:
                raise CheckpointError(f"the head's {name} is {getattr(self, name)!r:.80}; it must be {want}.")

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
        data["format"] = format_to_json(self.format)
        data["calibration"] = self.calibration.to_json() if self.calibration else None
        data["schedule"] = self.schedule.to_json() if self.schedule else None
        for name in ("sampling", "template_kwargs", "provenance"):
            data[name] = dict(data[name])
        return {"format_version": data.pop("format_version"), **data}

    @classmethod
    def from_json(cls, data: Any) -> JudgeConfig:
        """From `to_json`'s object, or that of an older format version.

        Raises `CheckpointError` for a newer version and for unknown or missing keys.
        """
        if not isinstance(data, Mapping):
            raise CheckpointError(f"a head's config must be a JSON object; got {type(data).__name__}.")
        version: Any = data.get("format_version")
        if not _is_int(version) or version < 1:
            raise CheckpointError(f"format_version is {version!r:.40}; it must be a whole number from 1.")
        if version > FORMAT_VERSION:
            raise CheckpointError(
                f"format version {version} is newer than this reflective reads ({FORMAT_VERSION}). Upgrade reflective."
            )
        values = dict(data)
        known = {f.name for f in fields(cls)} | (_OLD_KEYS if version < MARKS_VERSION else set())
        check_names(values, sorted(known), "key", CheckpointError)
        needed = ("hidden_size", "format") if version >= MARKS_VERSION else ("hidden_size", *_OLD_FORMAT)
        missing = [name for name in needed if name not in values]
        if missing:
            raise CheckpointError(f"missing {', '.join(missing)}.")
        values["format"] = format_from_json(values["format"]) if version >= MARKS_VERSION else _old_format(values)
        if values.get("calibration") is not None:
            values["calibration"] = Calibration.from_json(values["calibration"])
        if values.get("schedule") is not None:
            values["schedule"] = Schedule.from_json(values["schedule"])
        return cls(**{**values, "format_version": FORMAT_VERSION})


def read_config(path: Path) -> JudgeConfig:
    """Read `sprm/config.json`."""
    try:
        return JudgeConfig.from_json(json.loads(path.read_text(encoding="utf-8")))
    except CheckpointError as error:
        raise CheckpointError(f"'{path}': {error}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"'{path}' is not JSON ({error}). Copy the sprm folder again.") from None
    except OSError as error:
        raise CheckpointError(f"'{path}' can't be read: {error.strerror or error}.") from None


def config_text(config: JudgeConfig) -> str:
    """`sprm/config.json` as it is written: a field per line, lists of ids on one."""
    text = json.dumps(config.to_json(), indent=2, ensure_ascii=False) + "\n"
    return _LISTS_OF_IDS.sub(lambda found: "[" + ", ".join(re.findall(r"\d+", found.group())) + "]", text)


def check_fit(config: JudgeConfig, model_config: Any, tokenizer: Any) -> None:
    """Raise `CheckpointError` if a head with this config can't belong to the model and tokenizer."""
    text_config = model_config.get_text_config()
    if config.hidden_size != text_config.hidden_size:
        raise CheckpointError(
            f"the head reads hidden states of width {config.hidden_size}, this model's are {text_config.hidden_size} "
            "wide. The head belongs to another model; train one for this."
        )
    config.layer_index(text_config.num_hidden_layers)
    vocabulary = tokenizer.get_vocab()
    # the largest id counts, not the number of entries: a vocabulary may have gaps
    known = min(int(text_config.vocab_size), max(vocabulary.values(), default=-1) + 1)
    format = config.format
    for what, ids in (
        ("step tokens", format.step_ids | format.line_end_ids | format.line_start_ids),
        ("<think>", frozenset().union(*format.opening)),
        ("</think>", frozenset().union(*format.closing)),
    ):
        missing = sorted(i for i in ids if i >= known)
        if missing:
            raise CheckpointError(
                f"{what} {', '.join(map(str, missing[:5]))} of the head lie outside the model's vocabulary of {known} "
                "tokens. The head belongs to another model or tokenizer."
            )


# ---- the format as JSON


def format_to_json(format: Format) -> dict[str, Any]:
    """A JSON object; `format_from_json` reads it back."""
    ids = {
        "step_token_ids": format.step_ids,
        "line_end_token_ids": format.line_end_ids,
        "line_start_token_ids": format.line_start_ids,
        "turn_token_ids": format.turn_ids,
    }
    data: dict[str, Any] = {"reasoning": WHOLE if format.is_whole else BETWEEN}
    data |= {name: sorted(value) for name, value in ids.items()}
    if format.is_whole:
        return data | {"end_token_ids": sorted(format.end_ids)}
    return data | {
        "opening": [sorted(place) for place in format.opening],
        "closing": [sorted(place) for place in format.closing],
        "closes": format.closes,
        "plain_turns": format.plain_turns,
    }


def format_from_json(data: Any) -> Format:
    """From `format_to_json`'s object. Raises `CheckpointError` where it is something else."""
    if not isinstance(data, Mapping) or data.get("reasoning") not in (BETWEEN, WHOLE):
        raise CheckpointError(f"the head's format must say reasoning '{BETWEEN}' or '{WHOLE}'; got {data!r:.60}.")
    shared = {"reasoning", "step_token_ids", "line_end_token_ids", "line_start_token_ids", "turn_token_ids"}
    more = {"end_token_ids"} if data["reasoning"] == WHOLE else {"opening", "closing", "closes", "plain_turns"}
    check_names(data, sorted(shared | more), "key", CheckpointError)

    def ids(name: str) -> tuple[int, ...]:
        return _ids(name, data.get(name, []))

    lines = {"line_end_ids": ids("line_end_token_ids"), "line_start_ids": ids("line_start_token_ids")}
    turns = ids("turn_token_ids")
    if data["reasoning"] == WHOLE:
        return whole_response(ids("step_token_ids"), ids("end_token_ids"), turn_ids=turns, **lines)
    return between_marks(
        ids("step_token_ids"),
        _read_mark("opening", data.get("opening")),
        _read_mark("closing", data.get("closing")),
        closes=_closes("closes", data.get("closes", "first")),
        turn_ids=turns,
        plain_turns=bool(data.get("plain_turns", False)),
        **lines,
    )


# versions 1 to 3: one token per mark, at the top
_OLD_FORMAT: Final = ("step_token_ids", "think_id", "think_end_id")
_OLD_KEYS: Final = {*_OLD_FORMAT, "think_closes", "turn_token_ids"}


def _old_format(values: dict[str, Any]) -> Format:
    steps, opening, closing = (values.pop(name) for name in _OLD_FORMAT)
    for name, value in (("think_id", opening), ("think_end_id", closing)):
        if not _is_id(value):
            raise CheckpointError(f"the head's {name} is {value!r:.80}; it must be a token id.")
    return between_marks(
        _ids("step_token_ids", steps),
        opening,
        closing,
        closes=_closes("think_closes", values.pop("think_closes", "first")),
        turn_ids=_ids("turn_token_ids", values.pop("turn_token_ids", [])),
    )


def _read_mark(name: str, value: Any) -> Mark:
    if not isinstance(value, list) or not value:
        raise CheckpointError(f"the head's {name} is {value!r:.80}; it must be a list of lists of token ids.")
    return tuple(frozenset(_ids(name, place)) for place in value)


def _closes(name: str, value: Any) -> Closing:
    if value not in get_args(Closing):
        raise CheckpointError(f"the head's {name} is {value!r:.80}; it must be 'first' or 'last'.")
    closes: Closing = value
    return closes


def _ids(name: str, values: Any) -> tuple[int, ...]:
    if not isinstance(values, list | tuple) or not all(map(_is_id, values)):
        raise CheckpointError(f"the head's {name} is {values!r:.80}; it must be a list of token ids.")
    return tuple(values)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_id(value: Any) -> bool:
    return _is_int(value) and value >= 0
