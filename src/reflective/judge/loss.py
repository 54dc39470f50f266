"""The SPR loss: step scores learn from final outcomes alone, and only where they already agree with them.

    L = Σ_i w_i · BCE(s_i, y) / (Σ_i w_i + 1e-5)
    w_i = v · c_y · [ (y=1 and s_i>0) or (y=0 and s_i<0) ]
    c_1 = 1.5 · N/(P+N),  c_0 = P/(P+N)

Each step inherits the outcome y of its trajectory. P and N count the kept steps of right and wrong trajectories over
all ranks, one added on each rank. v is 1, or the weight of the trajectory. Letters: B trajectories, n steps (padded).

Departures from the reference:
- A trajectory whose outcome is unknown (y = −1) is left out by its label; the reference marks it by a reward of 0.1.
- The counts are reduced on every rank, also on one without a step; the reference's all-reduce hangs there.
- Ablations: `filter="none"` keeps every step (plain BCE), `class_balance=False` sets c_y to 1, `weights` sets v.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from reflective.errors import TrainingError

RIGHT: Final = 1
WRONG: Final = 0
UNGRADABLE: Final = -1
OUTCOMES: Final[Mapping[bool | None, int]] = {True: RIGHT, False: WRONG, None: UNGRADABLE}  # of `Verdict.right`
POSITIVE_FACTOR: Final = 1.5  # right trajectories count half as much again; reference, dp_actor.py
WEIGHT_EPSILON: Final = 1e-5  # keeps a batch without a kept step at loss 0; reference, dp_actor.py

Filter = Literal["self_supervised", "none"]


@dataclass(frozen=True, slots=True)
class SPRLoss:
    """The loss, with its graph, and what this rank saw. Means are over trajectories with a step; None without one."""

    loss: Tensor
    kept_right: int
    """Steps of right trajectories that taught the head (P without its 1)."""
    kept_wrong: int
    steps_right: int
    steps_wrong: int
    mean_score_right: float | None
    """Mean S, the geometric mean of the step scores, of right trajectories."""
    mean_score_wrong: float | None

    @property
    def gap(self) -> float | None:
        """Mean S of right minus mean S of wrong trajectories: where it opens is the paper's aha moment."""
        if self.mean_score_right is None or self.mean_score_wrong is None:
            return None
        return self.mean_score_right - self.mean_score_wrong


def spr_loss(
    step_logits: Tensor,
    outcomes: Tensor,
    mask: Tensor,
    *,
    filter: Filter = "self_supervised",
    class_balance: bool = True,
    weights: Tensor | None = None,
    reduce_counts: Callable[[Tensor], Tensor] | None = None,
) -> SPRLoss:
    """The loss of B trajectories with up to n steps each.

    `step_logits` (B, n); `outcomes` (B,): 1 right, 0 wrong, −1 ungradable; `mask` (B, n): True where there is a
    step; `weights` (B,): v of each trajectory. `reduce_counts` gets this rank's (2,) counts of kept steps, right then
    wrong, 1 added to each, and returns their sum over all ranks; it is called exactly once. What stands in masked
    places is never read, not even NaN. Raises `TrainingError` if a real step logit is not finite.
    """
    _check_shapes(step_logits, outcomes, mask, weights)
    mask = mask.bool() & (outcomes != UNGRADABLE)[:, None]  # (B, n)
    s = torch.where(mask, step_logits.float(), 0.0)  # (B, n)
    if not torch.isfinite(s).all():
        raise TrainingError("a step logit is NaN or infinite: training diverged. Lower the learning rate of the head.")
    y = (outcomes == RIGHT).to(s.dtype)[:, None].expand_as(s)  # (B,) -> (B, n)
    right, wrong = mask & (y == 1), mask & (y == 0)

    if filter == "self_supervised":
        # [ (y=1 and s_i>0) or (y=0 and s_i<0) ]: the head teaches itself only where it agrees with the outcome
        kept_right, kept_wrong = right & (s > 0), wrong & (s < 0)
    elif filter == "none":
        kept_right, kept_wrong = right, wrong
    else:
        raise TrainingError(f"unknown filter {filter!r}; known are self_supervised and none.")

    counts = torch.stack([kept_right.sum(), kept_wrong.sum()])  # (2,)
    c_right, c_wrong = _class_weights(counts, class_balance, reduce_counts)
    w = kept_right * c_right + kept_wrong * c_wrong  # (B, n)
    if weights is not None:
        w = w * weights.to(w)[:, None]
    # L = Σ_i w_i · BCE(s_i, y) / (Σ_i w_i + 1e-5) (paper, eq. of the SPR loss; normalised on each rank, reference)
    bce = binary_cross_entropy_with_logits(s, y, reduction="none")  # (B, n)
    loss = (w * bce).sum() / (w.sum() + WEIGHT_EPSILON)

    with torch.no_grad():
        # S = exp(mean log σ(s_i)) of each trajectory that has a step
        score = ((logsigmoid(s) * mask).sum(1) / mask.sum(1).clamp(min=1)).exp()  # (B, n) -> (B,)
        mean_right, mean_wrong = _mean(score[right.any(1)]), _mean(score[wrong.any(1)])
    n_right, n_wrong = counts.tolist()
    steps_right, steps_wrong = int(right.sum()), int(wrong.sum())
    return SPRLoss(loss, n_right, n_wrong, steps_right, steps_wrong, mean_right, mean_wrong)


