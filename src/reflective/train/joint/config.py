"""The settings of joint training, frozen and checked; from TOML or as keyword arguments. No torch, no TRL.

What the paper or its code sets is named with its source; the rest are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from reflective.errors import InputError
from reflective.judge.detection import RuleName
from reflective.settings import at_least, check_seed, settings_digest

PolicyLoss = Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo"]

VERIFY = "verify"  # the reward that grades final answers with `reflective.verify`

# may change between an interruption and the resumption; micro_batch not within a generation
FREE_SETTINGS = ("output", "steps", "log", "device", "micro_batch", "gradient_checkpointing")


@dataclass(frozen=True)
class DataConfig:
    """Problems with final answers, in one of the ways of `reflective.tasks.load_problems`, or from the hub.

    `source` is a file (JSON lines, JSON, CSV, parquet), a benchmark, a generated family or "mixture"; or `hub` names a
    data set there and `files` its data files (those of the split "train" by default). `fields` maps problem, answer, …
    to the rows' own names; `like` asks as a benchmark does. Of generated problems, the held-out ones come from the
    validation split; of others, the last `held_out` after shuffling.
    """

    source: str | None = None
    hub: str | None = None
    files: tuple[str, ...] = ()
    revision: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    kind: str | None = None
    prompt: str | None = None
    families: tuple[str, ...] = ()  # of "mixture": these only
    levels: tuple[int, ...] | None = None  # of families: 1, 2 and 3
    like: str | None = None
    skip_bad: bool = False  # leave bad rows out, with a note
    problems: int | None = None  # at most so many; generated ones: exactly so many, 4,000 by default
    held_out: int = 64

    def __post_init__(self) -> None:
        if (self.source is None) == (self.hub is None):
            raise InputError("say where the problems come from: [data] source or [data] hub, one of them.")
        if self.families and self.source != "mixture":
            raise InputError('[data] families are those of source = "mixture"; name one family as the source itself.')
        if self.hub is None and (self.files or self.revision):
            raise InputError("[data] files and revision are those of [data] hub.")
        at_least(self, 0, "held_out")
        at_least(self, 1, "problems")


@dataclass(frozen=True)
class RolloutConfig:
    """The engine that samples the trajectories, and how many.

    `engine`: "torch" is the embedded engine on the trained weights themselves; "trl" is Hugging Face generation;
    "vllm_server" and "vllm_colocate" are TRL's modes of vLLM, with `vllm` as TRL's further `vllm_…` settings.
    """

    engine: Literal["torch", "trl", "vllm_server", "vllm_colocate"] = "torch"
    problems: int = 32  # a generation, over all processes
    group: int = 8  # trajectories of a problem; paper, section 4
    max_tokens: int = 1024
    temperature: float = 1.0  # paper: 0.6 to 1.0
    rows: int = 128  # batch size of the embedded engine
    vllm: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        at_least(self, 1, "problems", "max_tokens", "rows")
        if self.group < 2:
            raise InputError(
                f"[rollouts] group is {self.group}; an advantage compares trajectories of a problem, so give 2 or more."
            )
        if not self.temperature > 0:
            raise InputError(
                f"[rollouts] temperature is {self.temperature}; it must be above 0: equal trajectories teach nothing."
            )

    @property
    def trajectories(self) -> int:
        """Of a generation, over all processes."""
        return self.problems * self.group


@dataclass(frozen=True)
class PolicyConfig:
    """GRPO. `loss` and `kl` are TRL's `loss_type` and `beta`; further settings of TRL's go into [trl]."""

    lr: float = 1e-6  # paper: 1e-7 to 1e-6 at 1.5B to 32B
    weight_decay: float = 0.0
    loss: PolicyLoss = "bnpo"  # the mean over a micro-batch's tokens; reference
    kl: float = 0.001  # "low_var", reference; 0 spares the reference model
    kl_corrected: bool = False  # TRL's default is True; the reference does not
    clip: float = 0.2
    clip_high: float | None = None
    max_grad_norm: float = 1.0
    iterations: int = 1  # passes over a generation
    minibatches: int = 1  # optimizer steps a pass
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        at_least(self, 0.0, "lr", "weight_decay", "kl", "clip", "clip_high", "max_grad_norm", "warmup_steps")
        at_least(self, 1, "iterations", "minibatches")


@dataclass(frozen=True)
class HeadLossConfig:
    """The SPR loss and the head's optimizer.

    `fresh` makes a new head where the model has one. `layer`, `step_rule`, `step_tokens` and `logprob_features` are a
    new head's; a head that is kept has its own (None: whatever that is; of a new head −2, "reference" and False).
    """

    lr: float = 3e-6  # reference
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    coefficient: float = 1.0
    filter: Literal["self_supervised", "none"] = "self_supervised"
    plain_steps: int = 0  # steps of plain BCE before the filter begins
    class_balance: bool = True
    problem_balanced: bool = False  # right and wrong trajectories of a problem weigh the same; no class_balance then
    backbone_gradient_scale: float = 1e-4  # reference, dp_actor.py
    dropout: float | None = None  # None: as the head has it
    fresh: bool = False
    layer: int | None = None
    step_rule: RuleName | None = None
    step_tokens: tuple[int, ...] = ()
    logprob_features: bool | None = None

    def __post_init__(self) -> None:
        at_least(self, 0.0, "lr", "weight_decay", "max_grad_norm", "coefficient")
        at_least(self, 0.0, "backbone_gradient_scale", "plain_steps")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise InputError(f"[head] dropout is {self.dropout}; it must be from 0 up to below 1.")


@dataclass(frozen=True)
class RewardConfig:
    """What a trajectory is worth: `verify` grades the final answer, other names are functions, "package.module:name".

    `outcome` names the reward that says right (above 0.5) or wrong to the head.
    """

    functions: tuple[str, ...] = (VERIFY,)
    weights: tuple[float, ...] = ()
    outcome: str = VERIFY

    def __post_init__(self) -> None:
        if not self.functions or len(set(self.functions)) < len(self.functions):
            raise InputError(f"[rewards] functions must be one or more, each once, got {list(self.functions)}.")
        if self.weights and len(self.weights) != len(self.functions):
            raise InputError(f"[rewards] there are {len(self.weights)} weights for {len(self.functions)} functions.")
        if self.outcome not in self.functions:
            raise InputError(f"[rewards] outcome {self.outcome!r} is none of the functions {list(self.functions)}.")


@dataclass(frozen=True)
class LoRAConfig:
    """Train low-rank adapters in place of the backbone's weights. `rank` 0: off."""

    rank: int = 0
    alpha: float = 32.0
    dropout: float = 0.0
    modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

    def __post_init__(self) -> None:
        at_least(self, 0, "rank", "dropout")


