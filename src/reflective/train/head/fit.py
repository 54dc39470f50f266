"""Fit a head to the features, outcomes and log-probabilities of rollouts.

Departures from the paper, where the head is trained together with the policy (`train/joint`):
- the filter of the SPR loss starts after `plain_epochs` of plain BCE, since a filter that keeps only what an
  untrained head agrees with teaches it its own prejudice (measured: LOG.md);
- the features are standardised while the head is fitted, and the shift and scale folded into its first layer at the
  end: hidden states of different models differ in size by orders of magnitude, the learning rate need not;
- with log-probability features, the power of the steps' own probability that enters their score is chosen on the
  validation problems (`fit_exponent`);
- trajectories are weighted so that right and wrong ones of each problem count the same (`problem_balanced`), since
  selection ranks the trajectories of one problem;
- it starts from a linear probe (`probe.py`) unless `start` says otherwise, and the MLP learns what the probe leaves.

Letters: B trajectories, n steps, H hidden size.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import fmean, stdev

import torch
from torch import Tensor

from reflective.errors import TrainingError
from reflective.judge.aggregate import aggregate
from reflective.judge.config import JudgeConfig
from reflective.judge.heads.paper import SPRMHead
from reflective.judge.loss import UNGRADABLE, problem_balanced_weights, spr_loss
from reflective.judge.metrics import auc, within_problem_auc
from reflective.selection import best_by_score
from reflective.train.head.config import HeadConfig
from reflective.train.head.probe import Probe, fit_probe
from reflective.train.progress import Note, print_note
from reflective.train.rollouts import Rollouts
from reflective.train.selection import Candidate, budgets, cut

MIN_DEVIATION = 1e-6  # of a feature that counts as varying
EXPONENTS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
NOISE = 2.0  # standard errors
BATCH = 4096  # steps in one forward pass when nothing is trained


def fit_head(
    config: HeadConfig, train: Rollouts, validation: Rollouts, sprm: JudgeConfig, note: Note = print_note
) -> tuple[SPRMHead, int]:
    """Fit a fresh head; returns the one of the epoch that ranked the validation trajectories best, and the epoch.

    Where the head starts from a linear probe, it stays that, epoch 0, unless an epoch is better beyond noise. Raises
    `TrainingError` where nothing can be learnt: no step, or only one outcome.
    """
    _check(train)
    mean, deviation = _moments(train.features)
    train, validation = (replace(r, features=(r.features.float() - mean) / deviation) for r in (train, validation))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        probe = fit_probe(train, sprm.aggregation, config.logprob_features) if config.start == "linear" else None
        head = _FittedHead(sprm.hidden_size, config.dropout, config.logprob_features, probe)
        optimizer = torch.optim.AdamW(head.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        order, groups = random.Random(config.seed), train.groups()
        start = candidates_of(head, validation, sprm.aggregation)
        if probe is not None:
            note(f"epoch   0  linear probe  validation AUC {aucs_text(*aucs(start))}")
        best, best_epoch, best_state = -math.inf, 0, copy.deepcopy(head.state_dict())
        start_state, best_said = best_state, start
        for epoch in range(1, config.epochs + 1):
            plain = epoch <= config.plain_epochs or config.filter == "none"
            losses, kept, steps = [], 0, 0
            order.shuffle(groups)
            head.train()
            for first in range(0, len(groups), config.batch_problems):
                batch = [i for group in groups[first : first + config.batch_problems] for i in group]
                logits, mask, outcomes = _forward(head, train, batch)
                weights = None
                if config.problem_balanced:
                    weights = problem_balanced_weights([train.problems[i] for i in batch], outcomes)
                result = spr_loss(
                    logits,
                    outcomes,
                    mask,
                    filter="none" if plain else "self_supervised",
                    class_balance=config.class_balance and not config.problem_balanced,
                    weights=weights,
                )
                optimizer.zero_grad(set_to_none=True)
                result.loss.backward()
                torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
                optimizer.step()
                losses.append(float(result.loss.detach()))
                kept += result.kept_right + result.kept_wrong
                steps += result.steps_right + result.steps_wrong
            said = candidates_of(head, validation, sprm.aggregation)
            within, overall = aucs(said)
            measure = within if within is not None else overall if overall is not None else -losses[-1]
            note(
                f"epoch {epoch:>3}  {'BCE' if plain else 'SPR'} loss {sum(losses) / len(losses):.4f}  "
                f"kept {kept / max(steps, 1):.2f}  validation AUC {aucs_text(within, overall)}"
            )
            if measure > best:
                best, best_epoch, best_state, best_said = measure, epoch, copy.deepcopy(head.state_dict()), said
            elif epoch - best_epoch >= config.patience and epoch > config.plain_epochs + config.patience:
                break
        if probe is not None and not _better_beyond_noise(best_said, start):
            best_epoch, best_state = 0, start_state
            note("no epoch is better than the linear probe beyond noise; the head stays the probe")
        head.load_state_dict(best_state)
        fitted = head.plain()
    _fold(fitted, mean, deviation)
    return fitted.eval(), best_epoch


class _FittedHead(SPRMHead):
    """The head while it is fitted. With a probe, w · h + b is fixed, and the MLP beside it starts at zero.

    Its first two hidden units are then dead while it learns, since relu(x) − relu(−x) = x makes room for the probe
    there: `plain` is the paper's head.
    """

    def __init__(self, hidden_size: int, dropout: float, logprob_features: bool, probe: Probe | None) -> None:
        super().__init__(hidden_size, dropout, logprob_features)
        self.probe = probe
        if probe is not None:
            with torch.no_grad():
                for tensor in (self.hidden.weight[:2], self.hidden.bias[:2], self.output.weight, self.output.bias):
                    tensor.zero_()
                if self.logprob_weight is not None:
                    self.logprob_weight.copy_(probe.w[hidden_size:])

    def mlp(self, h: Tensor) -> Tensor:
        s = super().mlp(h)
        if self.probe is not None:
            told: Tensor = h.float() @ self.probe.w[: self.hidden_size] + self.probe.b  # (…, H) @ (H,) -> (…)
            s = s + told
        return s

    @torch.no_grad()
    def plain(self) -> SPRMHead:
        """The same function as a head of the paper's form."""
        head = SPRMHead(self.hidden_size, self.dropout.p, self.uses_logprobs)
        head.load_state_dict(self.state_dict())
        if self.probe is not None:
            w = self.probe.w[: self.hidden_size]
            head.hidden.weight[:2] = torch.stack([w, -w])
            head.output.weight[0, :2] = torch.tensor([1.0, -1.0])
            head.output.bias.add_(self.probe.b)
        return head


