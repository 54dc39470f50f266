"""The settings of a supervised run, frozen and checked; they are read from TOML or given as keyword arguments.

An unknown key is refused with the nearest known one, and a value that can't be meant is refused before anything runs.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from reflective.errors import InputError

Config = TypeVar("Config")

# Settings of a run that may change between an interruption and the resumption.
FREE_SETTINGS = (
    "output max_tokens max_minutes device save_dtype compile checkpoint_minutes checkpoint_steps keep_checkpoints "
    "validate_steps log_steps tensorboard tokenizer"
).split()


@dataclass(frozen=True)
class DataConfig:
    """What is learnt: traces of problem families, lines of JSON files, or both.

    `families` gives each family's share of the `examples` by weight. A JSON line holds `prompt` or `messages`, and
    `response`: what the model shall write behind the prompt.
    """

    families: Mapping[str, float] = field(default_factory=dict)
    levels: tuple[int, ...] = (1, 2, 3)
    examples: int = 100_000
    files: tuple[str, ...] = ()
    validation_examples: int = 500
    validation_files: tuple[str, ...] = ()
    seed: int = 0
    max_tokens: int = 1024  # longer examples are left out
    cache: str = "cache/tokens"
    workers: int = 0  # 0: one per core

    def __post_init__(self) -> None:
        if not self.families and not self.files:
            raise InputError("there is nothing to learn from. Name [data] families, files or both.")
        if any(not weight > 0 for weight in self.families.values()):
            raise InputError(f"a family's weight must be above 0, got {dict(self.families)}.")
        at_least(self, 1, "max_tokens", *(("examples",) if self.families else ()))
        at_least(self, 0, "validation_examples", "workers")


@dataclass(frozen=True)
class OptimizerConfig:
    """Muon for the matrices between embedding and head (or AdamW for everything), and how the rate goes."""

    matrices: Literal["muon", "adamw"] = "muon"
    muon_lr: float = 0.02
    adamw_lr: float = 3e-3
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    momentum: float = 0.95
    clip: float = 1.0
    schedule: Literal["wsd", "cosine", "linear"] = "wsd"
    warmup: float = 0.02  # shares of the run
    decay: float = 0.4

    def __post_init__(self) -> None:
        if not (self.warmup >= 0 and self.decay >= 0 and self.warmup + self.decay <= 1):
            raise InputError(f"warm-up and decay are shares of the run, got {self.warmup} and {self.decay}.")
        at_least(self, 0.0, "muon_lr", "adamw_lr", "weight_decay", "clip")


@dataclass(frozen=True)
class SFTConfig:
    """A supervised run: from a checkpoint (`model`) or from scratch (`architecture` and `tokenizer`).

    The run ends at `max_tokens` or at `max_minutes`, whichever comes first, and its rate decays towards that end.
    Only with `max_tokens` alone does the same configuration give the same weights.
    """

    output: str
    data: DataConfig
    model: str | None = None
    architecture: Mapping[str, Any] | None = None
    tokenizer: str | None = None
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    seed: int = 0
    max_tokens: int | None = None
    max_minutes: float | None = None
    step_tokens: int = 16_384  # of all kinds, prompt included
    micro_tokens: int = 4_096  # what goes through the model at once
    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    save_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    processes: int = 1  # on this machine; torchrun says it itself
    compile: bool = False
    checkpoint_minutes: float = 5.0
    checkpoint_steps: int | None = None
    keep_checkpoints: int = 2
    validate_steps: int = 200
    log_steps: int = 10
    tensorboard: bool = True

    def __post_init__(self) -> None:
        if (self.model is None) == (self.architecture is None):
            raise InputError("say either `model` (train further) or [architecture] (train from scratch).")
        if self.architecture is not None and self.tokenizer is None:
            raise InputError("training from scratch needs a `tokenizer` folder. Make one with build_tokenizer.")
        if self.max_tokens is None and self.max_minutes is None:
            raise InputError("the run has no end. Give `max_tokens`, `max_minutes` or both.")
        at_least(self, 1, "processes", "micro_tokens", "keep_checkpoints", "validate_steps", "log_steps")
        at_least(self, self.processes, "step_tokens")

    @property
    def checkpoints(self) -> Path:
        return Path(self.output) / "checkpoints"

    def digest(self, data: str) -> str:
        """Of everything that decides what a step learns; `data` stands for the examples themselves."""
        return settings_digest(self, FREE_SETTINGS, data)


def settings_digest(config: Any, free: Sequence[str], data: str) -> str:
    """Of all settings of a run but those that are `free` to change when it goes on; `data` stands for the examples."""
    values = {key: value for key, value in asdict(config).items() if key not in free} | {"data": data}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def read_config(kind: type[Config], path: str | Path, **overrides: Any) -> Config:
    """The configuration in a TOML file; `overrides` replace its top-level keys (None: leave as it is)."""
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"can't read the configuration {str(path)!r}: {error}") from error
    return make_config(kind, table | {key: value for key, value in overrides.items() if value is not None})


def make_config(kind: type[Config], table: Mapping[str, Any], where: str = "") -> Config:
    """A frozen configuration from plain values, tables becoming configurations and lists tuples."""
    hints = typing.get_type_hints(kind)
    for key in table:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise InputError(f"unknown setting {where + key!r}.{hint} Known: {', '.join(hints)}.")
    values = {key: _value(hints[key], value, where + key) for key, value in table.items()}
    missing = [
        f.name
        for f in dataclasses.fields(kind)  # type: ignore[arg-type]
        if f.name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise InputError(f"the setting {where + missing[0]!r} is missing.")
    return kind(**values)


def _value(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type that `hint` names, or an error that says what was expected."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, hint):
            return value
        if not isinstance(value, Mapping):
            raise InputError(f"{where} must be a table of settings, got {value!r}.")
        return make_config(hint, value, f"{where}.")
    if origin is Literal:
        if value in arguments:
            return value
        raise InputError(f"{where} must be one of {', '.join(map(repr, arguments))}, got {value!r}.")
    if origin in (typing.Union, types.UnionType):
        inner = [a for a in arguments if a is not type(None)]
        return None if value is None and type(None) in arguments else _value(inner[0], value, where)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_value(arguments[0], item, where) for item in value)
    if origin is not None and isinstance(value, origin):
        if arguments[1:] and arguments[1] is not Any and isinstance(value, Mapping):
            return {key: _value(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if origin is None and isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool):
        return value
    raise InputError(f"{where} must be {getattr(hint, '__name__', hint)}, got {value!r}.")


def at_least(config: Any, least: float, *names: str) -> None:
    """Refuse settings below `least`, or NaN."""
    for name in names:
        if not getattr(config, name) >= least:
            raise InputError(f"{name} must be at least {least}, got {getattr(config, name)}.")
