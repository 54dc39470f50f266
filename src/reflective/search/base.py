"""What a strategy is: it spends a budget of trajectories on a problem and says which answer it stands for.

A strategy steers through its moments (`begin`, `on_step`, `on_mark`, `on_thought`, `on_end`, `on_idle`) by the verbs of
`Steering`, and at the end `choose`s from the trajectories. `choose` is a pure function of the trajectories, so that
recorded trajectories can be judged by any strategy without sampling again.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar, Literal, Protocol

from reflective.engines.base import Marked
from reflective.types import Problem, Trajectory

Answers = Literal["selected", "all"]


@dataclass(frozen=True, slots=True)
class Choice:
    """What a strategy stands for.

    `index` names the trajectory whose answer text is given (None: no reasoning was closed), `answer` the final answer,
    `evidence` in 0..1 is what the confidence is computed from: S of the selected trajectory for best_of_n and single,
    the winner's share of the votes for majority, of the weights for weighted.
    """

    index: int | None
    answer: str | None = None
    evidence: float | None = None
    notes: tuple[str, ...] = ()


class Steering(Protocol):
    """The verbs that a strategy has while its trajectories are being written. Trajectories are named by their index."""

    @property
    def k(self) -> int:
        """The budget of trajectories."""

    @property
    def problem(self) -> Problem:
        """What is being solved."""

    @property
    def trajectories(self) -> tuple[Trajectory, ...]:
        """Every trajectory that has ended so far, by index; also those that are paused (finish reason "step")."""

    @property
    def random(self) -> Random:
        """Random numbers that are a function of the seed and the problem alone."""

    state: Any
    """What the strategy wants to remember of this problem; None at first."""

    def think(self, index: int, *, step_tokens: int | None = None) -> None:
        """Write reasoning number `index`.

        Given `step_tokens`, it pauses at the end of its next step, or after so many tokens where that has not come.
        """

    def fork(self, index: int, parent: int, at: int, *, step_tokens: int | None = None) -> None:
        """Write reasoning number `index` from the first `at` response tokens of reasoning `parent`.

        `parent` is being written, is paused, or has ended on its own. The tokens that both share count once in the
        usage. `step_tokens` as in `think`.
        """

    def resume(self, index: int, *, step_tokens: int | None = None) -> None:
        """Go on with a paused reasoning; `step_tokens` as in `think`."""

    def answer(self, index: int) -> None:
        """Continue closed reasoning to its answer."""

    def cancel(self, index: int, why: str = "") -> None:
        """Stop writing `index`, give it up where it is paused, or set it aside where it has ended; `why` is kept."""


class Strategy(ABC):
    """One way to spend a budget; see the module's docstring. Holds no state of a problem.

    The keyword arguments of `__init__`, kept as attributes of the same names, are the strategy's options: users set
    them by name and value, checked against their types.
    """

    name: ClassVar[str]
    needs_scores: ClassVar[bool] = False
    """Whether the choice rests on step scores, which a model without a head has not."""
    forks: ClassVar[bool] = False
    """Whether it forks whole responses that have ended, which are then held as long as the problem is under way."""
    needs_confidences: ClassVar[bool] = False
    """Whether it reads how sure the model was of each token."""
    every: int = 0
    """Tokens between two marks of a trajectory, at which `on_mark` is called; 0: there are none."""

    @property
    def options(self) -> dict[str, Any]:
        """The options that differ from their defaults, for records of what was asked for."""
        parameters = inspect.signature(type(self).__init__).parameters.items()
        kept = {name: (getattr(self, name), p.default) for name, p in parameters if hasattr(self, name)}
        return {name: value for name, (value, default) in kept.items() if value != default}

    def budget(self, k: int) -> int:
        """How many trajectories are written when k are allowed."""
        return k

    def begins(self, k: int) -> int:
        """How many trajectories begin at once, of k."""
        return k

    def begin(self, run: Steering) -> None:
        """The problem starts: by default reasoning is written k times."""
        for index in range(run.k):
            run.think(index)

    def on_step(self, run: Steering, index: int, step: int, score: float) -> None:
        """Step number `step` of trajectory `index` has been scored."""

    def on_thought(self, run: Steering, trajectory: Trajectory) -> None:
        """A thinking has been closed; it can be continued to its answer."""

    def on_mark(self, run: Steering, mark: Marked) -> None:
        """Trajectory `mark.id` has come to a mark."""

    def on_end(self, run: Steering, trajectory: Trajectory) -> None:
        """A trajectory has ended for good: with its answer, out of tokens, or cancelled."""

    def on_idle(self, run: Steering) -> None:
        """Nothing is being written: all has ended or is paused. The problem is done unless this starts something."""

    @abstractmethod
    def choose(self, trajectories: Sequence[Trajectory], problem: Problem) -> Choice:
        """The answer that these trajectories give."""
