"""Search: ways to spend a budget of trajectories on a problem. No torch, and no engine by name.

One strategy a file; `solve`, `stream` and `solve_many` drive them on any engine.
"""

from __future__ import annotations

from collections.abc import Mapping

from reflective.engines.driver import Interrupts
from reflective.errors import InputError
from reflective.search.base import Answers, Choice, Steering, Strategy
from reflective.search.best_of_n import BestOfN
from reflective.search.drive import solve, stream
from reflective.search.events import Answering, Finished, SearchEvent, Solved, Started, StepScored, Text
from reflective.search.logprob import Logprob
from reflective.search.majority import QUORUM, Majority
from reflective.search.many import solve_many
from reflective.search.settings import Settings, resolve_effort, trajectory_seed
from reflective.search.single import Single
from reflective.search.weighted import Weighted
from reflective.settings import check_names

__all__ = [
    "AUTO",
    "STRATEGIES",
    "Answering",
    "Answers",
    "BestOfN",
    "Choice",
    "Finished",
    "Interrupts",
    "Logprob",
    "Majority",
    "SearchEvent",
    "Settings",
    "Single",
    "Solved",
    "Started",
    "Steering",
    "StepScored",
    "Strategy",
    "Text",
    "Weighted",
    "get_strategy",
    "resolve_effort",
    "solve",
    "solve_many",
    "stream",
    "trajectory_seed",
]

AUTO = "auto"  # the best strategy that the model allows
STRATEGIES: Mapping[str, type[Strategy]] = {
    strategy.name: strategy for strategy in (BestOfN, Majority, Weighted, Logprob, Single)
}


def get_strategy(name: str | Strategy, answers: Answers = "selected", *, scored: bool = True) -> Strategy:
    """The strategy of that name. `answers="all"` lets best_of_n write every answer; the votes do so anyway.

    "auto" is best_of_n where steps are scored; else majority, or the most probable trajectory where too few state a
    final answer.
    """
    if isinstance(name, Strategy):
        return name
    check_names([name], (AUTO, *STRATEGIES), "strategy")
    if answers not in ("selected", "all"):
        raise InputError(f"answers is {answers!r}; it must be 'selected' or 'all'.")
    if name == AUTO:
        return BestOfN(answers) if scored else Majority(quorum=QUORUM)
    return BestOfN(answers) if name == BestOfN.name else STRATEGIES[name]()
