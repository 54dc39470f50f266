"""Score-weighted vote: k full trajectories, each votes for its final answer with its score.

The rules of the vote are those of `reflective.selection`; where scores can't weigh, each vote counts one and a note
says so.
"""

from __future__ import annotations

from typing import ClassVar

from reflective.search.majority import Majority


class Weighted(Majority):
    """A trajectory's vote weighs its score; see the module's docstring."""

    name: ClassVar[str] = "weighted"
    needs_scores: ClassVar[bool] = True
    weighted: ClassVar[bool] = True
