"""Figures of a joint run, and over what they are averaged.

- The aha gap: mean score of right trajectories minus that of wrong ones (paper). Of the rollouts, where the engine
  scores them; else of the training forward, in which the head's dropout is at work.
- The share of steps that the SPR filter keeps, and both losses.
- On held-out problems: the AUC within problems, and the accuracy of selecting by score, beside that of one sample, of
  the highest mean token log-probability, and of an oracle.

Sums are kept on each rank and reduced when they are logged.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor

from reflective.judge.aggregate import aggregate
from reflective.judge.loss import RIGHT, UNGRADABLE
from reflective.judge.metrics import auc, within_problem_auc
from reflective.selection import best_by_logprob, best_by_score
from reflective.train.joint.batch import NO_STEP
from reflective.train.joint.step import JointLoss
from reflective.train.selection import Candidate

# a name -> its sum and its count, in the order in which they are reduced
MEANS = (
    *(
        f"spr/{name}"
        for name in ("score_right", "score_wrong", "kept", "spr_loss", "policy_loss", "gradable", "head_grad_norm")
    ),
    *("entropy", "kl", "clip_ratio/low_mean", "clip_ratio/high_mean"),
)


class Figures:
    """Figures of a run by mode ("train" or "eval"), until `take` returns them."""

    def __init__(self, aggregation: str) -> None:
        self._aggregation = aggregation
        self._sums: dict[str, dict[str, list[float]]] = {
            mode: defaultdict(lambda: [0.0, 0.0]) for mode in ("train", "eval")
        }
        self._candidates: list[tuple[int, Candidate]] = []
        self._rollouts_are_scored = False

    def number(self, mode: str, name: str, total: float, count: float = 1.0) -> None:
        """Add `count` values that sum up to `total`."""
        held = self._sums[mode][name]
        held[0] += total
        held[1] += count

    def rollout(self, mode: str, outcomes: Sequence[int], scores: Sequence[float | None]) -> None:
        """Outcomes and scores of trajectories, by an engine that scores."""
        self._rollouts_are_scored = True
        for outcome, score in zip(outcomes, scores, strict=True):
            if score is not None and outcome != UNGRADABLE:
                self.number(mode, "spr/score_right" if outcome == RIGHT else "spr/score_wrong", score)

    def losses(self, mode: str, found: JointLoss) -> None:
        """Add the losses and token sums of a micro-batch."""
        spr, tokens = found.spr, dict(found.tokens)
        self.number(mode, "spr/kept", spr.kept_right + spr.kept_wrong, spr.steps_right + spr.steps_wrong)
        self.number(mode, "spr/spr_loss", float(spr.loss.detach()))
        self.number(mode, "spr/policy_loss", found.policy)
        count = tokens.pop("count", 0.0)
        for name, total in tokens.items():
            self.number(mode, name, total, count)
        if not self._rollouts_are_scored:
            for name, mean in (("score_right", spr.mean_score_right), ("score_wrong", spr.mean_score_wrong)):
                if mean is not None:
                    self.number(mode, f"spr/{name}", mean)

    def candidates(self, inputs: dict[str, Any], step_logits: Tensor) -> None:
        """Trajectories of held-out problems, with their scores by the head as it is (no dropout)."""
        count = len(inputs["problem"])
        means = inputs["mean_logprob"].tolist() if "mean_logprob" in inputs else [None] * count
        mask = inputs["step_index"] != NO_STEP
        for row, problem in enumerate(inputs["problem"].tolist()):
            outcome = int(inputs["outcomes"][row])
            self._candidates.append(
                (
                    problem,
                    Candidate(
                        score=aggregate(step_logits[row][mask[row]].tolist(), self._aggregation),
                        right=None if outcome == UNGRADABLE else outcome == RIGHT,
                        closed=bool(inputs["ended"][row]),
                        mean_logprob=means[row],
                    ),
                )
            )

    def take(self, mode: str, accelerator: Any) -> dict[str, float]:
        """The figures since the last time, the same on every rank; all ranks call it."""
        sums = self._sums[mode]
        table = torch.tensor([sums[name] for name in MEANS], dtype=torch.float64).to(accelerator.device, torch.float32)
        table = accelerator.reduce(table, "sum").cpu()
        sums.clear()
        found = {name: total / count for name, (total, count) in zip(MEANS, table.tolist()) if count}
        if "spr/score_right" in found and "spr/score_wrong" in found:
            found["spr/gap"] = found["spr/score_right"] - found["spr/score_wrong"]
        if mode == "eval":
            candidates: list[tuple[int, Candidate]] = gather_object(self._candidates)
            self._candidates = []
            found |= held_out_figures(candidates)
        return found


def held_out_figures(candidates: Sequence[tuple[int, Candidate]]) -> dict[str, float]:
    """AUCs and accuracies of selections, over (problem, trajectory) pairs; problems weigh the same. Ungradable
    trajectories are left out."""
    groups: dict[int, list[Candidate]] = {}
    for problem, candidate in candidates:
        if candidate.right is not None:
            groups.setdefault(problem, []).append(candidate)
    if not groups:
        return {}
    every = [c for group in groups.values() for c in group]
    unknown = any(c.mean_logprob is None for c in every)  # rollouts without log-probabilities
    figures: dict[str, float | None] = {
        "auc_within_problems": within_problem_auc([[(c.score, c.right) for c in group] for group in groups.values()]),
        "auc": auc([c.score for c in every], [c.right for c in every]),
        "single": sum(sum(c.right is True for c in group) / len(group) for group in groups.values()) / len(groups),
        "best_of_n": _share([best_by_score(group) for group in groups.values()]),
        "logprob": None if unknown else _share([best_by_logprob(group) for group in groups.values()]),
        "oracle": sum(any(c.right for c in group) for group in groups.values()) / len(groups),
    }
    return {f"spr/{name}": value for name, value in figures.items() if value is not None}


def _share(chosen: Sequence[Candidate]) -> float:
    return sum(c.right is True for c in chosen) / len(chosen)
