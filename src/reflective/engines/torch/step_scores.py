"""What the head says of the rows whose step has just ended, from the hidden states that drew their step tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from reflective.engines.sequence import Running
from reflective.engines.torch.backbones.base import Writer
from reflective.engines.torch.step_features import StepFeatures
from reflective.judge.heads import StepHead


class StepScores:
    """The head's logits; without a head the features are kept alone. `reads_means`: it reads means over steps."""

    def __init__(self, backbone: Writer, head: StepHead | None, features: StepFeatures, *, reads_means: bool) -> None:
        self._backbone, self._head, self._features, self._reads_means = backbone, head, features, reads_means

    def logits(self, scored: list[int], running: list[Running], features: Tensor) -> list[float] | None:
        """The logits of the rows `scored` of the features (B, F), all at once; None without a head."""
        means = self._features.keep(scored, running, features)
        if self._head is None:
            return None
        rows = scored
        if self._reads_means:
            features, rows = torch.stack(means).to(features.device), list(range(len(scored)))
        return self._of(rows, [running[i] for i in scored], features)

    def _of(self, rows: list[int], ended: Sequence[Running], features: Tensor) -> list[float]:
        assert self._head is not None
        if not self._head.keeps_state:
            return self._backbone.score(self._head, features, rows)
        features = features[:, : self._head.hidden_size]
        before = [sequence.head_states[-1] if sequence.head_states else None for sequence in ended]
        logits, states = self._head.step_logits(features[rows], before)
        for sequence, state in zip(ended, states, strict=True):
            sequence.head_states.append(state)
        found: list[float] = logits.tolist()
        return found