def _better_beyond_noise(said: Sequence[Sequence[Candidate]], before: Sequence[Sequence[Candidate]]) -> bool:
    """Whether the AUC within problems is up by more than `NOISE` standard errors; without mixed problems that over all.

    The best of many epochs looks better than it is: chosen by its AUC alone, it judged worse than the probe (LOG.md).
    """
    pairs = [(_auc_of(a), _auc_of(b)) for a, b in zip(said, before, strict=True)]
    gains = [a - b for a, b in pairs if a is not None and b is not None]
    if not gains:
        (_, now), (_, then) = aucs(said), aucs(before)
        return now is not None and then is not None and now > then
    return fmean(gains) > NOISE * (stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else 0.0)


def _auc_of(group: Sequence[Candidate]) -> float | None:
    return auc([c.score for c in group], [c.right for c in group])


def fit_exponent(head: SPRMHead, rollouts: Rollouts, aggregation: str) -> tuple[float, dict[float, float]]:
    """The v of `sprm.head` with which the best of n is right most often, and what each was worth: the mean share of
    right answers over budgets of 2 and more. Of equal ones the smallest; 0 where there is only one trajectory each."""
    tried = {}
    for exponent in EXPONENTS:
        head.probability_exponent = exponent
        candidates = candidates_of(head, rollouts, aggregation)
        shares = [
            sum(best_by_score(group).right is True for group in groups) / len(groups)
            for groups in (list(cut(candidates, k)) for k in budgets(candidates) if k > 1)
        ]
        tried[exponent] = sum(shares) / max(len(shares), 1)
    head.probability_exponent = 0.0
    return max(EXPONENTS, key=lambda v: (tried[v], -v)), tried


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each feature, (H,) each; a constant feature keeps its scale."""
    mean, deviation = features.float().mean(0), features.float().std(0)
    return mean, torch.where(deviation > MIN_DEVIATION, deviation, 1.0)


@torch.no_grad()
def _fold(head: SPRMHead, mean: Tensor, deviation: Tensor) -> None:
    """W1·(h − μ)/σ + b1 = (W1/σ)·h + (b1 − (W1/σ)·μ): the plain head that does the same on raw features."""
    head.hidden.weight.div_(deviation)  # (2H, H) / (H,)
    head.hidden.bias.sub_(head.hidden.weight @ mean)


def _check(rollouts: Rollouts) -> None:
    outcomes = set(rollouts.outcomes) - {UNGRADABLE}
    if len(rollouts.features) == 0:
        raise TrainingError("no trajectory has a step: check the step rule (reflective info) and --max-tokens.")
    if len(outcomes) < 2:
        what = "none could be graded" if not outcomes else "all right" if outcomes == {1} else "all wrong"
        raise TrainingError(
            f"the sampled trajectories are all alike ({what}), so there is nothing to tell apart. "
            "Use harder or easier problems, or check the answers in the data."
        )


def _forward(head: SPRMHead, rollouts: Rollouts, batch: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Step logits (B, n), mask (B, n) and outcomes (B,) of some trajectories."""
    counts = [rollouts.starts[i + 1] - rollouts.starts[i] for i in batch]
    index = torch.cat([torch.arange(rollouts.starts[i], rollouts.starts[i + 1]) for i in batch])
    extra = rollouts.logprob_features[index] if head.uses_logprobs else None
    flat = head(rollouts.features[index], extra)  # (steps,)
    mask = torch.arange(max(max(counts), 1)) < torch.tensor(counts).unsqueeze(1)  # (B, n)
    logits = flat.new_zeros(mask.shape).masked_scatter(mask, flat)
    return logits, mask, torch.tensor([rollouts.outcomes[i] for i in batch])


