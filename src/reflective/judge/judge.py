"""A judge: what turns a trajectory that is being written into scores.

It holds the format (where the reasoning lies and its steps end), the place that the head reads, the head, how step
scores become a trajectory's, the calibration, and the fingerprint of its model. Engines, the vLLM plugin, `score`,
training and evaluation use the same object. A judge without a head knows the format alone and scores nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from reflective.errors import CheckpointError
from reflective.judge.calibrate import Calibration
from reflective.judge.config import JudgeConfig, check_fit
from reflective.judge.detection import detect_format, template_switches
from reflective.judge.format import Format
from reflective.judge.logprobs import LogprobTerms

if TYPE_CHECKING:
    from reflective.judge.heads import StepHead


def weights_digest_of(head: StepHead) -> str:
    """The same in every number type and on every device: of the weights in bfloat16."""
    digest = hashlib.sha256()
    for name, tensor in sorted(head.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().bfloat16().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Judge:
    """A config and the head that belongs to it; None where nobody trained one."""

    config: JudgeConfig
    head: StepHead | None = None

    @property
    def format(self) -> Format:
        """Where the reasoning lies and its steps end."""
        return self.config.format

    @property
    def scores(self) -> bool:
        """Whether steps are scored."""
        return self.head is not None

    @property
    def digest(self) -> str:
        """Of the head's weights, by which schedules and runs name it; "" without a head."""
        return weights_digest_of(self.head) if self.head is not None else ""

    @property
    def aggregation(self) -> str:
        """How step scores become a trajectory's."""
        return self.config.aggregation

    @property
    def calibration(self) -> Calibration | None:
        """What makes a confidence of a strategy's evidence; None without a head."""
        return self.config.calibration if self.scores else None

    @property
    def logprob_terms(self) -> LogprobTerms | None:
        """What log-probabilities add to the head's logits, where it reads them."""
        return self.head.logprob_terms if self.head is not None else None

    def without_head(self) -> Judge:
        """The same format, without scores."""
        return Judge(replace(self.config, calibration=None, schedule=None))

    def for_generation(self, name: str, *, knows_trajectories: bool = True) -> Judge:
        """This judge, or `CheckpointError` where it can't score while the model `name` writes."""
        if self.head is None:
            return self
        if self.config.feature_position == "at":
            raise CheckpointError(
                f"the head of {name!r} reads {self.config.feature_position!r} the step token; generation scores a step "
                "from the position before it. Train the head with feature_position 'before'."
            )
        reads_more = self.head.keeps_state or self.config.feature_position == "mean"
        if reads_more and not knows_trajectories:
            raise CheckpointError(
                f"the head of {name!r} reads more of a trajectory than its last position, and vLLM computes it where "
                "trajectories are not known. Use the engine torch, or serve without scores: VLLM_PLUGINS=''."
            )
        return self


def init_judge(
    model: Any,
    tokenizer: Any,
    *,
    format: Format | None = None,
    seed: int = 0,
    detection: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Judge:
    """A judge with a randomly initialised float32 head on the model's device.

    `format` is found from the tokenizer where it is not given, with `detection` as the arguments of `detect_format`;
    `settings` are further fields of `JudgeConfig`. The weights depend on `seed` alone, so that all ranks of a training
    run begin with the same head.
    """
    import torch

    from reflective.judge.heads import new_head

    text = model.config.get_text_config()
    format = format or detect_format(tokenizer, **(detection or {}))
    settings.setdefault("template_kwargs", template_switches(tokenizer, reasons=not format.is_whole))
    config = JudgeConfig(hidden_size=int(text.hidden_size), format=format, **settings)
    check_fit(config, model.config, tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = new_head(config)
    return Judge(config, head.to(model.device))


def headless_judge(
    model_config: Any,
    tokenizer: Any,
    *,
    format: Format | None = None,
    sampling: Mapping[str, float] | None = None,
    **detection: Any,
) -> Judge:
    """The judge of a model without a head: its format, found from the tokenizer where it is not given.

    `sampling` is how the model wants its tokens drawn.
    """
    format = format or detect_format(tokenizer, **detection)
    switches = template_switches(tokenizer, reasons=not format.is_whole)
    size = int(model_config.get_text_config().hidden_size)
    config = JudgeConfig(hidden_size=size, format=format, sampling=sampling or {}, template_kwargs=switches)
    return Judge(config)


def no_head(name: str) -> str:
    """What a user of a model without a head should know, in one line."""
    return (
        f"{name!r} has no head, so answers are chosen by agreement or probability, without a confidence. A head that "
        f"scores the steps is trained with: reflective train head --model {name} --data problems.jsonl"
    )
