"""What searches over steps share: rounds, in which every trajectory writes one step and then waits for the others.

A round ends when all that was being written has paused or ended, so that what is decided depends neither on the speed
of an engine nor on what else it writes. Then `advance` drops, resumes and forks. Reasoning that closes leaves the
rounds; from all that has closed, `select` takes the answer: the best score, or a vote.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Literal

from reflective.errors import InputError
from reflective.search.base import Choice, Steering, Strategy
from reflective.search.best_of_n import BestOfN
from reflective.search.majority import Majority
from reflective.search.weighted import Weighted
from reflective.settings import check_least
from reflective.types import PRUNED, Problem, Trajectory

Select = Literal["score", "weighted", "majority"]
Rank = Literal["score", "last_step"]
SELECTORS: Mapping[str, Strategy] = {"score": BestOfN(), "weighted": Weighted(), "majority": Majority()}

STEP_TOKENS = 512  # after so many a step is judged by those before it, should it not have ended
STEPS = 40  # rounds; then what is left is written to its end (search-and-learn and its_hub search for as many)


class Selecting(Strategy):
    """A strategy that selects among closed trajectories as one of the plain ones does."""

    needs_scores: ClassVar[bool] = True

    def __init__(self, select: Select = "score") -> None:
        self.select = select

    def on_thought(self, run: Steering, trajectory: Trajectory) -> None:
        SELECTORS[self.select].on_thought(run, trajectory)

    def on_idle(self, run: Steering) -> None:
        SELECTORS[self.select].on_idle(run)

    def choose(self, trajectories: Sequence[Trajectory], problem: Problem) -> Choice:
        return SELECTORS[self.select].choose(trajectories, problem)


class StepSearch(Selecting):
    """Rounds of one step each; see the module's docstring.

    `rank` says what a trajectory is worth meanwhile: its score, the geometric mean of its steps so far, or the score of
    its last step.
    """

    def __init__(
        self, select: Select = "score", rank: Rank = "score", steps: int = STEPS, step_tokens: int = STEP_TOKENS
    ) -> None:
        super().__init__(select)
        self.rank, self.steps, self.step_tokens = rank, steps, step_tokens
        at_least_one(self, "steps", "step_tokens")

    def begin(self, run: Steering) -> None:
        for index in range(run.k):
            run.think(index, step_tokens=self.step_tokens)

    def on_idle(self, run: Steering) -> None:
        paused = {t.index: t for t in run.trajectories if t.finish_reason == "step"}
        if paused and max(len(t.steps) for t in paused.values()) >= self.steps:
            for index in paused:
                run.resume(index)
            return
        rows = self.rows(run, list(paused.values())) if paused else {}
        for index in paused.keys() - rows.keys():
            worth = "no score" if paused[index].score is None else f"score {paused[index].score:.3f}"
            run.cancel(index, f"{PRUNED}: {worth} after step {len(paused[index].steps)}, others go on")
        new = len(run.trajectories)
        for parent, count in rows.items():
            for _ in range(count - 1):
                run.fork(new, parent, paused[parent].tokens, step_tokens=self.step_tokens)
                new += 1
            run.resume(parent, step_tokens=self.step_tokens)
        if not rows:
            super().on_idle(run)

    @abstractmethod
    def rows(self, run: Steering, paused: Sequence[Trajectory]) -> Mapping[int, int]:
        """A round is over: in how many rows each of these trajectories goes on, the first of which is its own.

        Those that are not named are dropped.
        """

    def worth(self, trajectory: Trajectory) -> float:
        """What a trajectory is worth so far, in 0..1; -1 where no step of it was scored."""
        if not trajectory.steps or trajectory.score is None:
            return -1.0
        return trajectory.score if self.rank == "score" else trajectory.steps[-1].score

    def best_first(self, trajectories: Iterable[Trajectory]) -> list[Trajectory]:
        """In the order of their worth; of those with the same text, the first one."""
        once = {t.token_ids: t for t in sorted(trajectories, key=lambda t: -t.index)}
        return sorted(once.values(), key=lambda t: (-self.worth(t), t.index))


class WideSearch(StepSearch):
    """A step search with a `width`, which is a number of rows or takes one at least: no more than effort allows."""

    def __init__(
        self,
        width: int | None = None,
        select: Select = "score",
        rank: Rank = "score",
        steps: int = STEPS,
        step_tokens: int = STEP_TOKENS,
    ) -> None:
        super().__init__(select, rank, steps, step_tokens)
        self.width = width
        at_least_one(self, "width")

    def budget(self, k: int) -> int:
        if self.width is not None and self.width > k:
            raise InputError(
                f"the option width of {self.name} is {self.width}, but effort {k} writes {k} rows at a time."
            )
        return k


def evenly(kept: Sequence[Trajectory], rows: int) -> dict[int, int]:
    """Rows for each of the kept trajectories, as equal as can be, more for the first ones."""
    kept = kept[:rows]
    return {t.index: rows // len(kept) + (i < rows % len(kept)) for i, t in enumerate(kept)}


def at_least_one(strategy: Strategy, *names: str) -> None:
    """Refuse options below 1."""
    check_least(1, **{f"{name} of {strategy.name}": getattr(strategy, name) for name in names})
