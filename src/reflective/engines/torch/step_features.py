"""The hidden states at the steps of trajectories, kept until somebody takes them.

B rows, F hidden sizes of the layers that are read. A step's features are those that gave the draw of its last token;
with means, those of all draws of the step come behind them, averaged.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from reflective.engines.sequence import Running


class StepFeatures:
    """Kept by trajectory; nothing is kept unless `kept`, and no means unless `means`. The head may `read` means."""

    def __init__(self, *, kept: bool, means: bool, read: bool = False) -> None:
        self.kept, self.means = kept, kept and means
        self._summed = self.means or read
        self._rows: dict[int, list[Tensor]] = {}  # of each step, by trajectory
        self._sums: dict[int, Tensor] = {}  # over the step under way, by trajectory

    def inherit(self, sequence: Running, parent: Running) -> None:
        """A continuation or fork has the features of the steps that it shares and that were not taken yet."""
        caught = self._rows.get(parent.id)
        if caught is not None:
            taken = len(parent.step_positions) - len(caught)
            self._rows[sequence.id] = caught[: max(len(sequence.step_positions) - taken, 0)]

    def begin(self, sequence: Running, summed: Tensor) -> None:
        """A continuation or fork begins in a step, of which this sum (F) over its draws is there."""
        self._sums[sequence.id] = summed

    def add_draws(self, running: Sequence[Running], features: Tensor) -> None:
        """Add what gave each row's draw, (B, F), to the mean of its step under way."""
        if self._summed:
            for sequence, row in zip(running, features):
                known = self._sums.get(sequence.id)
                self._sums[sequence.id] = row.cpu().float().clone() if known is None else known.add_(row)

    def keep(self, scored: Sequence[int], running: Sequence[Running], features: Tensor) -> list[Tensor]:
        """Keep the features of the rows whose step has just ended; their means (F) each, where they are computed."""
        means = [self._mean(running[i]) for i in scored] if self._summed else []
        if self.kept:
            for place, (i, row) in enumerate(zip(scored, features[scored].cpu(), strict=True)):  # (F)
                if self.means:
                    row = torch.cat([row, means[place].to(row.dtype)])  # (2F)
                self._rows.setdefault(running[i].id, []).append(row)
        return means

    def take(self, id: int) -> list[Tensor]:
        """The features of a trajectory's steps, handed out once."""
        return self._rows.pop(id, [])

    def drop(self, id: int) -> None:
        """Forget a trajectory."""
        self._rows.pop(id, None)
        self._sums.pop(id, None)

    def clear(self) -> None:
        """Forget all trajectories."""
        self._rows.clear()
        self._sums.clear()

    def _mean(self, sequence: Running) -> Tensor:
        """The mean (F,) over the positions that drew the tokens of the step that the last one ended."""
        ends = sequence.step_positions
        return self._sums.pop(sequence.id) / (ends[-1] - (ends[-2] if len(ends) > 1 else -1))
