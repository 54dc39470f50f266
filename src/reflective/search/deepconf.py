"""DeepConf online (arXiv 2508.15260): a warm-up sets a confidence below which every further trajectory is stopped.

A token's confidence is C_i = −mean of its 20 largest log-probabilities; a group's is their mean over a window that
slides token by token. `warmup` trajectories are written to their ends, and s is the (100 − `top`) percentile of their
lowest group confidences: top 10 is the paper's DeepConf-low, 90 its DeepConf-high. The others begin then, up to k in
all, and each is stopped when a group falls below s. Before and while they run, everything stops as soon as the leading
answer has the share `consensus` of the votes. Votes count their trajectories' lowest group confidences; warm-up
trajectories below s have none.

Departures: the paper's window is 2,048 tokens for trajectories of tens of thousands; by default it is an eighth of the
median length of the warm-up here. Groups are looked at every `every` tokens rather than at each one, so that a
trajectory may be stopped up to `every` − 1 tokens later. The further trajectories run side by side, as in the
authors' code; where the paper takes them one after another, the consensus is looked at after each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from reflective.confidence import GROUP_WINDOW, SHORTEST_SHARE
from reflective.errors import InputError
from reflective.search.base import Choice
from reflective.search.clock import GO_ON, Board, Decision, Seen
from reflective.search.clocked import Clocked
from reflective.search.majority import pick_by_vote
from reflective.selection import vote

WARMUP, TOP, CONSENSUS = 16, 10.0, 0.95  # section 3.2 of the paper


class DeepConf(Clocked):
    """See the module's docstring. `window` 0 is an eighth of the warm-up's median length."""

    name: ClassVar[str] = "deepconf"
    needs_confidences: ClassVar[bool] = True

    def __init__(
        self,
        top: float = TOP,
        warmup: int = WARMUP,
        consensus: float = CONSENSUS,
        window: int = 0,
        every: int = 16,
    ) -> None:
        if not 0.0 < top < 100.0:
            raise InputError(f"top is {top}; it must be a percentage between 0 and 100.")
        if not 0.0 < consensus <= 1.0:
            raise InputError(f"consensus is {consensus}; it must lie above 0 and up to 1.")
        if warmup < 1 or window < 0 or every < 1:
            raise InputError(f"warmup {warmup}, window {window} or every {every} is too small.")
        self.top, self.warmup, self.consensus, self.window, self.every = top, warmup, consensus, window, every

    def first(self, k: int) -> int:
        return self.warmup

    def decide(self, board: Board) -> Decision:
        warm = [t for t in board.ended if t.index < self.warmup]
        if len(warm) < min(self.warmup, board.k):
            return GO_ON
        window, threshold = self._rule(warm)
        if board.news and self._agreed(board.ended, window, threshold):
            return Decision(stop=f"{self.consensus:.0%} of the votes agree".replace("%", " %"))
        if board.started == len(warm):
            return Decision(start=board.k - board.started)
        return Decision(
            [
                (t.index, f"a group's confidence fell below {threshold:.3f}")
                for t in board.running
                if t.tokens >= window and t.lowest_group(window) < threshold
            ]
        )

    def pick(self, ended: Sequence[Seen]) -> Choice:
        warm = [t for t in ended if t.index < self.warmup and t.tokens]  # what was interrupted may have none
        window, threshold = self._rule(warm)
        voters = _weighed(ended, window, threshold)
        return pick_by_vote(voters, [t.group for t in voters], weighted=True)

    def _rule(self, warm: Sequence[Seen]) -> tuple[int, float]:
        """The window and s, from the warm-up."""
        if not warm:
            return 1, -math.inf
        if any(t.confidences is None for t in warm):
            raise InputError("DeepConf reads token confidences, and these trajectories were written without them.")
        lengths = sorted(t.tokens for t in warm)
        eighth = math.ceil(lengths[len(lengths) // 2] / SHORTEST_SHARE)
        window = self.window or min(GROUP_WINDOW, max(1, eighth))
        return window, percentile([t.lowest_group(window) for t in warm], 100.0 - self.top)

    def _agreed(self, ended: Sequence[Seen], window: int, threshold: float) -> bool:
        counted = _weighed(ended, window, threshold)
        found = vote(counted, [t.group for t in counted], weighted=True)
        return found is not None and (found.share or 0.0) >= self.consensus


def percentile(values: Sequence[float], share: float) -> float:
    """With linear interpolation between neighbours, as NumPy's."""
    ranked = sorted(values)
    place = share / 100.0 * (len(ranked) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ranked) - 1)
    return ranked[low] + (place - low) * (ranked[high] - ranked[low])


def _weighed(ended: Sequence[Seen], window: int, threshold: float) -> list[Seen]:
    """Those that are sure enough, scored by their lowest groups."""
    lows = ((t, t.lowest_group(window)) for t in ended)
    return [replace(t, score=low) for t, low in lows if low >= threshold]
