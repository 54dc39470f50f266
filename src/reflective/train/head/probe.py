"""Linear probes: where in a model it is known that a response is right, found in seconds, before a head is fitted.

A probe is a logistic regression on one vector a response: the mean of its steps' features, or its last step's. It is
fitted on some problems and judges those of the fold that it has not seen; how strongly its weights are held down is
what chooses best there. A head may start from it (`fit.py`): of few problems a linear function learns more than an MLP
does (measured: LOG.md).

Letters: T trajectories, F features of a step, R fitted on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import comb
from statistics import fmean

import torch
from torch import Tensor, nn

from reflective.judge.metrics import auc
from reflective.train.rollouts import Rollouts

FOLDS = 5
DECAYS = (0.1, 0.03, 0.01, 0.003, 0.001)  # of the squared weights, on features of unit variance
ITERATIONS = 60


@dataclass(frozen=True, slots=True)
class Probe:
    """w · x + b, the logit that a response is right."""

    w: Tensor  # (F,)
    b: Tensor  # ()

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (…) of vectors (…, F)."""
        return x @ self.w + self.b


@dataclass(frozen=True, slots=True)
class Probed:
    """How probes judge problems with right and wrong responses that they were not fitted on, and their decay."""

    decay: float
    aucs: list[float] = field(default_factory=list)  # within each problem, in their order
    shares: list[float] = field(default_factory=list)  # of right answers when the best of 2, 4, … of k is taken

    @property
    def share(self) -> float | None:
        """Over all problems, by which places are compared; None where fewer problems are mixed than there are folds.

        Selecting takes the one that scores best, and an AUC says little of the very top (measured: LOG.md).
        """
        return fmean(self.shares) if self.shares else None


def judge_probes(rollouts: Rollouts, aggregation: str, logprobs: bool = False) -> Probed:
    """Cross-validated over `FOLDS` parts of the problems, with the decay of `DECAYS` that chooses best there.

    With "last" a response is its last step, else the mean over its steps; `logprobs` adds the mean and the lowest
    log-probability of the steps' tokens. The strongest decay where fewer problems are mixed than there are folds.
    """
    vectors = _vectors(rollouts, aggregation, logprobs)
    groups = [[i for i in group if rollouts.outcomes[i] in (0, 1)] for group in rollouts.groups()]
    mixed = [group for group in groups if len({rollouts.outcomes[i] for i in group}) == 2]
    if len(mixed) < FOLDS:
        return Probed(DECAYS[0])
    found = {decay: Probed(decay, [0.0] * len(mixed), [0.0] * len(mixed)) for decay in DECAYS}
    for fold in range(FOLDS):
        judged = range(fold, len(mixed), FOLDS)
        held_out = {mixed[number][0] for number in judged}
        fitted_on = [i for group in groups if group and group[0] not in held_out for i in group]
        for decay, probed in found.items():
            probe = _fit(vectors, rollouts.outcomes, fitted_on, decay)
            for number in judged:
                group = mixed[number]
                scores, right = probe(vectors[group]).tolist(), [rollouts.outcomes[i] == 1 for i in group]
                area = auc(scores, right)
                assert area is not None  # it has both
                probed.aucs[number], probed.shares[number] = area, _share_of_best(scores, right)
    return max(found.values(), key=lambda probed: probed.share or 0.0)


def _share_of_best(scores: Sequence[float], right: Sequence[bool]) -> float:
    """How often the best of k is right, over all subsets of k, and the mean of that over k = 2, 4, …"""
    count = len(scores)
    order = sorted(range(count), key=lambda i: -scores[i])
    shares = []
    for k in (2**i for i in range(1, count.bit_length()) if 2**i <= count):
        # the one at rank r is the best of C(n − 1 − r, k − 1) of the C(n, k) subsets
        chosen = sum(comb(count - 1 - rank, k - 1) for rank, i in enumerate(order) if right[i])
        shares.append(chosen / comb(count, k))
    return fmean(shares)


def fit_probe(rollouts: Rollouts, aggregation: str, logprobs: bool = False) -> Probe:
    """The probe of all graded trajectories, with the decay that `judge_probes` finds."""
    decay = judge_probes(rollouts, aggregation, logprobs).decay
    graded = [i for i, outcome in enumerate(rollouts.outcomes) if outcome in (0, 1)]
    return _fit(_vectors(rollouts, aggregation, logprobs), rollouts.outcomes, graded, decay)


def _vectors(rollouts: Rollouts, aggregation: str, logprobs: bool) -> Tensor:
    """A vector for each trajectory, (T, F): zero where it has no step."""
    steps = rollouts.features.float()
    if logprobs:
        steps = torch.cat([steps, rollouts.logprob_features.float()], 1)
    counts = [stop - start for start, stop in zip(rollouts.starts, rollouts.starts[1:])]
    zero = torch.zeros(steps.shape[1])
    last = aggregation == "last"
    return torch.stack([zero if not len(p) else p[-1] if last else p.mean(0) for p in steps.split(counts)])


def _fit(vectors: Tensor, outcomes: Sequence[int], chosen: Sequence[int], decay: float) -> Probe:
    right = torch.tensor([float(outcomes[i]) for i in chosen])  # (R,)
    x = vectors[chosen]  # (R, F)
    mean, deviation = x.mean(0), x.std(0) + 1e-4
    x = (x - mean) / deviation
    w, b = torch.zeros(x.shape[1], requires_grad=True), torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([w, b], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(x @ w + b, right) + decay * w.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    w = w.detach() / deviation
    return Probe(w, b.detach() - w @ mean)
