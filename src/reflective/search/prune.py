"""Prune: successive rejection. All k begin; at fixed token marks only the best part by running score goes on.

At mark number i of `marks` the trajectories that are alive, written or ended, are ranked by their scores so far (the
geometric mean of the step scores), and of those still being written the ones outside the best `keep` share are let go,
down to `survivors`. One without a scored step yet is not judged before the next mark. At the end the best score is
chosen, as by best of n.

The marks default to 32, 64, 128, … tokens: halving at doubling budgets, as in successive halving.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from reflective.errors import InputError
from reflective.search.base import Choice
from reflective.search.clock import GO_ON, Board, Decision, Seen
from reflective.search.clocked import Clocked
from reflective.selection import best_closed
from reflective.settings import check_least

SURVIVORS = 2


class Prune(Clocked):
    """See the module's docstring. `marks` are multiples of `every`; () are `every` times 2, 4, 8, …"""

    name: ClassVar[str] = "prune"
    needs_scores: ClassVar[bool] = True

    def __init__(
        self, keep: float = 0.5, survivors: int = SURVIVORS, marks: tuple[int, ...] = (), every: int = 16
    ) -> None:
        if not 0.0 < keep < 1.0:
            raise InputError(f"keep is {keep}; it must lie between 0 and 1.")
        check_least(1, survivors=survivors, every=every)
        if any(mark < every or mark % every for mark in marks):
            raise InputError(f"marks are {', '.join(map(str, marks))}; they must be multiples of every, {every}.")
        self.keep, self.survivors, self.marks, self.every = keep, survivors, tuple(marks), every

    def decide(self, board: Board) -> Decision:
        falls = board.now in self.marks if self.marks else is_doubling(board.now // self.every)
        return Decision(outranked(board, self.keep, self.survivors)) if falls else GO_ON

    def pick(self, ended: Sequence[Seen]) -> Choice:
        best, notes = best_closed(ended)
        return Choice(None) if best is None else Choice(best.index, None, best.score, notes)


def is_doubling(times: int) -> bool:
    """Whether it is 2, 4, 8, …"""
    return times > 1 and times & (times - 1) == 0


def outranked(board: Board, keep: float, survivors: int = SURVIVORS) -> list[tuple[int, str]]:
    """What is let go at a mark where the best share `keep` goes on, with the reasons."""
    alive = [t for t in (*board.running, *board.ended) if t.score is not None]
    wanted = max(survivors, math.ceil(keep * len(alive)))
    ranked = sorted(alive, key=lambda t: (-(t.score or 0.0), t.index))
    places = {t.index: place for place, t in enumerate(ranked, 1)}
    return [
        (t.index, f"score {t.score:.3f} is number {places[t.index]} of {len(ranked)}, {wanted} go on")
        for t in board.running
        if places.get(t.index, 0) > wanted
    ]
