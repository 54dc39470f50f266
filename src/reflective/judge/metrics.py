"""How well scores tell right from wrong: the area under the ROC curve, over all and within problems. Pure Python.

Selection ranks the trajectories of one problem. An AUC over all problems mostly tells hard problems from easy ones,
so the number to look at is the one within problems.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import groupby

from reflective.errors import InputError

Scored = tuple[float | None, bool | None]
"""A trajectory's score (None: no step was scored) and whether it is right (None: ungradable)."""


def auc(scores: Sequence[float | None], labels: Sequence[bool | None]) -> float | None:
    """Probability that a right one scores above a wrong one, ties counting half; None without both.

    A score of None ranks below every number. Items whose label is None are left out.
    """
    if len(scores) != len(labels):
        raise InputError(f"{len(scores)} scores for {len(labels)} labels; there must be one for each.")
    known = [(_rank_key(score), bool(label)) for score, label in zip(scores, labels) if label is not None]
    right = sum(label for _, label in known)
    wrong = len(known) - right
    if not right or not wrong:
        return None
    # AUC = (Σ_right rank − R(R+1)/2) / (R·W), tied items sharing their mean rank (Mann-Whitney)
    rank_sum, below = 0.0, 0
    for _, tied in groupby(sorted(known), key=lambda item: item[0]):
        ties = [label for _, label in tied]
        rank_sum += sum(ties) * (below + (len(ties) + 1) / 2)
        below += len(ties)
    return (rank_sum - right * (right + 1) / 2) / (right * wrong)


def within_problem_auc(groups: Iterable[Iterable[Scored]]) -> float | None:
    """Mean of the AUC among the trajectories of one problem, over problems that have right and wrong ones.

    A group holds the (score, right) of one problem's trajectories. None where no problem has both.
    """
    values = []
    for group in groups:
        items = list(group)
        value = auc([score for score, _ in items], [label for _, label in items])
        if value is not None:
            values.append(value)
    return math.fsum(values) / len(values) if values else None


def _rank_key(score: float | None) -> tuple[bool, float]:
    if score is None:
        return (False, 0.0)
    if math.isnan(score):
        raise InputError("a score is NaN; a trajectory without a score has None.")
    return (True, float(score))
