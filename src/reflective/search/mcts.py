"""Monte Carlo tree search over steps, guided by the model's own scores.

The paper names MCTS over its step scores and publishes no constants of it that we know of; those here are ours. A node
is a prefix that ends at a step. Effort k is k simulations, each of which writes one reasoning to its end:

1. From the root down, the better of two kinds of moves is taken: on to a child c, or to a new child, which is expected
   to be worth what the node is.

       U(c)   = Q(c) + `exploration` · √N / (1 + N(c))
       U(new) = Q    + `exploration` · √N / (1 + children)

   N counts the simulations through a node, Q is their mean value.
2. Where a new child is better, a fork begins at the end of the node's step, and is written to the end of the reasoning.
   Its first step becomes a node; the steps behind it do not, until they are expanded in their turn.
3. Its score S is its value, 0 where it did not close. It counts for every node on its way.

So what a promising beginning led to is tried again from there, and what two share is written once. `parallel`
simulations are begun at once, each taken to be worth Q of where it begins until it has ended.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from reflective.errors import InputError
from reflective.search.base import Steering
from reflective.search.step_search import Select, Selecting, at_least_one
from reflective.types import Trajectory

EXPLORATION = 2.0  # for values in 0..1; of 0.1, 0.5 and 2, the best on 120 validation problems of nano


@dataclass(eq=False, slots=True)
class Node:
    """A prefix: the first `at` tokens of trajectory `index`. At its `end` nothing can be tried any more."""

    index: int
    at: int
    end: bool = False
    children: list[Node] = field(default_factory=list)
    visits: int = 0
    total: float = 0.0

    @property
    def value(self) -> float:
        """Q, the mean value of the simulations through it."""
        return self.total / self.visits if self.visits else 0.0


class MCTS(Selecting):
    """Monte Carlo tree search; see the module's docstring."""

    name: ClassVar[str] = "mcts"
    forks: ClassVar[bool] = True

    def __init__(self, exploration: float = EXPLORATION, parallel: int = 1, select: Select = "score") -> None:
        super().__init__(select)
        self.exploration, self.parallel = exploration, parallel
        at_least_one(self, "parallel")
        if not 0.0 <= exploration < math.inf:
            raise InputError(f"the option exploration of mcts is {exploration}; it must be 0 or more.")

    def begin(self, run: Steering) -> None:
        for index in range(min(self.parallel, run.k)):
            run.think(index)

    def on_idle(self, run: Steering) -> None:
        first = len(run.trajectories)
        left = min(self.parallel, run.k - first)
        if left <= 0:
            return super().on_idle(run)
        root = tree(run.trajectories)
        for index in range(first, first + left):
            path = self.way(root)
            node = path[-1]
            if node is root:
                run.think(index)
            else:
                run.fork(index, node.index, node.at)
            node.children.append(Node(index, 0, end=True))
            count([*path, node.children[-1]], node.value)
        return None

    def way(self, root: Node) -> list[Node]:
        """From the root to the node that gets a new child."""
        path = [root]
        while True:
            node = path[-1]
            reach = self.exploration * math.sqrt(node.visits)
            # U(new) = Q + exploration · √N / (1 + children)
            new = node.value + reach / (1 + len(node.children))
            # U(c) = Q(c) + exploration · √N / (1 + N(c))
            moves = [(c.value + reach / (1 + c.visits), -c.index, c) for c in node.children if not c.end]
            best = max(moves, key=lambda move: move[:2], default=None)
            if best is None or new >= best[0]:
                return path
            path.append(best[2])


def tree(trajectories: Sequence[Trajectory]) -> Node:
    """The root of the tree of these simulations; forks come after what they began from."""
    root = Node(-1, 0)
    paths: dict[tuple[int, int], list[Node]] = {}  # to the node that is the first so many tokens of a trajectory
    for t in trajectories:
        path = [root] if t.parent is None else paths[t.parent, t.at]
        steps = [step.position + 1 for step in t.steps if step.position >= t.at]
        if steps:
            path = [*path, Node(t.index, steps[0], end=len(steps) == 1)]
            path[-2].children.append(path[-1])
            paths[t.index, steps[0]] = path
        count(path, (t.score or 0.0) if t.closed else 0.0)
    return root


def count(path: Sequence[Node], value: float) -> None:
    """Add a simulation of that value to every node on its way."""
    for node in path:
        node.visits, node.total = node.visits + 1, node.total + value
