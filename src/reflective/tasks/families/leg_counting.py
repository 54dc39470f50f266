"""How many legs a list of animals has.

The trace takes the animals one by one and keeps a total:

    dog 3 * 4 = 12, 12 / 4 = 3, right
    bird 2 * 2 = 4, 4 / 2 = 2, right
    12 + 4 = 16, 16 - 4 = 12, right
    So 16, checked
"""

from __future__ import annotations

import random
from typing import Any, ClassVar

from reflective.tasks.base import GymTask, Trace, gym_module
from reflective.tasks.families.scribe import Scribe, checked_trace
from reflective.types import Problem

LIMITS = {1: (2, 3, 9), 2: (3, 4, 15), 3: (5, 6, 19)}  # level: kinds from, kinds to, most of a kind


class LegCounting(GymTask):
    name = "leg_counting"
    description = "count the legs of a list of animals"
    gym = "arithmetic.leg_counting", "LegCounting"
    levels: ClassVar = {1: "2 to 3 kinds, up to 9 of each", 2: "3 to 4 kinds, up to 15", 3: "5 to 6 kinds, up to 19"}

    def config(self, level: int) -> dict[str, Any]:
        kinds_from, kinds_to, most = LIMITS[level]
        return {"min_animals": kinds_from, "max_animals": kinds_to, "max_instances": most}

    def metadata(self, item: dict[str, Any]) -> dict[str, Any]:
        return {"animals": [[name, count] for name, count in item["animals"].items()]}

    def key(self, problem: Problem) -> str:
        return ",".join(sorted(f"{count} {name}" for name, count in problem.metadata["animals"]))

    def trace(self, problem: Problem, rng: random.Random) -> Trace:
        legs = gym_module("arithmetic.leg_counting").ANIMALS
        herd = [(str(name), int(count), int(legs[name])) for name, count in problem.metadata["animals"]]
        return checked_trace(lambda scribe: _attempt(scribe, herd), rng)


def _attempt(scribe: Scribe, herd: list[tuple[str, int, int]]) -> str:
    total = 0
    for name, count, legs in herd:
        if not legs:
            scribe.step(f"{name} 0")
            continue
        product = scribe.operation(count, "*", legs, before=f"{name} ")
        total = scribe.operation(total, "+", product) if total else product
    return str(total)
