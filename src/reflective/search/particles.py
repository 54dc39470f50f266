"""Particle filtering over steps: rows are drawn anew after each step, in proportion to what their scores promise.

k particles write a step each. Then k are drawn from them, with replacement, with probabilities

    p_i = softmax_i(logit(S_i) / T)

S_i is what the particle is worth so far (`rank`), T = 1 (Puri et al., arXiv 2502.01618). A particle that is drawn
several times goes on in as many rows; one that is not drawn is dropped; closed ones are drawn like the others and keep
their copies.

`annealing` (entropic particle filtering, arXiv 2510.05825; constants as in its_hub) keeps scores that are too sure of
themselves early from wiping out all but one particle: while the effective sample size 1 / Σ p_i² is below `spread` · k
and t/`steps` below `early`, it is T = max(1, k Σ p_i² · (1 - t/`steps`)), where t is the number of steps so far.

Departures: what is drawn comes from one random number per round (systematic resampling, its_hub's choice with
annealing), so that equal scores drop nobody. A particle without a score is drawn only where none has one, one that ran
out of tokens never.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import ClassVar

from reflective.errors import InputError
from reflective.judge.aggregate import logit
from reflective.search.base import Steering
from reflective.search.step_search import STEP_TOKENS, STEPS, Rank, Select, StepSearch
from reflective.types import Trajectory

SURE = 1e-7  # scores are kept away from 0 and 1 by so much, where a logit has no end (its_hub)


class Particles(StepSearch):
    """Particle filtering; see the module's docstring."""

    name: ClassVar[str] = "particles"

    def __init__(
        self,
        annealing: bool = False,
        early: float = 0.5,
        spread: float = 0.5,
        select: Select = "score",
        rank: Rank = "score",
        steps: int = STEPS,
        step_tokens: int = STEP_TOKENS,
    ) -> None:
        super().__init__(select, rank, steps, step_tokens)
        self.annealing, self.early, self.spread = annealing, early, spread
        for name, value in (("early", early), ("spread", spread)):
            if not 0.0 <= value <= 1.0:
                raise InputError(f"the option {name} of particles is {value}; it must be between 0 and 1.")

    def rows(self, run: Steering, paused: Sequence[Trajectory]) -> Mapping[int, int]:
        copies: dict[int, int] = run.state or {}  # of the closed ones
        there = [*paused, *(t for t in run.trajectories if t.closed)]
        slots = [t for t in there for _ in range(copies.get(t.index, 1))]
        probabilities = self._probabilities(slots, max(len(t.steps) for t in paused))
        drawn = dict.fromkeys((t.index for t in there), 0)
        for slot in systematic(probabilities, run.k, run.random.random()):
            drawn[slots[slot].index] += 1
        run.state = {t.index: drawn[t.index] for t in there if t.closed}
        return {t.index: drawn[t.index] for t in paused if drawn[t.index]}

    def _probabilities(self, slots: Sequence[Trajectory], step: int) -> list[float]:
        logits = [-math.inf if (worth := self.worth(t)) < 0.0 else logit(worth, SURE) for t in slots]
        # p_i = softmax_i(logit(S_i) / T)
        probabilities = softmax(logits, 1.0)
        # Σ p_i², one over the effective sample size
        concentration = sum(p * p for p in probabilities)
        progress = step / self.steps
        if self.annealing and progress < self.early and self.spread * len(slots) * concentration > 1.0:
            # T = max(1, k Σ p_i² · (1 - t/steps))
            probabilities = softmax(logits, max(1.0, len(slots) * concentration * (1.0 - progress)))
        return probabilities


def softmax(logits: Sequence[float], temperature: float) -> list[float]:
    """Probabilities; equal ones where every logit is -inf."""
    highest = max(logits)
    if highest == -math.inf:
        return [1.0 / len(logits)] * len(logits)
    weights = [math.exp((logit - highest) / temperature) for logit in logits]
    return [weight / sum(weights) for weight in weights]


def systematic(probabilities: Sequence[float], count: int, uniform: float) -> list[int]:
    """`count` places drawn with these probabilities by one uniform number: each i at least floor(count · p_i) times."""
    cumulative = list(accumulate(probabilities))
    drawn, place = [], 0
    for i in range(count):
        point = (i + uniform) / count * cumulative[-1]
        while point >= cumulative[place] and place < len(cumulative) - 1:
            place += 1
        drawn.append(place)
    return drawn
