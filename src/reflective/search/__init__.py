"""Search: ways to spend a budget of trajectories on a problem. No torch, and no engine by name.

One strategy a file; `solve`, `stream` and `solve_many` drive them on any engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reflective.engines.driver import Interrupts
from reflective.errors import InputError
from reflective.search.adaptive_consistency import AdaptiveConsistency
from reflective.search.auto_effort import AutoEffort, leader_at_high
from reflective.search.base import Answers, Choice, Steering, Strategy
from reflective.search.beam import Beam
from reflective.search.best_of_n import BestOfN
from reflective.search.deepconf import DeepConf
from reflective.search.drive import solve, stream
from reflective.search.dvts import DVTS
from reflective.search.esc import ESC
from reflective.search.events import Answering, Finished, Forked, SearchEvent, Solved, Started, StepScored, Text
from reflective.search.logprob import Logprob
from reflective.search.majority import QUORUM, Majority
from reflective.search.many import solve_many
from reflective.search.mcts import MCTS
from reflective.search.particles import Particles
from reflective.search.prune import Prune
from reflective.search.settings import Settings, resolve_effort, trajectory_seed
from reflective.search.single import Single
from reflective.search.weighted import Weighted
from reflective.settings import check_names, checked_arguments

__all__ = [
    "AUTO",
    "DVTS",
    "ESC",
    "MCTS",
    "STRATEGIES",
    "AdaptiveConsistency",
    "Answering",
    "Answers",
    "AutoEffort",
    "Beam",
    "BestOfN",
    "Choice",
    "DeepConf",
    "Finished",
    "Forked",
    "Interrupts",
    "Logprob",
    "Majority",
    "Particles",
    "Prune",
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
    strategy.name: strategy
    for strategy in (
        *(BestOfN, Majority, Weighted, Logprob, Single),
        *(Beam, DVTS, Particles, MCTS),
        *(Prune, DeepConf, AdaptiveConsistency, ESC),
    )
}


def get_strategy(
    name: str | Strategy,
    answers: Answers = "selected",
    *,
    scored: bool = True,
    whole: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Strategy:
    """The strategy of that name, made with `options`, the arguments of its class.

    "auto" is best_of_n where steps are scored, or weighted where the `whole` response is the reasoning and states the
    answer anyway; without scores it is majority. Where too few trajectories state a final answer for a vote, the most
    probable one is chosen. `answers="all"` lets best_of_n write every answer; the votes do so anyway.
    """
    if answers not in ("selected", "all"):
        raise InputError(f"answers is {answers!r}; it must be 'selected' or 'all'.")
    if isinstance(name, Strategy) or name == AUTO:
        if options:
            given = "a strategy that is made already" if isinstance(name, Strategy) else repr(AUTO)
            raise InputError(f"strategy options ({', '.join(options)}) go with a strategy's name, not with {given}.")
        if isinstance(name, Strategy):
            return name
        if not scored:
            return Majority(quorum=QUORUM)
        return Weighted(quorum=QUORUM) if leader_at_high(whole) == "vote" else BestOfN(answers)
    check_names([name], (AUTO, *STRATEGIES), "strategy")
    strategy = STRATEGIES[name]
    defaults = {"answers": answers} if strategy is BestOfN else {}
    return strategy(**defaults | checked_arguments(strategy, options or {}, f"option of {name}"))
