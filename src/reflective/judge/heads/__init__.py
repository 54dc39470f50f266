"""Heads that score steps: kinds behind one small protocol, one kind per file.

A head is a torch module that turns the hidden states of all rows that have just ended a step into logits at once. It
may keep a state for each trajectory, such as what it has read of the steps before; then only engines that know
trajectories use it. A kind is registered with `head_kind`, by its own module or a user's:

    @head_kind("mean")
    class MeanHead(StepHead): ...

Letters: R rows that ended a step, H hidden size.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

import torch
from torch import Tensor, nn

from reflective.errors import CheckpointError

if TYPE_CHECKING:
    from reflective.judge.config import JudgeConfig
    from reflective.judge.logprobs import LogprobTerms

SHIPPED: Final = ("paper",)  # modules beside this one, each of which registers a kind
HEADS: Final[dict[str, type[StepHead]]] = {}


class StepHead(nn.Module):
    """What the engines know of a head; see the module's docstring."""

    kind: ClassVar[str]
    hidden_size: int
    logprob_terms: LogprobTerms | None = None
    """What token log-probabilities add to a step's logit, outside the head; None for a head that reads none."""
    keeps_state: ClassVar[bool] = False
    """Whether `step_logits` wants and gives a state for each trajectory."""

    @classmethod
    @abstractmethod
    def from_config(cls, config: JudgeConfig) -> StepHead:
        """A head of the config's shapes, with weights that torch draws."""

    @abstractmethod
    def mlp(self, h: Tensor) -> Tensor:
        """Logits (…) in float32 from hidden states (…, H), before `logprob_terms`."""

    def read(self, h: Tensor, logprob_features: Tensor | None = None) -> Tensor:
        """Logits (n,) of one trajectory's n steps in order, from h (n, H).

        `logprob_features` (n, 2) is given where there are `logprob_terms`, and their effect is in the logits.
        """
        if not self.keeps_state:
            logits: Tensor = self(h) if logprob_features is None else self(h, logprob_features)
            return logits
        found, states = [], [None]
        for row in h.split(1):
            step, states = self.step_logits(row, states)  # type: ignore[assignment]
            found.append(step)
        return torch.cat(found)

    def forward(self, h: Tensor) -> Tensor:
        """Logits (…) in float32 from hidden states (…, H)."""
        return self.mlp(h)

    def step_logits(self, h: Tensor, states: Sequence[Any]) -> tuple[Tensor, Sequence[Any]]:
        """Logits (R,) of the R steps that have just ended, from h (R, H), and each trajectory's new state.

        `states` holds the state that the trajectory's last step left, None at its first.
        """
        return self.mlp(h), states


Kind = TypeVar("Kind", bound=type[StepHead])


def head_kind(name: str) -> Callable[[Kind], Kind]:
    """Register a class of heads under a name. Raises `CheckpointError` where another class has it."""

    def register(kind: Kind) -> Kind:
        if HEADS.get(name, kind).__qualname__ != kind.__qualname__:
            raise CheckpointError(f"a kind of head is called {name!r} already: {HEADS[name].__qualname__}.")
        kind.kind = name
        HEADS[name] = kind
        return kind

    return register


def new_head(config: JudgeConfig) -> StepHead:
    """A head as the config says, with weights that torch draws. Raises `CheckpointError` for an unknown kind."""
    for module in SHIPPED:
        import_module(f"{__name__}.{module}")
    if config.kind not in HEADS:
        raise CheckpointError(
            f"the head is of the kind {config.kind!r}, which is not known here; known are {', '.join(HEADS)}. "
            "Import the module that defines it first."
        )
    return HEADS[config.kind].from_config(config)
