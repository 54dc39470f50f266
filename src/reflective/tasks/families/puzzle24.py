"""The game of 24: an expression for 24 that uses each of four numbers exactly once.

For the trace see `chains`. There are only 1,280 hands of numbers up to 13 that a chain brings to 24, so three in ten
are kept for testing. The levels are thirds of the hands, by the number of chains that solve them.

The package draws by trial, at some 7 a second, and always gives the numbers in an order in which they can be joined
from left to right. Here they are shuffled.
"""

from __future__ import annotations

import itertools
import random
from functools import cache
from typing import ClassVar

from reflective.tasks.base import Task, Trace, gym_module
from reflective.tasks.families.chains import chains, expression, search_trace
from reflective.types import Problem

TARGET = 24
LARGEST = 13  # as with playing cards; reasoning_gym stops at 10 by default
SIGNS = ("+", "-", "*", "/")


class Puzzle24(Task):
    name = "puzzle24"
    description = "make 24 of four numbers"
    levels: ClassVar = {1: "hands with many solutions", 2: "with several solutions", 3: "with few solutions"}
    test_share = 0.3

    def draw(self, rng: random.Random, level: int) -> Problem:
        hand = rng.choice(hands(level))
        numbers = rng.sample(hand, len(hand))
        template = gym_module("games.puzzle24").QUESTION_TEMPLATE
        return Problem(
            text=template.format(numbers=", ".join(map(str, numbers)), operators=", ".join(SIGNS)).strip(),
            answer=_solution(hand),
            family=self.name,
            kind="expression",
            metadata={"numbers": numbers, "target": TARGET, "use_all": True},
        )

    def key(self, problem: Problem) -> str:
        return str(sorted(problem.metadata["numbers"]))

    def trace(self, problem: Problem, rng: random.Random) -> Trace:
        return search_trace(problem.metadata["numbers"], TARGET, rng)


def hands(level: int) -> tuple[tuple[int, ...], ...]:
    """The solvable hands of a level."""
    return _thirds()[level - 1]


@cache
def _solution(hand: tuple[int, ...]) -> str:
    return expression(next(chain for chain in chains(hand) if chain[-1].value == TARGET))


@cache
def _thirds() -> tuple[tuple[tuple[int, ...], ...], ...]:
    ways = {
        hand: sum(chain[-1].value == TARGET for chain in chains(hand))
        for hand in itertools.combinations_with_replacement(range(1, LARGEST + 1), 4)
    }
    solvable = sorted((hand for hand in ways if ways[hand]), key=lambda hand: (-ways[hand], hand))
    third = len(solvable) // 3
    return tuple(solvable[:third]), tuple(solvable[third : 2 * third]), tuple(solvable[2 * third :])
