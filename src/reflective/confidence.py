"""How sure a model was of what it wrote, from figures of its tokens: selectors that need no training. Pure Python.

Self-certainty (arXiv 2502.18581) is the mean over tokens of KL(uniform || p) = -(1/V) Σ_j log(V p_j). DeepConf (arXiv
2508.15260) takes a token's confidence C_i = -mean of its 20 largest log-probabilities, averages it over a window that
slides token by token (a group), and looks at the least sure group, at the least sure tenth of the groups, or at the
end of the trajectory. In all of them larger is surer.

Departure from DeepConf: its window is 2,048 tokens for trajectories of tens of thousands. Where a trajectory is short
the window is an eighth of it, so that a group stays a part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

GROUP_WINDOW: Final = 2048  # tokens; the authors' code, offline setting
SHORTEST_SHARE: Final = 8  # the window is at most 1/8 of the trajectory
BOTTOM_SHARE: Final = 0.1  # of the groups (section 3.1)


@dataclass(frozen=True, slots=True)
class Confidence:
    """What the confidences of a trajectory's tokens come to; in nats, like them."""

    mean: float
    lowest_group: float
    bottom10: float
    tail: float


def window_for(tokens: int) -> int:
    """The number of tokens in a group of a trajectory with `tokens` tokens."""
    return min(GROUP_WINDOW, max(1, math.ceil(tokens / SHORTEST_SHARE)))


def confidence_of(tokens: Sequence[float]) -> Confidence | None:
    """DeepConf's measures of one trajectory; None where there is no token, or a figure that is not finite."""
    if not tokens or not all(map(math.isfinite, tokens)):
        return None
    width = window_for(len(tokens))
    sums = list(accumulate(tokens, initial=0.0))
    groups = sorted((sums[end] - sums[end - width]) / width for end in range(width, len(tokens) + 1))
    fewest = max(1, int(BOTTOM_SHARE * len(groups)))
    return Confidence(
        mean=math.fsum(tokens) / len(tokens),
        lowest_group=groups[0],
        bottom10=math.fsum(groups[:fewest]) / fewest,
        tail=math.fsum(tokens[-width:]) / width,
    )


def self_certainty_of(tokens: Sequence[float]) -> float | None:
    """The mean self-certainty of a trajectory's tokens; None where there is no token, or one that is not finite."""
    if not tokens or not all(map(math.isfinite, tokens)):
        return None
    return math.fsum(tokens) / len(tokens)
