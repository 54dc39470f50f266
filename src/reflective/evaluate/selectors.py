"""Ways to choose one of k trajectories by a figure of its own, trained or not. One order each, used by every metric.

The order is that of `reflective.selection`: closed before unclosed, known figures before unknown ones; the score falls
back on the mean log-probability where no step was scored.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from reflective import selection
from reflective.evaluate.table import Table

SELECTORS: Mapping[str, str] = MappingProxyType(
    {
        "best_of_n": "score",
        "logprob": "mean_logprob",
        "self_certainty": "self_certainty",
        "confidence": "confidence_mean",
        "confidence_lowest": "confidence_lowest_group",
        "confidence_bottom10": "confidence_bottom10",
        "confidence_tail": "confidence_tail",
    }
)
"""A selector's name -> the figure that it ranks by."""

LABELS: Mapping[str, str] = MappingProxyType(
    {
        "oracle": "oracle (pass@k)",
        "best_of_n": "best of k by score",
        "majority": "majority",
        "weighted": "weighted vote",
        "logprob": "mean log-probability",
        "self_certainty": "self-certainty",
        "confidence": "mean confidence",
        "confidence_lowest": "lowest group confidence",
        "confidence_bottom10": "bottom-10 % confidence",
        "confidence_tail": "tail confidence",
        "single": "single sample",
    }
)
"""What a human reads."""


def known_selectors(table: Table) -> list[str]:
    """The selectors whose figure is there for at least one trajectory."""
    return [name for name, column in SELECTORS.items() if not np.isnan(table.scores[column]).all()]


def can_weigh(table: Table) -> bool:
    """Whether scores may weigh votes (see `reflective.selection`): there are some, and none is negative."""
    score = table.scores["score"]
    return bool((score > 0).any() and not (score < 0).any())


def order_keys(table: Table, selector: str) -> list[NDArray[np.generic]]:
    """What the selector sorts by, (P, N) each: the first decides, larger is better, no NaN."""
    figures = [SELECTORS[selector]] + (["mean_logprob"] if selector == "best_of_n" else [])
    return selection.order_keys(table.closed, *(table.scores[name] for name in figures))
