"""How many legs a list of animals has.

The trace takes the animals one by one and keeps a total, then counts those with legs again from the last to the
first:

    dog 3 * 4 = 12
    bird 2 * 2 = 4, 12 + 4 = 16
    ant 5 * 6 = 30, 16 + 30 = 46
    Check 5 * 6 = 30, 2 * 2 = 4, 34, 3 * 4 = 12, 46, right
    So 46, checked
"""

from __future__ import annotations

import random
from functools import cache
from typing import Any, ClassVar

from reflective.tasks.base import Task, Trace, gym_item, gym_module
from reflective.tasks.writing import Outcome, Scribe, checked_trace, verdict
from reflective.types import Problem

LIMITS = {1: (2, 3, 9), 2: (3, 4, 15), 3: (5, 6, 19)}  # level: kinds from, kinds to, most of a kind


class LegCounting(Task):
    name = "leg_counting"
    description = "count the legs of a list of animals"
    levels: ClassVar = {1: "2 to 3 kinds, up to 9 of each", 2: "3 to 4 kinds, up to 15", 3: "5 to 6 kinds, up to 19"}

    def draw(self, rng: random.Random, level: int) -> Problem:
        item = gym_item(_dataset(level), rng)
        return Problem(
            text=item["question"],
            answer=item["answer"],
            family=self.name,
            metadata={"animals": [[name, count] for name, count in item["metadata"]["animals"].items()]},
        )

    def key(self, problem: Problem) -> str:
        return ",".join(sorted(f"{count} {name}" for name, count in problem.metadata["animals"]))

    def trace(self, problem: Problem, rng: random.Random) -> Trace:
        legs = gym_module("arithmetic.leg_counting").ANIMALS
        herd = [(str(name), int(count), int(legs[name])) for name, count in problem.metadata["animals"]]
        return checked_trace(lambda scribe: _attempt(scribe, herd), rng)


def _attempt(scribe: Scribe, herd: list[tuple[str, int, int]]) -> Outcome:
    total = 0
    for name, count, legs in herd:
        scribe.write(f"{name} {count} * {legs} = ")
        product = scribe.result(count * legs) if legs else 0
        if not legs:
            scribe.write("0")
        elif total:
            scribe.write(f", {total} + {product} = ")
            total = scribe.result(total + product)
        else:
            total = product
        scribe.end_step()

    again, lines = 0, []
    for _, count, legs in reversed(herd):
        if legs:
            lines.append(f"{count} * {legs} = {count * legs}" + (f", {again + count * legs}" if again else ""))
        again += count * legs
    scribe.step(f"Check {', '.join(lines or ['no legs'])}, {verdict(again == total)}")
    return Outcome(str(total), again == total)


@cache
def _dataset(level: int) -> Any:
    kinds_from, kinds_to, most = LIMITS[level]
    module = gym_module("arithmetic.leg_counting")
    return module.LegCountingDataset(
        module.LegCountingConfig(min_animals=kinds_from, max_animals=kinds_to, max_instances=most, seed=0)
    )
