"""What a search tells while it goes on.

The engine's own events, with `id` being the trajectory's index, between one `Started` and one `Solved`. A trajectory
that is continued to its answer sends `Finished` twice: with reason "think_end", and when the answer is complete. One
that pauses at the end of a step sends none; a fork says `Forked` first, and tells none of the steps that it shares.
"""

from __future__ import annotations

from dataclasses import dataclass

from reflective.engines.base import Finished, StepScored, Text
from reflective.types import Problem, Solution


@dataclass(frozen=True, slots=True)
class Started:
    """The search begins: `k` trajectories are allowed, the prompt has `prompt_tokens` tokens."""

    problem: Problem
    k: int
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Answering:
    """The thinking of trajectory `id` is being continued to its answer."""

    id: int


@dataclass(frozen=True, slots=True)
class Forked:
    """Trajectory `id` begins with the first `at` tokens of trajectory `parent`."""

    id: int
    parent: int
    at: int


@dataclass(frozen=True, slots=True)
class Solved:
    """The search is over."""

    solution: Solution


SearchEvent = Started | Text | StepScored | Finished | Forked | Answering | Solved

__all__ = ["Answering", "Finished", "Forked", "SearchEvent", "Solved", "Started", "StepScored", "Text"]