def problem_balanced_weights(problems: Sequence[Hashable], outcomes: Tensor, *, one_sided: float = 0.0) -> Tensor:
    """Weights v (B,) that let a problem's right and wrong trajectories weigh the same.

    A head can lower the plain loss by telling hard problems from easy ones, which is no help in choosing between the
    trajectories of one problem. Here a trajectory weighs m / (2 · trajectories of its problem with its outcome), m
    being the gradable trajectories of the problem. Problems whose trajectories are all right or all wrong get
    `one_sided`; ungradable trajectories get 0.
    """
    labels: list[int] = outcomes.tolist()
    if len(problems) != len(labels):
        raise ValueError(f"{len(problems)} problems for {len(labels)} outcomes; there must be one for each trajectory.")
    counts = Counter(zip(problems, labels))

    def weight(problem: Hashable, label: int) -> float:
        right, wrong = counts[problem, RIGHT], counts[problem, WRONG]
        if label == UNGRADABLE:
            return 0.0
        return (right + wrong) / (2 * counts[problem, label]) if right and wrong else one_sided

    return torch.tensor([weight(p, y) for p, y in zip(problems, labels)], device=outcomes.device)


def _class_weights(
    counts: Tensor, balance: bool, reduce_counts: Callable[[Tensor], Tensor] | None
) -> tuple[Tensor, Tensor]:
    """c_1 and c_0. The reduction happens even where it is not used: a collective that one rank skips hangs all."""
    totals = counts + 1.0  # P and N start at 1 on each rank (reference)
    if reduce_counts is not None:
        totals = reduce_counts(totals)
    if not balance:
        return torch.ones_like(totals[0]), torch.ones_like(totals[0])
    p, n = totals
    return POSITIVE_FACTOR * n / (p + n), p / (p + n)  # c_1 = 1.5·N/(P+N), c_0 = P/(P+N)


def _mean(scores: Tensor) -> float | None:
    return float(scores.mean()) if scores.numel() else None


def _check_shapes(step_logits: Tensor, outcomes: Tensor, mask: Tensor, weights: Tensor | None) -> None:
    if step_logits.dim() != 2:
        raise ValueError(f"step_logits must be (trajectories, steps); got shape {tuple(step_logits.shape)}.")
    rows = step_logits.shape[0]
    if mask.shape != step_logits.shape:
        raise ValueError(
            f"mask must have the shape of step_logits, {tuple(step_logits.shape)}; got {tuple(mask.shape)}."
        )
    for name, tensor in (("outcomes", outcomes), ("weights", weights)):
        if tensor is not None and tensor.shape != (rows,):
            raise ValueError(f"{name} must have shape ({rows},), one for each trajectory; got {tuple(tensor.shape)}.")
    if not torch.isin(outcomes, torch.tensor([UNGRADABLE, WRONG, RIGHT], device=outcomes.device)).all():
        raise ValueError("outcomes must be 1 (right), 0 (wrong) or -1 (ungradable).")
