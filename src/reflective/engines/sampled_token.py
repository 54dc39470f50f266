"""A token as a server gives it: what `wire` reads and `served` makes trajectories of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SampledToken:
    """One token: its id, its value (a log-probability or a logit), and those of the slots (empty: none came)."""

    token: int
    value: float
    slots: tuple[float, ...] = ()
