"""Step positions and log-probability features in a padded batch.

Letters: B trajectories, n steps (padded), T positions: the prompts, padded on the left, then the completions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from reflective.judge.config import JudgeConfig
from reflective.judge.format import step_positions
from reflective.judge.logprobs import step_logprobs

NO_STEP = -1


def step_table(
    config: JudgeConfig, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], prompt_width: int
) -> tuple[Tensor, list[list[int]]]:
    """Positions (B, n) of the steps' features in the padded batch, and the step tokens' places in each completion.

    A row without so many steps is filled up with `NO_STEP`. n is at least 1, since a head that is fed nothing on one
    rank only would hang the others.
    """
    places = [step_positions(config.format, c, p) for p, c in zip(prompts, completions, strict=True)]
    table = torch.full((len(places), max([1, *map(len, places)])), NO_STEP)
    offset = prompt_width - (config.feature_position == "before")
    for row, found in enumerate(places):
        table[row, : len(found)] = torch.tensor(found, dtype=torch.long) + offset
    return table, places


def logprob_table(logprobs: Sequence[Sequence[float]], places: Sequence[Sequence[int]]) -> Tensor:
    """The features c (B, n, 2) of each step: mean and lowest log-probability of its tokens; 0 where there is none."""
    table = torch.zeros(len(places), max([1, *map(len, places)]), 2)
    for row, (values, found) in enumerate(zip(logprobs, places, strict=True)):
        if found:
            table[row, : len(found)] = torch.tensor(step_logprobs(values, found))
    return table


def unpadded(ids: Tensor, mask: Tensor) -> list[list[int]]:
    """The tokens of each row (B, T) where the mask is set."""
    return [row[kept].tolist() for row, kept in zip(ids.cpu(), mask.bool().cpu(), strict=True)]


# columns that are padded like the completions
_COMPLETIONS = (
    "completion_ids",
    "completion_mask",
    "old_per_token_logps",
    "sampling_per_token_logps",
    "ref_per_token_logps",
    "importance_sampling_ratio",
)


def trimmed(batch: Mapping[str, Any]) -> dict[str, Any]:
    """A micro-batch without the columns that are padding in all of its rows: it was padded together with a whole
    generation."""
    width = batch["completion_ids"].shape[1]
    prompt_width = batch["prompt_ids"].shape[1]
    prompt = max(int(batch["prompt_mask"].sum(1).max()), 1)
    completion = max(int(batch["completion_mask"].sum(1).max()), 1)
    out = dict(batch)
    for name in ("prompt_ids", "prompt_mask"):
        out[name] = batch[name][:, prompt_width - prompt :]
    for name in _COMPLETIONS:
        if name in batch and batch[name].shape[1] == width:
            out[name] = batch[name][:, :completion]
    index = batch["step_index"]
    out["step_index"] = torch.where(index == NO_STEP, NO_STEP, index - (prompt_width - prompt))
    return out