@torch.no_grad()
def step_logits_of(head: SPRMHead, rollouts: Rollouts) -> list[list[float]]:
    """The logits of each trajectory's steps."""
    head.eval()
    logits: list[float] = []
    for start in range(0, len(rollouts.features), BATCH):
        extra = rollouts.logprob_features[start : start + BATCH] if head.uses_logprobs else None
        logits += head(rollouts.features[start : start + BATCH], extra).tolist()
    return [logits[start:stop] for start, stop in pairwise(rollouts.starts)]


def candidates_of(head: SPRMHead, rollouts: Rollouts, aggregation: str) -> list[list[Candidate]]:
    """What a selection sees of each problem's trajectories."""
    logits = step_logits_of(head, rollouts)

    def candidate(i: int) -> Candidate:
        outcome = rollouts.outcomes[i]
        return Candidate(
            score=aggregate(logits[i], aggregation),
            right=None if outcome == UNGRADABLE else outcome == 1,
            closed=rollouts.closed[i],
            mean_logprob=rollouts.mean_logprobs[i],
            group=rollouts.answers[i],
            index=i,
        )

    return [[candidate(i) for i in group] for group in rollouts.groups()]


def aucs_text(within: float | None, overall: float | None) -> str:
    """Both AUCs for a note."""
    shown = [math.nan if value is None else value for value in (within, overall)]
    return f"within problems {shown[0]:.4f}, over all {shown[1]:.4f}"


def aucs(candidates: Sequence[Sequence[Candidate]]) -> tuple[float | None, float | None]:
    """The AUC within problems, and that over all trajectories."""
    within = within_problem_auc([[(c.score, c.right) for c in group] for group in candidates])
    return within, _auc_of([c for group in candidates for c in group])
