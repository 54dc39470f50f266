"""Given text, read in one forward: the features at some positions, and what the head says of them.

n positions, F hidden sizes of the layers that are read, H of the head's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from reflective.engines.torch.backbones.base import Backbone
from reflective.engines.torch.kv import KVMemory
from reflective.engines.torch.memory import is_out_of_memory
from reflective.errors import EngineError
from reflective.judge.heads import StepHead
from reflective.judge.logprobs import step_logprobs


@torch.inference_mode()
def features_at(backbone: Backbone, ids: Sequence[int], positions: Sequence[int]) -> Tensor:
    """The features (n, F) at some positions of a text."""
    return backbone.read(ids, KVMemory(backbone.shape, 1, len(ids)), positions)[0]


@torch.inference_mode()
def step_logits(
    backbone: Backbone,
    head: StepHead,
    prompt_ids: Sequence[int],
    response_ids: Sequence[int],
    steps: Sequence[int],
    *,
    means: bool = False,
) -> list[float]:
    """The head's logits of the steps that end at these positions of a response.

    With `means` it reads the mean over what drew a step's tokens, not the last of them.
    """
    begin, wanted = len(prompt_ids), head.logprob_terms is not None
    # the last step token is read for its log-probability alone
    ids = (*prompt_ids, *response_ids)[: begin + steps[-1] + wanted]
    try:
        kv = KVMemory(backbone.shape, 1, len(ids))
        spans = [range(begin + p - 1, begin + p) for p in steps]
        if means:
            starts = [0, *(p + 1 for p in steps)]
            spans = [range(max(begin + a - 1, 0), begin + p) for a, p in zip(starts, steps)]
        features, logprobs = backbone.read(ids, kv, [i for span in spans for i in span], logprobs=wanted)
        if means:
            parts = features.float().split([len(span) for span in spans])
            features = torch.stack([part.mean(0) for part in parts])
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise EngineError(f"out of memory while reading {len(ids):,} tokens. Use a smaller model.") from error
        raise
    extra = None
    if wanted:
        first = 0 if begin else 1  # without a prompt, nothing stands before the response's first token
        rows = step_logprobs(logprobs[begin + first - 1 :], [p - first for p in steps])
        extra = torch.tensor(rows, dtype=torch.float32, device=backbone.shape.device)
    logits: list[float] = head.read(features[:, : head.hidden_size], extra).tolist()  # (n, F) -> (n,)
    return logits
