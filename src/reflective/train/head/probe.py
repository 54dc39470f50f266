"""Linear probes: where in a model it is known that a response is right, found in seconds, before a head is fitted.

A probe is a logistic regression on one vector a response: the mean of its steps' features, or its last step's. It is
fitted on the problems that have right and wrong responses, both of which weigh alike in each, and judges the problems
of the folds that it was not fitted on.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from reflective.judge.metrics import auc
from reflective.train.rollouts import Rollouts

FOLDS = 5
DECAY = 0.1  # of the squared weights, on features of unit variance
ITERATIONS = 60


def probe_aucs(rollouts: Rollouts, aggregation: str) -> list[float]:
    """The AUC within each problem with right and wrong responses, in their order; none with fewer problems than folds.

    With "last" a response is its last step, else the mean over its steps.
    """
    groups = [[i for i in group if rollouts.outcomes[i] in (0, 1)] for group in rollouts.groups()]
    groups = [group for group in groups if len({rollouts.outcomes[i] for i in group}) == 2]
    if len(groups) < FOLDS:
        return []
    vectors = _vectors(rollouts, aggregation == "last")
    found = [0.0] * len(groups)
    for fold in range(FOLDS):
        fitted_on = [group for number, group in enumerate(groups) if number % FOLDS != fold]
        mean, deviation, w = _fit(vectors, rollouts.outcomes, fitted_on)
        for number in range(fold, len(groups), FOLDS):
            said = ((vectors[groups[number]] - mean) / deviation @ w).tolist()  # (k,)
            area = auc(said, [rollouts.outcomes[i] == 1 for i in groups[number]])
            assert area is not None  # it has both
            found[number] = area
    return found


def _vectors(rollouts: Rollouts, last: bool) -> Tensor:
    """A vector for each trajectory, (T, H): zero where it has no step."""
    counts = [stop - start for start, stop in zip(rollouts.starts, rollouts.starts[1:])]
    parts = rollouts.features.float().split(counts)  # (n, H) each
    zero = torch.zeros(rollouts.features.shape[1])
    return torch.stack([zero if not len(p) else p[-1] if last else p.mean(0) for p in parts])


def _fit(vectors: Tensor, outcomes: Sequence[int], groups: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, deviation and weights, (H,) each, of a probe on some problems."""
    chosen = [i for group in groups for i in group]
    right = torch.tensor([float(outcomes[i]) for i in chosen])  # (R,)
    sums = [(sum(outcomes[i] for i in group), len(group)) for group in groups]
    shares = [
        1 / (ones if outcomes[i] else count - ones)
        for group, (ones, count) in zip(groups, sums, strict=True)
        for i in group
    ]
    weight = torch.tensor(shares) / sum(shares)  # (R,)
    x = vectors[chosen]  # (R, H)
    mean, deviation = x.mean(0), x.std(0) + 1e-4
    x = (x - mean) / deviation
    w = torch.zeros(x.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([w], max_iter=ITERATIONS)

    def closure() -> Tensor:
        optimizer.zero_grad()
        errors = nn.functional.binary_cross_entropy_with_logits(x @ w, right, reduction="none")
        loss = (weight * errors).sum() + DECAY * w.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return mean, deviation, w.detach()
