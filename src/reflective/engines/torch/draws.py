"""A token for each running row: a decoding step and the draw from its logits, or a draw from a prompt's last logits.

Changes no trajectory: the engine appends what is drawn. Letters: B rows, F numbers of the features, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from reflective.engines.sequence import Running
from reflective.engines.torch.backbones.base import DecodePlan, Writer
from reflective.engines.torch.batch import Rows
from reflective.engines.torch.kv import KVMemory
from reflective.engines.torch.sampling import (
    BROKEN,
    SamplingRows,
    certainty_and_confidence,
    constrain,
    draw_tokens,
)
from reflective.errors import EngineError


class SampledRows(NamedTuple):
    """What was drawn for some rows; the last two are empty unless they are kept."""

    tokens: list[int]
    logprobs: list[float]
    certainties: list[float] = []
    confidences: list[float] = []


class Draws:
    """Draws for the rows of a batch; `name` is the model's, for messages."""

    def __init__(self, name: str, backbone: Writer, rows: Rows, *, keep_confidences: bool) -> None:
        self._name, self._backbone, self._rows, self._keep_confidences = name, backbone, rows, keep_confidences
        self._known: list[tuple[int, int]] | None = None  # `common` of the rows of which `_needs_logits` is known
        self._needs_logits = False  # whether any row needs all logits

    def next(self, running: Sequence[Running], kv: KVMemory) -> tuple[SampledRows, Tensor]:
        """A token for each running row, and the features (B, F) that gave it."""
        settings, common = self._rows.settled(running)
        plan = DecodePlan(
            [s.token_ids[-1] for s in running],
            [len(s.prompt_ids) + len(s.token_ids) - 1 for s in running],
            common,
        )
        if self._known is not common:
            self._known = common
            self._needs_logits = any(s.matcher is not None or self.keeps_confidences(s) for s in running)
        if self._needs_logits:
            logits, features = self._backbone.decode(plan, kv)
            places = torch.tensor(plan.positions, device=self._backbone.shape.device).unsqueeze(1) + 1
            uniform = self._rows.uniform[: len(running)].gather(1, places).squeeze(1)
            return self._draw(0, running, logits, settings, uniform), features
        seen = self._rows.seen(0, len(running))
        tokens, logprobs, features = self._backbone.write(plan, kv, settings, self._rows.uniform, seen)
        self._refuse_broken(tokens, running)
        return SampledRows(tokens, logprobs), features

    def first(self, row: int, running: Sequence[Running], logits: Tensor) -> SampledRows:
        """The first token of trajectories in the rows from `row` on, from the logits (1, V) of their prompt."""
        uniform = self._rows.uniform[row : row + len(running), len(running[0].prompt_ids)]
        return self._draw(row, running, logits.expand(len(running), -1), self._rows.settings_of(running), uniform)

    def _draw(
        self, row: int, running: Sequence[Running], logits: Tensor, settings: SamplingRows, uniform: Tensor
    ) -> SampledRows:
        """For the rows from `row` on, by logits (B, V) and numbers (B,)."""
        logits = constrain(logits, [s.matcher for s in running])
        tokens, logprobs = draw_tokens(logits, settings, uniform, self._rows.seen(row, len(running)))
        self._refuse_broken(tokens, running)
        if not any(map(self.keeps_confidences, running)):
            return SampledRows(tokens, logprobs)
        certainties, confidences = certainty_and_confidence(logits)
        return SampledRows(tokens, logprobs, certainties.tolist(), confidences.tolist())

    def keeps_confidences(self, sequence: Running) -> bool:
        """Whether self-certainty and confidence of each of its tokens are kept."""
        return self._keep_confidences or sequence.request.confidences

    def _refuse_broken(self, tokens: Sequence[int], running: Sequence[Running]) -> None:
        if BROKEN in tokens:
            written = len(running[tokens.index(BROKEN)].token_ids)
            raise EngineError(
                f"{self._name!r} gave NaN or infinite logits at token {written} of a trajectory: its weights overflow "
                "or are damaged. Try dtype float32."
            )
