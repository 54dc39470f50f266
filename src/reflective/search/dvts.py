"""Diverse verifier tree search: independent subtrees, each a greedy search over steps (search-and-learn, 2024).

At effort k there are k/`width` subtrees of `width` rows. After each step the best row of a subtree goes on, in all rows
of it; a subtree is done when its best row has closed. Subtrees never take rows of each other, so that one good-looking
beginning can't take over, as in beam search. `width` is 4, as in search-and-learn.

Departures from search-and-learn: rows are ranked by the paper's score (`rank=last_step` does as it does); a closed row
is not written anew, so that the tokens stay within the budget; k need not be a multiple of `width` (the last subtree
then has fewer rows).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import ClassVar

from reflective.search.base import Steering
from reflective.search.step_search import WideSearch, evenly
from reflective.types import Trajectory

ROWS_A_SUBTREE = 4


class DVTS(WideSearch):
    """Diverse verifier tree search; see the module's docstring. `width` rows a subtree (None: 4)."""

    name: ClassVar[str] = "dvts"

    def rows(self, run: Steering, paused: Sequence[Trajectory]) -> Mapping[int, int]:
        width = self.width or ROWS_A_SUBTREE
        subtrees: defaultdict[int, list[Trajectory]] = defaultdict(list)
        home: dict[int, int] = {}
        for t in run.trajectories:
            home[t.index] = t.index // width if t.parent is None else home[t.parent]
            subtrees[home[t.index]].append(t)
        rows: dict[int, int] = {}
        for number, members in subtrees.items():
            best = self.best_first(t for t in members if t.finish_reason == "step")[:1]
            closed = [t for t in members if t.closed]
            if best and all(self.worth(best[0]) > self.worth(t) for t in closed):
                size = min(width, run.k - number * width)
                rows |= evenly(best, max(size - len(closed), 1))
        return rows
