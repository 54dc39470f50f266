"""Given text, read in one forward: the features at some positions, and what the head says of them.

n positions, F hidden sizes of the layers that are read, H of the head's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from reflective.engines.torch.backbones.base import Writer
from reflective.engines.torch.kv import KVMemory
from reflective.engines.torch.memory import is_out_of_memory
from reflective.errors import EngineError
from reflective.judge.heads import StepHead
from reflective.judge.logprobs import step_logprobs


@torch.inference_mode()
def features_at(backbone: Writer, ids: Sequence[int], positions: Sequence[int]) -> Tensor:
    """The features (n, F) at some positions of a text."""
    return backbone.read(ids, KVMemory(backbone.shape, 1, len(ids)), positions)[0]


@torch.inference_mode()
def step_logits(
    backbone: Writer,
    head: StepHead,
    prompt_ids: Sequence[int],
    responses: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    means: bool = False,
) -> list[list[float]]:
    """The head's logits of the steps of each response to one prompt, which is read once.

    A response is its ids and the positions in them that end steps, at least one. With `means` the head reads the mean
    over what drew a step's tokens, not the last of them.
    """
    # the last step token is read for its log-probability alone
    ends = [len(prompt_ids) + steps[-1] + (head.logprob_terms is not None) for _, steps in responses]
    kv = KVMemory(backbone.shape, 1, max(ends))
    found, start = [], 0
    for (response, steps), end in zip(responses, ends, strict=True):
        ids = (*prompt_ids, *response)[:end]
        found.append(_step_logits(backbone, head, ids, len(prompt_ids), steps, kv, start, means=means))
        start = max(len(prompt_ids) - 1, 0)  # what drew a response's first token is read again for each
    return found


def _step_logits(
    backbone: Writer,
    head: StepHead,
    ids: Sequence[int],
    begin: int,
    steps: Sequence[int],
    kv: KVMemory,
    start: int,
    *,
    means: bool,
) -> list[float]:
    """Of the response that begins at `begin` of `ids`, of which `kv` knows what stands before `start`."""
    wanted = head.logprob_terms is not None
    try:
        spans = [range(begin + p - 1, begin + p) for p in steps]
        if means:
            starts = [0, *(p + 1 for p in steps)]
            spans = [range(max(begin + a - 1, 0), begin + p) for a, p in zip(starts, steps)]
        places = [i for span in spans for i in span]
        features, logprobs = backbone.read(ids, kv, places, start=start, logprobs=wanted)
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
        rows = step_logprobs(logprobs[begin + first - 1 - start :], [p - first for p in steps])
        extra = torch.tensor(rows, dtype=torch.float32, device=backbone.shape.device)
    logits: list[float] = head.read(features[:, : head.hidden_size], extra).tolist()  # (n, F) -> (n,)
    return logits
