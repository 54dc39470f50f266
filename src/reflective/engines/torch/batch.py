"""What the rows of a batch draw with: their random numbers, the tokens they have seen, their settings.

Made when a row is taken, moved when it moves, and read every step without any work in Python for each row.
Letters: B rows, L positions of KV memory, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from reflective.engines.sequence import Running
from reflective.engines.torch.sampling import SamplingRows, uniforms


class Rows:
    """State of the running rows beside keys and values."""

    def __init__(self, vocabulary: int, device: torch.device) -> None:
        self._vocabulary, self._device = vocabulary, device
        self.uniform = torch.empty(0, 0)  # (B, L): the number that draws the token which takes this position
        self._seen: Tensor | None = None  # (B, V) bool; memory for it is made when a row asks for it
        self._settings: SamplingRows | None = None
        self._common: list[tuple[int, int]] = []

    def load(self, running: Sequence[Running], first: int, rows: int, length: int) -> None:
        """Take in the running rows from `first` on; `rows` and `length` are those of the KV memory."""
        if self.uniform.shape != (rows, length):
            self.uniform = torch.zeros((rows, length), device=self._device)
            self._seen = None
            first = 0
        for row in range(first, len(running)):
            sequence = running[row]
            written = len(sequence.token_ids)
            numbers = uniforms(sequence.request.seed, written, max(sequence.limit - written, 1))
            begin = len(sequence.prompt_ids) + written  # column = the position that the drawn token will take
            count = min(len(numbers), length - begin)
            if count > 0:
                self.uniform[row, begin : begin + count] = numbers[:count].to(self._device)
            self._mark_seen(running, row)
        self.changed()

    def _mark_seen(self, running: Sequence[Running], row: int) -> None:
        """Note the tokens that a repetition penalty punishes."""
        if self._seen is None:
            if running[row].request.sampling.repetition_penalty == 1.0:
                return
            shape = (self.uniform.shape[0], self._vocabulary)
            self._seen = torch.zeros(shape, dtype=torch.bool, device=self._device)
            for other, sequence in enumerate(running):
                self._seen[other, [*sequence.prompt_ids, *sequence.token_ids]] = True
        self._seen[row] = False
        self._seen[row, [*running[row].prompt_ids, *running[row].token_ids]] = True

    def saw(self, first: int, tokens: Sequence[int]) -> None:
        """Note what the rows from `first` on have drawn."""
        if self._seen is not None:
            self._seen[list(range(first, first + len(tokens))), list(tokens)] = True

    def move(self, source: int, target: int) -> None:
        """Row `source` becomes row `target`."""
        self.uniform[target] = self.uniform[source]
        if self._seen is not None:
            self._seen[target] = self._seen[source]

    def changed(self) -> None:
        """The running rows are others now."""
        self._settings = None

    def settings_of(self, running: Sequence[Running]) -> SamplingRows:
        """The sampling settings of these rows, as columns."""
        return SamplingRows.of([s.request.sampling for s in running], self._vocabulary, self._device)

    def settled(self, running: Sequence[Running]) -> tuple[SamplingRows, list[tuple[int, int]]]:
        """Settings of all running rows, and for each the first row with the same prompt and the prompt's length.

        The latter is empty where no prompt is shared. Both are worked out once per change of the batch.
        """
        if self._settings is None:
            self._settings, self._common = self.settings_of(running), _common_prompts(running)
        return self._settings, self._common

    def seen(self, first: int, count: int) -> Tensor | None:
        """Tokens seen by `count` rows from `first` on, (count, V) bool; None where nothing is punished."""
        return self._seen[first : first + count] if self._seen is not None else None


def _common_prompts(running: Sequence[Running]) -> list[tuple[int, int]]:
    first: dict[int, int] = {}  # trajectories of one prompt have it in one place (`TokenEngine`): nothing is hashed
    found = [(first.setdefault(id(s.prompt_ids), row), len(s.prompt_ids)) for row, s in enumerate(running)]
    return found if len(first) < len(running) else []
