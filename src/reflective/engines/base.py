"""The contract between whoever wants trajectories and whoever writes them.

Three verbs, so that a strategy can steer while trajectories are being written: `submit`, `cancel`, `step`.
An engine promises that each step is scored in the pass that wrote it, that a continuation does not pay for its
prefix again while the engine still holds it, and that a failed trajectory is data, not a crash.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal

from reflective.errors import InputError
from reflective.types import Trajectory


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn, in the order in which the settings apply.

    `repetition_penalty` divides positive and multiplies negative logits of tokens already seen (prompt included);
    `temperature` 0 means greedy; `top_k` 0, `top_p` 1 and `min_p` 0 are off.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        checks = (
            ("temperature", self.temperature, 0.0 <= self.temperature <= 100.0, "0 (greedy) or more"),
            ("top_p", self.top_p, 0.0 < self.top_p <= 1.0, "above 0 and at most 1"),
            ("top_k", self.top_k, self.top_k >= 0, "0 (off) or more"),
            ("min_p", self.min_p, 0.0 <= self.min_p < 1.0, "0 (off) or more, below 1"),
            ("repetition_penalty", self.repetition_penalty, 0.0 < self.repetition_penalty <= 100.0, "above 0"),
        )
        for name, got, ok, want in checks:
            if not ok:  # also false for NaN
                raise InputError(f"{name} is {got}; it must be {want}.")


@dataclass(frozen=True, slots=True)
class Request:
    """One trajectory to write: a prompt, or (with `parent`) the continuation of a finished one.

    `until` says where to stop: "think_end" at `</think>`, "eos" at the end of the answer. `max_tokens` bounds the
    tokens of this request. `index` is the caller's number for the trajectory, given back in it. The trajectory is a
    function of the prompt, the sampling and `seed` alone, not of what else is being written.
    """

    prompt_ids: tuple[int, ...]
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    max_tokens: int = 1024
    until: Literal["think_end", "eos"] = "think_end"
    parent: int | None = None
    index: int = 0


@dataclass(frozen=True, slots=True)
class Text:
    """More text of trajectory `id`."""

    id: int
    delta: str


@dataclass(frozen=True, slots=True)
class StepScored:
    """Step number `index` (from 0) of trajectory `id` has just been scored; `score` is in 0..1."""

    id: int
    index: int
    score: float


@dataclass(frozen=True, slots=True)
class Finished:
    """Trajectory `id` is complete. A continuation's trajectory holds its parent's tokens and steps, too."""

    id: int
    trajectory: Trajectory


Event = Text | StepScored | Finished


class Engine(ABC):
    """Writes scored trajectories. Not thread-safe: one caller drives `step`."""

    name: str
    """The model, as the user named it."""
    scored: bool
    """Whether trajectories carry step scores."""
    context_length: int
    """Prompt and completion together, in tokens."""

    @abstractmethod
    def encode_prompt(self, problem: str) -> tuple[int, ...]:
        """Token ids of the problem in the model's chat template, with the thinking opened."""

    @abstractmethod
    def submit(self, request: Request) -> int:
        """Queue a request and return its id. Raises `ContextError` if the prompt leaves no room, `InputError`."""

    @abstractmethod
    def cancel(self, id: int) -> None:
        """Stop trajectory `id`: it finishes with reason "cancelled" in the next `step`.

        For a finished one: forget what is held for its continuation. An unknown id is ignored.
        """

    @abstractmethod
    def step(self) -> list[Event]:
        """Advance every running trajectory by a token (or what the engine calls a step); [] when there is no work."""

    @property
    @abstractmethod
    def busy(self) -> bool:
        """Whether any request is waiting or running."""

    def close(self) -> None:
        """Give back memory, processes and connections. The engine can't be used afterwards."""
