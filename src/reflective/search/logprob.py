"""Selection by mean log-probability: the closed trajectory whose tokens the model itself found most probable.

It needs no head and no final answers, so it works for every model and every kind of problem (Kadavath et al. 2022 use
the same figure as a baseline).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from reflective.search.base import Choice, Steering, Strategy
from reflective.selection import best_by_logprob
from reflective.types import Problem, Trajectory


class Logprob(Strategy):
    """Select by mean token log-probability; see the module's docstring."""

    name: ClassVar[str] = "logprob"

    def on_idle(self, run: Steering) -> None:
        best = _best(run.trajectories)
        if best is not None and best.finish_reason == "think_end":
            run.answer(best.index)

    def choose(self, trajectories: Sequence[Trajectory], problem: Problem) -> Choice:
        best = _best(trajectories)
        return Choice(None) if best is None else Choice(best.index, best.answer)


def _best(trajectories: Sequence[Trajectory]) -> Trajectory | None:
    closed = [t for t in trajectories if t.closed]
    return best_by_logprob(closed) if closed else None
