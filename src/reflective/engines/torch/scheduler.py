"""Who runs next: the file that decides, and computes nothing. No torch.

Rows 0..B-1 are running. Waiting trajectories enter in the order in which they came, except that those which share the
prompt of one that enters come with it as far as rows are free, so that a prompt is prefilled once.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from reflective.engines.sequence import Running


@dataclass(frozen=True, slots=True)
class Move:
    """Row `source` moves to row `target`, which has become free."""

    source: int
    target: int


class Scheduler:
    """Rows and the queue in front of them."""

    def __init__(self, max_rows: int) -> None:
        self.max_rows = max_rows
        self.running: list[Running] = []
        self._waiting: deque[Running] = deque()

    @property
    def busy(self) -> bool:
        """Whether anything waits or runs."""
        return bool(self.running or self._waiting)

    @property
    def waiting(self) -> int:
        """How many trajectories wait for a row."""
        return len(self._waiting)

    def everything(self) -> tuple[Running, ...]:
        """All that runs or waits."""
        return (*self.running, *self._waiting)

    @property
    def admits(self) -> bool:
        """Whether a trajectory waits and a row is free."""
        return bool(self._waiting) and len(self.running) < self.max_rows

    def submit(self, sequence: Running) -> None:
        """Queue at the end."""
        self._waiting.append(sequence)

    def next_group(self) -> list[Running]:
        """Take the trajectories that enter now: the first in the queue and the fresh ones that share its prompt.

        They get the rows that follow the running ones, in order.
        """
        free = self.max_rows - len(self.running)
        if free <= 0 or not self._waiting:
            return []
        group = [self._waiting.popleft()]
        if not group[0].token_ids:
            rest: deque[Running] = deque()
            while self._waiting:
                sequence = self._waiting.popleft()
                same = not sequence.token_ids and sequence.prompt_ids == group[0].prompt_ids
                (group if same and len(group) < free else rest).append(sequence)
            self._waiting = rest
        self.running.extend(group)
        return group

    def leave(self, row: int) -> Move | None:
        """Free a row; the last running row moves into it unless it was the last itself."""
        last = self.running.pop()
        if row == len(self.running):
            return None
        self.running[row] = last
        return Move(len(self.running), row)

    def preempt(self, rows: int) -> list[Running]:
        """Send all but the first `rows` running trajectories back to the head of the queue, and lower the limit."""
        self.max_rows = max(rows, 1)
        return self.preempt_from(self.max_rows)

    def preempt_from(self, row: int) -> list[Running]:
        """Send the running trajectories from `row` on back to the head of the queue."""
        out = self.running[row:]
        del self.running[row:]
        self._waiting.extendleft(reversed(out))
        return out

    def remove_waiting(self, id: int) -> Running | None:
        """Take a trajectory out of the queue."""
        for sequence in self._waiting:
            if sequence.id == id:
                self._waiting.remove(sequence)
                return sequence
        return None

    def waits_for(self, prompt_ids: tuple[int, ...]) -> bool:
        """Whether a fresh trajectory with this prompt is in the queue."""
        return any(not s.token_ids and s.prompt_ids == prompt_ids for s in self._waiting)

    def longest_reserve(self) -> int:
        """The most positions that a waiting or running trajectory may need."""
        return max((s.reserve for s in self.everything()), default=0)
