"""What the engine asks of a backbone, and what one decoding step is given.

A backbone prefills and reads prompts, and writes one token for each running row. `hf.py` does so for any architecture
with decoder layers; `fused.py` and `native/` do it faster for the most common shape. Each way is a class of its own
that holds what it is made of.

The features are the states of one or more layers, side by side: F = layers · H numbers, those of the judge's first.

Letters: B rows, F numbers of the features, G KV heads, R rows of the memory, T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from reflective.engines.torch.kv import KVMemory, KVShape
from reflective.engines.torch.sampling import SamplingRows, draw_tokens
from reflective.judge.heads import StepHead


@dataclass(frozen=True, slots=True)
class DecodePlan:
    """One decoding step of the first B rows."""

    tokens: Sequence[int]  # (B,), the last sampled token of each row
    positions: Sequence[int]  # (B,), where it goes
    # (B,) or empty: a row that begins with the same positions, and how many; reading them there spares memory traffic
    common: Sequence[tuple[int, int]] = ()

    def tensors(self, kv: KVMemory) -> PlanTensors:
        """The same, as a pass through the model needs it."""
        device = kv.shape.device
        table = torch.tensor([self.tokens, self.positions]).to(device)  # (2, B), one copy
        tokens, positions = table[0], table[1]
        length = max(self.positions) + 1
        visible = None
        if min(self.positions) + 1 < length:
            visible = (torch.arange(length, device=device) <= positions.unsqueeze(1)).view(-1, 1, 1, length)
        return PlanTensors(tokens, positions, kv.index(positions), length, visible)


@dataclass(frozen=True, slots=True)
class PlanTensors:
    """What a pass of the first B rows reads."""

    tokens: Tensor  # (B,) int64
    positions: Tensor  # (B,) int64
    index: Tensor  # (B·2G,) int64, where the new keys and values go (KVMemory.index)
    length: int  # positions to attend to, of the longest row
    visible: Tensor | None  # (B, 1, 1, length) bool; None: every row sees all of them


class Writer(Protocol):
    """A model in the hands of a `RowEngine`."""

    shape: KVShape  # of its keys and values

    def read(
        self, ids: Sequence[int], kv: KVMemory, features_at: Sequence[int], *, start: int = 0, logprobs: bool = False
    ) -> tuple[Tensor, list[float]]:
        """Features (n, F) at the ascending indices `features_at` into `ids`, from `start` on; uses row 0 of `kv`.

        The keys and values of the first `start` positions are there already. With `logprobs` also the log-probability
        of each of `ids` behind `start`, given what stands before it.
        """

    def decode(self, plan: DecodePlan, kv: KVMemory) -> tuple[Tensor, Tensor]:
        """One token for each of the first B rows: logits (B, V) and features (B, F), valid until the next pass."""

    def write(
        self, plan: DecodePlan, kv: KVMemory, settings: SamplingRows, uniform: Tensor, seen: Tensor | None
    ) -> tuple[list[int], list[float], Tensor]:
        """`decode`, and the next token of each row with its log-probability; see `sampling.draw`.

        `uniform` (R, T) holds the number that draws the token at each place of each row. The features (B, F) are valid
        until the next pass.
        """

    def score(self, head: StepHead, features: Tensor, rows: Sequence[int]) -> list[float]:
        """MLP(h) of the chosen rows of the features (B, F), without what a head adds of log-probabilities."""


class Backbone(Writer, Protocol):
    """A model in the hands of the embedded engine, which keeps its keys and values."""

    def prefill(self, ids: Sequence[int], kv: KVMemory, row: int, start: int = 0) -> tuple[Tensor, Tensor]:
        """Write the keys and values of `ids` into a row; returns logits (V,) and features (F,) of the last position.

        Those of the first `start` positions are there already; at least one is computed.
        """

    def refresh(self) -> None:
        """Take over what an optimizer has changed in place.

        Raises `EngineError` where the model's weights lie elsewhere than when the engine was made.
        """


def draw_next(
    logits: Tensor, plan: DecodePlan, settings: SamplingRows, uniform: Tensor, seen: Tensor | None
) -> tuple[list[int], list[float]]:
    """The next token of each row, and its log-probability, by the logits (B, V); `uniform` as in `Backbone.write`."""
    places = torch.tensor(plan.positions, device=uniform.device).unsqueeze(1) + 1
    numbers = uniform[: len(plan.tokens)].gather(1, places).squeeze(1)
    return draw_tokens(logits, settings, numbers, seen)


def head_logits(head: StepHead, features: Tensor, rows: Sequence[int]) -> list[float]:
    """`Backbone.score` by the framework's operators."""
    logits: list[float] = head.mlp(features[rows, : head.hidden_size]).tolist()
    return logits