@dataclass(frozen=True)
class LogConfig:
    """When the run logs, evaluates on held-out problems, and saves; all in optimizer steps."""

    every: int = 1
    evaluate_every: int = 50  # 0: never
    evaluate_group: int = 8  # trajectories of a held-out problem
    save_every: int = 50
    keep: int = 2
    report_to: tuple[str, ...] = ("tensorboard",)
    plot: bool = True

    def __post_init__(self) -> None:
        at_least(self, 1, "every", "save_every", "keep", "evaluate_group")
        at_least(self, 0, "evaluate_every")


@dataclass(frozen=True)
class JointConfig:
    """A run of joint training. The [trl] table goes to TRL's `GRPOConfig` as it is, beside what is set here."""

    model: str
    output: str
    data: DataConfig
    steps: int = 200  # optimizer steps
    seed: int = 0
    micro_batch: int = 8  # trajectories in one forward pass of each process
    device: Literal["auto", "cpu"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "float32"  # of the weights in memory
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # of the arithmetic
    gradient_checkpointing: bool = False
    save_dtype: Literal["float32", "bfloat16"] = "bfloat16"  # of the trained model
    rollouts: RolloutConfig = field(default_factory=RolloutConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    head: HeadLossConfig = field(default_factory=HeadLossConfig)
    rewards: RewardConfig = field(default_factory=RewardConfig)
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    log: LogConfig = field(default_factory=LogConfig)
    trl: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        at_least(self, 1, "steps", "micro_batch")
        check_seed(self.seed)

    def batches(self, processes: int) -> tuple[int, int]:
        """Micro-batches of a generation and of an optimizer step, for each process. Raises `InputError`."""
        total, at_once = self.rollouts.trajectories, self.micro_batch * processes
        if total % at_once:
            raise InputError(
                f"{total} trajectories a generation ({self.rollouts.problems} problems × {self.rollouts.group}) "
                f"can't be cut into micro-batches of {self.micro_batch} on {processes} process(es). Choose micro_batch "
                "so that it divides them."
            )
        micro_batches = total // at_once
        if micro_batches % self.policy.minibatches:
            raise InputError(
                f"{micro_batches} micro-batches can't be cut into {self.policy.minibatches} minibatches. "
                "Choose micro_batch or minibatches so that they can."
            )
        return micro_batches, micro_batches // self.policy.minibatches

    def digest(self, data: str) -> str:
        """Of all that decides what a step learns; `data` stands for the problems themselves."""
        same = replace(self, rollouts=replace(self.rollouts, rows=1))  # they change no result
        return settings_digest(same, FREE_SETTINGS, data)
