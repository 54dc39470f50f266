"""The nouns of the house: what goes in, what is written while a model thinks, and what comes out.

Frozen data. No torch, no I/O, no behaviour beyond what is derived from stored fields: properties, and the forms in
which a solution is shown (`to_json`; `str` and `_repr_html_` are drawn by `reflective.render`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

FinishReason = Literal["think_end", "eos", "length", "cancelled", "step"]  # step: paused at the end of one
PRUNED, STOPPED, OVER_BUDGET = LET_GO = ("pruned", "stopped early", "over budget")  # why a trajectory is given up
VerdictKind = Literal["right", "wrong", "ungradable"]

EFFORTS: Mapping[str, int] = {"low": 2, "medium": 8, "high": 32}  # trajectories per problem (paper, section 4.1)
SOLUTION_VERSION = 1  # of the object that `Solution.to_json` writes


@dataclass(frozen=True, slots=True)
class Problem:
    """A question in plain text and, where it is known, its gold final answer.

    `kind` names the grader (see `reflective.verify.GRADERS`); `metadata` carries what that grader needs
    beyond the gold answer, for instance the numbers of a countdown. `messages`, each with a role and a content, are
    what the model is asked where that is more than the text: a system message, earlier turns.
    """

    text: str
    answer: str | None = None
    id: str = ""
    family: str = ""
    kind: str = "math"
    metadata: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[Mapping[str, str], ...] = ()

    @classmethod
    def of_messages(cls, messages: Sequence[Mapping[str, str]]) -> Problem:
        """A conversation whose last user message is the question."""
        asked = [message for message in messages if message.get("role") == "user"]
        return cls(str(asked[-1].get("content", "")) if asked else "", messages=tuple(messages))

    @property
    def asked(self) -> str:
        """Everything the model is given: the text, or the contents of the messages."""
        return "\n\n".join(message["content"] for message in self.messages) or self.text


@dataclass(frozen=True, slots=True)
class Step:
    """One reasoning step: it ends at the step token `position` (an index into the trajectory's `token_ids`)."""

    position: int
    logit: float
    text: str = ""

    @property
    def score(self) -> float:
        """sigmoid(s), in 0..1 (paper, section 3.2)."""
        if self.logit >= 0:
            return 1.0 / (1.0 + math.exp(-self.logit))
        return math.exp(self.logit) / (1.0 + math.exp(self.logit))


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One sampled solution.

    `token_ids` are the sampled tokens only, the prompt is not among them. `thinking` is the text before `</think>`,
    `answer_text` the text behind it, `answer` the final answer found in `answer_text` (None: there is none).
    `score` is the aggregate of the step scores; None when no step was scored, which ranks below every number.
    `token_logprobs[i]` is the model's log-probability (temperature 1, no filter) of `token_ids[i]`, where the engine
    keeps them. So are `token_certainties` (self-certainty) and `token_confidences` (DeepConf), which need the whole
    distribution; they are empty where it was not looked at (see `reflective.confidence`).
    `parent` is the trajectory that a fork began from, with whose first `at` tokens it begins.
    `let_go` says why the strategy stopped it or set it aside, such as "token 32: pruned: …"; "" where it did not.
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
    token_certainties: tuple[float, ...] = ()
    token_confidences: tuple[float, ...] = ()
    parent: int | None = None
    at: int = 0
    let_go: str = ""

    @property
    def tokens(self) -> int:
        """Number of sampled tokens."""
        return len(self.token_ids)

    @property
    def finished(self) -> bool:
        """Whether the reasoning was closed by the model itself."""
        return self.finish_reason in ("think_end", "eos")

    @property
    def closed(self) -> bool:
        """Whether the reasoning was closed, so that there is an answer or could be one."""
        return is_closed(self.finish_reason, self.answer_text, self.answer)

    @property
    def mean_logprob(self) -> float | None:
        """Mean token log-probability, a training-free selector; None where it was not kept or there is no token."""
        return sum(self.token_logprobs) / len(self.token_logprobs) if self.token_logprobs else None


def is_closed(reason: FinishReason, answer_text: str, answer: str | None) -> bool:
    """Whether reasoning was closed: it ended there, or there is an answer (of which a record may have no text)."""
    return reason == "think_end" or bool(answer_text.strip()) or answer is not None


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


@dataclass(frozen=True, slots=True)
class Solution:
    """The outcome of spending a budget of trajectories on a problem.

    `effort` is that budget. `selected` is the index of the trajectory that the answer is taken from; None when no
    trajectory closed its reasoning. `answer` is the final answer alone ("42"), `answer_text` the text it stands in.
    `confidence` is a calibrated probability that `answer` is right: None where nobody calibrated the model for this
    strategy, else 0.0 where there is no answer at all. `notes` are remarks for a human: fallbacks that were taken,
    budgets that did not suffice. An `interrupted` solution holds what was there when the user stopped it.
    """

    problem: Problem
    answer: str | None
    answer_text: str
    confidence: float | None
    effort: int
    strategy: str
    selected: int | None
    trajectories: tuple[Trajectory, ...]
    usage: Usage
    timing: Timing
    model: str
    seed: int = 0
    notes: tuple[str, ...] = ()
    interrupted: bool = False

    @property
    def best(self) -> Trajectory | None:
        """The selected trajectory."""
        return next((t for t in self.trajectories if t.index == self.selected), None)

    def to_json(self) -> dict[str, Any]:
        """A JSON object: what `reflective solve --json` prints."""
        return {
            "version": SOLUTION_VERSION,
            "problem": self.problem.text,
            "answer": self.answer,
            "answer_text": self.answer_text,
            "confidence": self.confidence,
            "effort": self.effort,
            "strategy": self.strategy,
            "selected": self.selected,
            "trajectories": [
                {
                    "index": t.index,
                    "thinking": t.thinking,
                    "answer_text": t.answer_text,
                    "answer": t.answer,
                    "steps": [{"text": step.text, "score": step.score} for step in t.steps],
                    "score": t.score,
                    "tokens": t.tokens,
                    "finish_reason": t.finish_reason,
                    "parent": t.parent,
                    "at": t.at,
                    **({"let_go": t.let_go} if t.let_go else {}),
                }
                for t in self.trajectories
            ],
            "usage": asdict(self.usage),
            "timing": asdict(self.timing),
            "model": self.model,
            "seed": self.seed,
            "notes": list(self.notes),
            "interrupted": self.interrupted,
        }

    def __str__(self) -> str:
        from reflective.render import solution_text

        return solution_text(self)

    def _repr_html_(self) -> str:
        from reflective.render import solution_html

        return solution_html(self)


@dataclass(frozen=True, slots=True)
class ScoredResponse:
    """Scores of a response that somebody else wrote.

    `step_positions` are indices into the response's tokens; `score` is None when no step was found.
    """

    step_positions: tuple[int, ...]
    step_scores: tuple[float, ...]
    score: float | None

    def to_json(self) -> dict[str, Any]:
        """A JSON object: a line of `reflective score`."""
        return {
            "step_positions": list(self.step_positions),
            "step_scores": list(self.step_scores),
            "score": self.score,
        }
