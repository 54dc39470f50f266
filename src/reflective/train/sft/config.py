"""The settings of a supervised run, frozen and checked; from TOML or as keyword arguments (`reflective.settings`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from reflective.errors import InputError
from reflective.settings import at_least, check_seed, settings_digest

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
    """Muon for the matrices between embedding and head (or AdamW for everything), and the schedule of the rate."""

    matrices: Literal["muon", "adamw"] = "muon"
    muon_lr: float = 0.02
    adamw_lr: float = 3e-3
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    momentum: float = 0.95
    clip: float = 1.0
    schedule: Literal["wsd", "cosine", "linear"] = "wsd"
    warmup: float = 0.02  # warm-up and decay are shares of the run
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
    step_tokens: int = 16_384  # prompts included
    micro_tokens: int = 4_096  # in one forward pass
    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    save_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    processes: int = 1  # on this machine; torchrun sets its own number
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
        check_seed(self.seed)

    @property
    def checkpoints(self) -> Path:
        return Path(self.output) / "checkpoints"

    def digest(self, data: str) -> str:
        """Of everything that decides what a step learns; `data` stands for the examples themselves."""
        return settings_digest(self, FREE_SETTINGS, data)
