"""The nouns of the house: what goes in, what is written while a model thinks, and what comes out.

Frozen data and nothing else. No torch, no I/O, no behaviour beyond properties that are derived from stored fields.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

FinishReason = Literal["think_end", "eos", "length", "cancelled"]
VerdictKind = Literal["right", "wrong", "ungradable"]

EFFORTS: Mapping[str, int] = {"low": 2, "medium": 8, "high": 32}  # trajectories a problem (paper, section 4.1)


@dataclass(frozen=True, slots=True)
class Problem:
    """A question in plain text and, where it is known, its gold final answer.

    `kind` names the grader (see `reflective.verify.GRADERS`); `metadata` carries what that grader needs
    beyond the gold answer, for instance the numbers of a countdown.
    """

    text: str
    answer: str | None = None
    id: str = ""
    family: str = ""
    kind: str = "math"
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Step:
    """One reasoning step: it ends at the step token `position` (an index into the trajectory's `token_ids`)."""

    position: int
    logit: float
    text: str = ""

    @property
    def score(self) -> float:
        """sigmoid(s), in 0..1 (paper, section 3.2)."""
        return 1.0 / (1.0 + math.exp(-self.logit)) if self.logit >= 0 else math.exp(self.logit) / (1.0 + math.exp(self.logit))


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One sampled solution.

    `token_ids` are the sampled tokens only, the prompt is not among them. `thinking` is the text before `</think>`,
    `answer_text` the text behind it, `answer` the final answer found in `answer_text` (None: there is none).
    `score` is the aggregate of the step scores; None when no step was scored, which ranks below every number.
    `token_logprobs[i]` is the model's log-probability (temperature 1, no filter) of `token_ids[i]`, where the engine
    keeps them.
    """

    index: int
    token_ids: tuple[int, ...]
    thinking: str
    answer_text: str
    steps: tuple[Step, ...]
    score: float | None
    finish_reason: FinishReason
    answer: str | None = None
    token_logprobs: tuple[float, ...] | None = None
    seed: int = 0

    @property
    def tokens(self) -> int:
        """Number of sampled tokens."""
        return len(self.token_ids)

    @property
    def finished(self) -> bool:
        """Whether the thinking was closed by the model itself."""
        return self.finish_reason in ("think_end", "eos")

    @property
    def mean_logprob(self) -> float | None:
        """Mean token log-probability, a training-free selector; None where it was not kept or there is no token."""
        return sum(self.token_logprobs) / len(self.token_logprobs) if self.token_logprobs else None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that were paid for: a prompt counts once, however many trajectories share it."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Timing:
    """Wall-clock seconds of a solution."""

    total_s: float
    first_step_s: float | None = None
    thinking_s: float | None = None
    answer_s: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a grader says of a final answer; `reason` says why in a few words."""

    kind: VerdictKind
    reason: str = ""

    @property
    def right(self) -> bool | None:
        """True, False, or None where no grader could tell."""
        return {"right": True, "wrong": False, "ungradable": None}[self.kind]
