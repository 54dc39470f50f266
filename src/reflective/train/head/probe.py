"""Linear probes: where in a model it is known that a response is right, found in seconds, before a head is fitted.

A probe is a logistic regression on one vector per response: the mean of its steps' features, or its last step's. It is
fitted on some problems and judges those of the fold that it has not seen; how strongly its weights are held down is
what judges best there. A head may start from it (`fit.py`): of few problems a linear function learns more than an MLP
does (measured: LOG.md).

Letters: T trajectories, F features of a step, R fitted on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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


def probe_aucs(rollouts: Rollouts, aggregation: str, logprobs: bool = False) -> tuple[list[float], float]:
    """The AUC within each problem with right and wrong responses, in their order, and the decay that it was had with.

    With "last" a response is its last step, else the mean over its steps; `logprobs` adds the mean and the lowest
    log-probability of the steps' tokens. No AUC, and the strongest decay, where fewer problems are mixed than folds.
    """
    vectors = _vectors(rollouts, aggregation, logprobs)
    groups = [[i for i in group if rollouts.outcomes[i] in (0, 1)] for group in rollouts.groups()]
    mixed = [group for group in groups if len({rollouts.outcomes[i] for i in group}) == 2]
    if len(mixed) < FOLDS:
        return [], DECAYS[0]
    by_decay: dict[float, dict[int, float]] = {decay: {} for decay in DECAYS}
    for fold in range(FOLDS):
        held_out = mixed[fold::FOLDS]
        seen = {group[0] for group in held_out if group}
        fitted_on = [i for group in groups if group and group[0] not in seen for i in group]
        for decay, found in by_decay.items():
            probe = _fit(vectors, rollouts.outcomes, fitted_on, decay)
            for group in held_out:
                area = auc(probe(vectors[group]).tolist(), [rollouts.outcomes[i] == 1 for i in group])
                assert area is not None  # it has both
                found[group[0]] = area
    best = max(DECAYS, key=lambda decay: fmean(by_decay[decay].values()))
    return [by_decay[best][group[0]] for group in mixed], best


def fit_probe(rollouts: Rollouts, aggregation: str, logprobs: bool = False) -> Probe:
    """The probe of all graded trajectories, with the decay that `probe_aucs` finds."""
    _, decay = probe_aucs(rollouts, aggregation, logprobs)
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
