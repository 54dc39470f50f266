"""Beam search over steps: after each step the best beams go on, each in several rows (Snell et al., arXiv 2408.03314).

At effort k, k rows write a step each; the `width` best of them by score stay, and share the k rows of the next round.
So it writes about as many tokens as k trajectories from end to end. Constants: `width` is k/4, that is 4 rows a beam,
and 40 steps, as in search-and-learn and its_hub.

Departures from search-and-learn: beams are ranked by the paper's score, the geometric mean of the steps so far
(`rank=last_step` does as it does); a beam that has closed gives up its row, so that the tokens stay within the budget;
of beams with the same text one stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from reflective.search.base import Steering
from reflective.search.step_search import WideSearch, evenly
from reflective.types import Trajectory

ROWS_A_BEAM = 4


class Beam(WideSearch):
    """Beam search; see the module's docstring. `width` is how many beams stay after each step (None: k/4)."""

    name: ClassVar[str] = "beam"

    def rows(self, run: Steering, paused: Sequence[Trajectory]) -> Mapping[int, int]:
        width = self.width or max(run.k // ROWS_A_BEAM, 1)
        return evenly(self.best_first(paused)[:width], run.k - sum(t.closed for t in run.trajectories))
