"""What a reproduction is: which model, how many problems and trajectories, and what each study does. Frozen, from TOML.

The tables [head], [trainer] and [supervised] go to `HeadConfig`, `JointConfig` and `SFTConfig` as they are: what is
not set there keeps the settings of the package.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from reflective.errors import InputError
from reflective.settings import at_least, make_settings

Table = Mapping[str, Any]
RECIPE: Final = Path(__file__).resolve().parent.parent / "nano" / "sft.toml"
JOINT_STUDIES: Final = ("aha", "joint")  # those that [trainer] is for


@dataclass(frozen=True)
class DataSettings:
    """The trajectories of the model that all studies share; `rows` are written at once."""

    families: tuple[str, ...] = ()  # none named: all
    levels: tuple[int, ...] = (1, 2)
    train_problems: int = 2000
    train_trajectories: int = 8
    validation_problems: int = 200
    validation_trajectories: int = 16
    test_problems: int = 1000
    test_trajectories: int = 32
    max_tokens: int = 400  # of the reasoning
    answer_tokens: int = 64
    rows: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        names = [f.name for f in dataclasses.fields(self) if f.name.endswith("problems")]
        at_least(self, 1, *names, "max_tokens", "answer_tokens", "rows")
        at_least(self, 2, "train_trajectories", "validation_trajectories", "test_trajectories")


@dataclass(frozen=True)
class LossesSettings:
    """Study 2: settings of the head that differ, by name. The first is what the others are compared with."""

    variants: Mapping[str, Table]
    test_problems: int = 1000


@dataclass(frozen=True)
class SeparateSettings:
    """Study 3: both judges learn from the same problems; the second model's weights all move."""

    train_problems: int = 300
    validation_problems: int = 100
    test_problems: int = 200
    epochs: int = 2
    lr: float = 3e-4
    weight_decay: float = 0.01
    batch_problems: int = 4  # of an optimizer step
    timed_problems: int = 20


@dataclass(frozen=True)
class AhaSettings:
    """Study 4: joint runs from a fresh head, looked at after the numbers of steps in `stages`."""

    variants: Mapping[str, Table]
    stages: tuple[int, ...] = (5, 15, 30)
    test_problems: int = 100
    trajectories: int = 8

    def __post_init__(self) -> None:
        if not self.stages or list(self.stages) != sorted({*self.stages}) or self.stages[0] < 1:
            raise InputError(f"aha.stages must ascend from 1 on, got {list(self.stages)}.")


@dataclass(frozen=True)
class TransferSettings:
    """Study 5: each fold is a set of families that a head is not trained on and is then asked about."""

    folds: tuple[tuple[str, ...], ...]
    test_problems: int = 1000

    def __post_init__(self) -> None:
        named = [family for fold in self.folds for family in fold]
        if len(self.folds) < 2 or len(named) > len(set(named)):
            raise InputError("transfer.folds must be two or more, and a family may be in one only.")


@dataclass(frozen=True)
class ScalingSettings:
    """Study 6: `sizes` are the keys of the architecture that differ from the recipe in `recipes/nano/sft.toml`."""

    sizes: Mapping[str, Table]
    heads: Mapping[str, Table]  # settings of the heads that differ, by name
    supervised: Table = field(default_factory=dict)
    families: tuple[str, ...] = ()  # none named: those of the data
    levels: tuple[int, ...] = ()  # the same
    train_problems: int = 400
    train_trajectories: int = 8
    validation_problems: int = 100
    test_problems: int = 300
    trajectories: int = 32

    def __post_init__(self) -> None:
        if len(self.sizes) < 3:
            raise InputError(f"scaling.sizes are {len(self.sizes)}; a law needs three or more.")
        if not self.heads:
            raise InputError("scaling.heads is empty; name one or more.")


@dataclass(frozen=True)
class JointSettings:
    """Study 7: joint runs of `steps` steps; a variant's `start` is a "fresh" head or one "fitted" before."""

    variants: Mapping[str, Table]
    steps: int = 40
    test_problems: int = 300
    trajectories: int = 32


@dataclass(frozen=True)
class ReadingSettings:
    """Study 8: where the head reads."""

    layers: tuple[int, ...] = (-1, -2, -3, -5)
    train_problems: int = 2000
    test_problems: int = 1000


@dataclass(frozen=True)
class Settings:
    """All of it. `seeds` are those of everything that is trained. `results` is the page that is written."""

    output: str
    results: str
    losses: LossesSettings
    aha: AhaSettings
    transfer: TransferSettings
    scaling: ScalingSettings
    joint: JointSettings
    model: str = "nano"
    remarks: Mapping[str, str] = field(default_factory=dict)  # on a model, by its name, for the page
    seeds: tuple[int, ...] = (1, 2, 3)
    data: DataSettings = field(default_factory=DataSettings)
    head: Table = field(default_factory=dict)
    trainer: Table = field(default_factory=dict)
    separate: SeparateSettings = field(default_factory=SeparateSettings)
    reading: ReadingSettings = field(default_factory=ReadingSettings)

    def __post_init__(self) -> None:
        if not self.seeds:
            raise InputError("seeds is empty; give one or more, three for an honest spread.")

    def of_study(self, name: str) -> dict[str, Any]:
        """What decides the records of a study, or of what is shared, as plain values."""
        table = dataclasses.asdict(self)
        if name not in table:  # what is shared, and study 1: nothing is trained for it
            return {"data": table["data"]}
        keys = ("seeds", "data", "head", "trainer") if name in JOINT_STUDIES else ("seeds", "data", "head")
        recipe = {"recipe": nano_recipe()} if name == "scaling" else {}
        return {**{key: table[key] for key in keys}, "study": table[name], **recipe}


def read_settings(path: Path, **overrides: Any) -> Settings:
    """The settings in a TOML file; `overrides` replace its top-level keys (None: leave as it is).

    A file that `extends` another one beside it says only what is different.
    """
    return make_settings(Settings, merged(_table(path), {k: v for k, v in overrides.items() if v is not None}))


def _table(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # TOML and UTF-8 errors are ValueErrors
        raise InputError(f"can't read the settings '{path}': {error}") from error
    base = table.pop("extends", None)
    return table if base is None else merged(_table(path.parent / base), table)


def nano_recipe() -> dict[str, Any]:
    """How nano itself was trained before any head: `recipes/nano/sft.toml`."""
    return _table(RECIPE)


def merged(*tables: Table) -> dict[str, Any]:
    """Tables over one another, the last wins; tables inside are merged, too."""
    out: dict[str, Any] = {}
    for table in tables:
        for key, value in table.items():
            inner = out.get(key)
            out[key] = merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return out
