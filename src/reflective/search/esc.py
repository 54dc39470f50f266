"""Early-stopping self-consistency, ESC (arXiv 2401.10480): sample in windows, stop at the first that is unanimous.

Windows of `window` trajectories are written one after another, each at once. It stops when all of a window give the
same final answer, and at k trajectories at the latest. The majority of all samples is given. No score is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from reflective.search.base import Choice
from reflective.search.clock import GO_ON, Board, Decision, Seen
from reflective.search.clocked import Clocked
from reflective.search.majority import pick_by_vote
from reflective.settings import check_least

WINDOW = 5  # the paper's for most sets


class ESC(Clocked):
    """See the module's docstring."""

    name: ClassVar[str] = "esc"

    def __init__(self, window: int = WINDOW, every: int = 16) -> None:
        check_least(1, window=window, every=every)
        self.window, self.every = window, every

    @property
    def waits_for_ends(self) -> bool:
        return True

    def first(self, k: int) -> int:
        return self.window

    def decide(self, board: Board) -> Decision:
        if board.running:
            return GO_ON
        last = {t.group for t in board.ended[-self.window :]}
        if len(last) == 1 and None not in last:
            return Decision(stop=f"the last {self.window} answers agree")
        return Decision(start=self.window)

    def pick(self, ended: Sequence[Seen]) -> Choice:
        return pick_by_vote(ended, [t.group for t in ended], weighted=False)
