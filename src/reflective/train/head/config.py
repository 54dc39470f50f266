"""The settings of head-only training, frozen and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from reflective.errors import InputError
from reflective.judge.detection import WHOLE, RuleName
from reflective.settings import at_least, check_seed

AUTO: Final = "auto"  # let the validation problems choose


@dataclass(frozen=True)
class HeadConfig:
    """Sample, grade, fit, calibrate.

    Problems come from `data` (a file of problems with answers, a benchmark, or a data set on the hub; see
    `reflective.tasks.load_problems`; the last `validation_share` of them is held out after shuffling) or from the
    families of `tasks`, whose splits are disjoint. Each training problem gets `trajectories` samples, each validation
    problem `validation_trajectories`. `fields`, `kind` and `skip_bad` are for the rows of `data`; `prompt`, or that of
    the benchmark named by `like`, goes around every question of it, and `system` is a system message before it.
    `layer` is the hidden state that the head reads; "auto" keeps those of several layers, fits a head on each, and
    takes the one that ranks the validation trajectories best (`layers.py`); with `aggregation` "auto" that also decides
    how step scores become a trajectory's. `position` is where the state is read: "before" a step's last token
    (reference), the "mean" over the positions that drew its tokens, or the better of both. The head starts as a
    "linear" probe, or "random" as the paper's.
    """

    model: str
    output: str | None = None  # None: the head is saved into the model's folder
    data: str | None = None
    tasks: tuple[str, ...] = ()
    levels: tuple[int, ...] | None = None  # of families: 1, 2 and 3
    fields: Mapping[str, str] = field(default_factory=dict)
    kind: str | None = None
    prompt: str | None = None
    like: str | None = None
    system: str | None = None
    skip_bad: bool = False
    problems: int = 2000
    validation_problems: int = 300
    validation_share: float = 0.15
    trajectories: int = 8
    validation_trajectories: int = 32
    temperature: float = 1.0
    max_tokens: int = 1024
    max_rows: int = 128
    layer: int | Literal["auto"] = -2
    position: Literal["before", "mean", "auto"] = "before"
    marks: tuple[str, ...] = ()  # around the reasoning, or ("whole",); (): those of the head, or what is found
    step_rule: RuleName | None = None  # None: the steps of the head that is there, or what fits the model
    look: bool = True  # at a few problems first, to stop before hours of sampling that would teach nothing
    logprob_features: bool = False
    start: Literal["linear", "random"] = "linear"
    aggregation: str = "geometric_mean"
    filter: Literal["self_supervised", "none"] = "self_supervised"
    plain_epochs: int = 3  # epochs of plain BCE before the filter: an untrained head's filter teaches its prejudice
    problem_balanced: bool = True
    class_balance: bool = True
    keep_means: bool = False  # of the states of each step's tokens, beside its features: for heads of one's own
    epochs: int = 40
    patience: int = 8  # epochs without a better validation before the end
    batch_problems: int = 32
    lr: float = 1e-3
    weight_decay: float = 0.01
    dropout: float = 0.5
    seed: int = 0
    engine: str = "torch"  # what samples: also vllm, or addresses of vLLM servers; features are then read afterwards
    device: str = "auto"
    dtype: str = "auto"
    work: str | None = None  # where rollouts are kept; None: <output>/sprm-rollouts
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if bool(self.data) == bool(self.tasks):
            raise InputError("say what to learn from: either --data FILE or --task NAME.")
        if not 0 < self.validation_share < 1:
            raise InputError(f"validation_share is {self.validation_share}; it must lie between 0 and 1.")
        if self.marks and self.marks != (WHOLE,) and len(self.marks) != 2:
            raise InputError(f"marks are an opening and a closing one, or {WHOLE!r}; got {' '.join(self.marks)!r}.")
        if isinstance(self.layer, str) and self.layer != AUTO:
            raise InputError(f"layer is {self.layer!r}; it must be a whole number or {AUTO!r}.")
        if self.position not in ("before", "mean", AUTO):
            raise InputError(f"position is {self.position!r}; it must be 'before', 'mean' or {AUTO!r}.")
        if self.temperature <= 0:
            raise InputError("temperature must be above 0: equal trajectories teach nothing about selecting.")
        counts = "problems validation_problems trajectories validation_trajectories max_tokens max_rows"
        at_least(self, 1, *counts.split(), "epochs", "patience", "batch_problems")
        at_least(self, 0.0, "lr")
        check_seed(self.seed)
        if self.trajectories < 2:
            raise InputError("trajectories is 1; a head learns to choose, so it needs 2 or more of each problem.")
