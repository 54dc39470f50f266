"""A separate reward model: a second copy of the backbone that judges and does nothing else, with all its weights.

What it is told is what a shared head is told: the same trajectories, the outcome of each for all its steps, and right
and wrong trajectories of a problem weighing the same. It begins as the model itself with a fresh head that sees
standardised states, as a shared head does, and reads behind its last layer, so that all of it learns. That it must read
every trajectory again, prompt included, up to its last step, is what it costs.

    L = Σ_i v_i · BCE(s_i, y_i) / Σ_i v_i over all steps of a batch of problems

Letters: B trajectories, n steps (padded), T positions, H hidden size.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from typing import Any

import torch
from settings import SeparateSettings
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from reflective.judge.aggregate import aggregate
from reflective.judge.heads.paper import SPRMHead
from reflective.judge.loss import OUTCOMES, problem_balanced_weights, spr_loss
from reflective.judge.metrics import within_problem_auc
from reflective.records import Record, TrajectoryRecord
from reflective.shards import Place
from reflective.train.features import BATCH_TOKENS, TokenSequence, batches
from reflective.train.progress import Note

CLIP = 1.0  # of the gradient's norm
PLACE = Place(-1, "before")  # behind the final norm, and where the step token is drawn


class RewardModel(nn.Module):
    """A backbone and a head of its own."""

    def __init__(self, backbone: Any, head: SPRMHead) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    @property
    def parameter_count(self) -> int:
        """Of both, the unused language-model head left out."""
        return sum(p.numel() for part in (self.backbone, self.head) for p in part.parameters())

    def forward(self, rows: Sequence[TokenSequence]) -> tuple[Tensor, Tensor]:
        """Step logits (B, n) and their mask."""
        device = self.backbone.device
        ids = pad_sequence([torch.tensor(read_ids(row)) for row in rows], batch_first=True).to(device)  # (B, T)
        states = self.backbone(input_ids=ids, use_cache=False).last_hidden_state  # (B, T, H)
        width = max(1, *(len(row.steps) for row in rows))
        at, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.bool)
        for b, row in enumerate(rows):
            at[b, : len(row.steps)] = torch.tensor([row.index(step, PLACE.position) for step in row.steps])
            mask[b, : len(row.steps)] = True
        at, mask = at.to(device), mask.to(device)
        features = states.gather(1, at.unsqueeze(2).expand(-1, -1, states.shape[2]))  # (B, n, H)
        return self.head.mlp(features), mask


def read_ids(row: TokenSequence) -> list[int]:
    """What has to be read of a trajectory: all before its last step token, and something where it has no step."""
    return row.ids[: row.index(row.steps[-1], PLACE.position) + 1] if row.steps else row.ids[:1]


@torch.no_grad()
def standardise(head: SPRMHead, features: Tensor) -> None:
    """Let a fresh head see raw states (N, H) as if each of their dimensions had mean 0 and deviation 1."""
    features = features.to(head.hidden.weight.device)
    mean, deviation = features.float().mean(0), features.float().std(0)  # (H,) each
    # W1·(h − μ)/σ + b1 = (W1/σ)·h + (b1 − (W1/σ)·μ)
    head.hidden.weight.div_(torch.where(deviation > 0, deviation, 1.0))  # (2H, H) / (H,)
    head.hidden.bias.sub_(head.hidden.weight @ mean)


def train(
    model: RewardModel,
    data: Sequence[tuple[Record, Sequence[TokenSequence]]],
    held_out: Sequence[tuple[Record, Sequence[TokenSequence]]],
    settings: SeparateSettings,
    seed: int,
    note: Note,
) -> RewardModel:
    """AdamW over `epochs`; the weights of the epoch that ranked the held-out trajectories best."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    order, best = random.Random(seed), (-1.0, copy.deepcopy(model.state_dict()))
    problems = list(data)
    torch.manual_seed(seed)
    for epoch in range(1, settings.epochs + 1):
        order.shuffle(problems)
        model.train()
        losses = []
        for start in range(0, len(problems), settings.batch_problems):
            losses.append(_learn(model, optimizer, problems[start : start + settings.batch_problems]))
        judged = score(model, [rows for _, rows in held_out])
        area = within_problem_auc(
            [(aggregate(values), _right(t)) for values, t in zip(logits, record.trajectories)]
            for (record, _), logits in zip(held_out, judged)
        )
        told = "undefined" if area is None else f"{area:.4f}"
        note(f"  epoch {epoch}  loss {sum(losses) / max(len(losses), 1):.4f}  validation AUC within problems {told}")
        if (area or 0.0) > best[0]:
            best = (area or 0.0, copy.deepcopy(model.state_dict()))
    model.load_state_dict(best[1])
    return model.eval()


def _learn(model: RewardModel, optimizer: Any, batch: Sequence[tuple[Record, Sequence[TokenSequence]]]) -> float:
    """One optimizer step; the loss."""
    rows = [row for _, written in batch for row in written]
    outcomes = torch.tensor([OUTCOMES[_right(t)] for record, _ in batch for t in record.trajectories])
    groups = [number for number, (_, written) in enumerate(batch) for _ in written]
    weights = problem_balanced_weights(groups, outcomes)
    logits, mask = model(rows)
    outcomes, weights = outcomes.to(logits.device), weights.to(logits.device)
    result = spr_loss(logits, outcomes, mask, filter="none", class_balance=False, weights=weights)
    optimizer.zero_grad(set_to_none=True)
    result.loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    optimizer.step()
    return float(result.loss.detach())


def _right(t: TrajectoryRecord) -> bool | None:
    return t.verdict.right if t.verdict else None


@torch.inference_mode()
def score(model: RewardModel, groups: Sequence[Sequence[TokenSequence]]) -> list[list[list[float]]]:
    """The logits of every step of every trajectory of every problem."""
    rows = [row for group in groups for row in group]
    found: list[list[float]] = [[] for _ in rows]
    model.eval()
    for batch in batches([len(read_ids(row)) for row in rows], BATCH_TOKENS):
        logits, _ = model([rows[i] for i in batch])
        for i, values in zip(batch, logits.tolist(), strict=True):
            found[i] = values[: len(rows[i].steps)]
    out, start = list[list[list[float]]](), 0
    for group in groups:
        out.append(found[start : start + len(group)])
        start += len(group)
    return out
