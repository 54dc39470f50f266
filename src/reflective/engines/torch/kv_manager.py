"""Keys and values of an engine: of the running rows, and of those that left and may come back.

Memory is reserved for the longest trajectory that is there, as far as there is memory. A prompt is prefilled once for
all trajectories that share it, also for one that begins while another of them runs. A continuation or a fork gets what
it shares with its parent from the parent's row, or from what is parked of it; only what neither has is prefilled. What
left from behind all running rows rests where it is, and is copied out only when its row is wanted.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from reflective.engines.sequence import Running
from reflective.engines.torch.backbones.base import Backbone
from reflective.engines.torch.kv import KVMemory, Parked, ParkingLot
from reflective.engines.torch.memory import available_memory
from reflective.engines.torch.scheduler import Scheduler
from reflective.errors import EngineError

LENGTH_QUANTUM = 64  # KV memory grows in units of so many positions
KV_SHARE = 0.6  # of the memory that is free when generation starts, for keys and values
PARKING_SHARE = 0.25  # of that, for finished trajectories and shared prompts


class KVManager:
    """Rows of keys and values, filled by the backbone's prefill or from what is parked."""

    def __init__(self, backbone: Backbone, context_length: int) -> None:
        self._backbone, self._context_length = backbone, context_length
        self.kv: KVMemory | None = None
        self.parking = ParkingLot(0)
        self._resting: dict[int, Running] = {}  # row behind the running ones -> whose keys and values it still holds
        self._last: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}  # prompt -> its last logits (V,), feature (H,)

    @property
    def memory(self) -> KVMemory:
        """The running rows' memory. Raises `EngineError` where none is reserved."""
        if self.kv is None:
            raise EngineError("the engine was used before memory was reserved, or after close().")
        return self.kv

    def reserve(self, scheduler: Scheduler) -> bool:
        """Make room for the longest trajectory; rows are as many as asked for and as memory allows.

        Whether the memory is another one now. Lowers the scheduler's `max_rows` where memory allows no more.
        """
        need = min(_rounded(scheduler.longest_reserve()), _rounded(self._context_length))
        wanted = min(scheduler.max_rows, len(scheduler.running) + scheduler.waiting)
        if wanted == 0 or (self.kv is not None and self.kv.length >= need and self.kv.rows >= wanted):
            return False
        old, running, shape = self.kv, len(scheduler.running), self._backbone.shape
        budget = int(available_memory(shape.device) * KV_SHARE)
        length = max(need, old.length if old is not None else 0)
        fit = budget // (length * shape.bytes_per_position)
        if fit < max(running, 1):
            raise EngineError(
                f"{length:,} tokens need {length * shape.bytes_per_position / 2**30:.1f} GiB a row and "
                f"{budget / 2**30:.1f} GiB are free for them. Use a lower --max-tokens or a smaller model."
            )
        room = max(wanted, min(2 * old.rows, scheduler.max_rows)) if old is not None else wanted
        rows = max(min(room, fit), old.rows if old is not None else 1)
        scheduler.max_rows = min(scheduler.max_rows, max(fit, rows))
        if self.parking.capacity == 0:
            self.parking.capacity = int(budget * PARKING_SHARE)
        self._vacate(tuple(self._resting))
        self.kv = KVMemory(shape, rows, length)
        if old is not None and running:
            self.kv.take_over(old, running)
        return True

    def fill(
        self, group: list[Running], first_row: int, running: list[Running], *, keep: bool
    ) -> tuple[Tensor, Tensor]:
        """Fill the rows of trajectories that share a prompt; returns its last logits (1, V) and feature (1, H).

        `running` are the trajectories by row; `keep` says that more of them wait for this prompt.
        """
        self._vacate(range(first_row, first_row + len(group)))
        prompt = group[0].prompt_ids
        parked = self.parking.get(prompt)
        rows = {sequence.prompt_ids: row for row, sequence in enumerate(running[:first_row])}
        self._last = {known: last for known, last in self._last.items() if known in rows}
        if parked is not None and parked.logits is not None and parked.feature is not None:
            self.memory.restore(parked.kv, first_row)
            logits, feature = parked.logits, parked.feature
        elif prompt in self._last:
            self.memory.move(rows[prompt], first_row, len(prompt))
            logits, feature = self._last[prompt]
        else:
            forked = next((s for s in group if s.request.parent is not None), group[0])
            start = self._copy_prefix(forked, first_row, running, len(prompt) - 1)
            logits, feature = self._backbone.prefill(prompt, self.memory, first_row, start)
            if keep:
                self.parking.put(prompt, Parked(self.memory.park(first_row, len(prompt)), logits, feature))
        for row in range(first_row + 1, first_row + len(group)):
            self.memory.move(first_row, row, len(prompt))
        if not keep:
            self.parking.drop(prompt)
        self._last[prompt] = logits, feature
        return logits.unsqueeze(0), feature.unsqueeze(0)

    def bring_back(self, sequence: Running, row: int, running: list[Running]) -> None:
        """Keys and values of a trajectory that goes on from tokens that it has; `running` as in `fill`."""
        self._vacate((row,))
        start = self._copy_prefix(sequence, row, running, sequence.length)
        if start < sequence.length:
            ids = (*sequence.prompt_ids, *sequence.token_ids[:-1])
            self._backbone.prefill(ids, self.memory, row, start)

    def _copy_prefix(self, sequence: Running, row: int, running: list[Running], length: int) -> int:
        """Copy what is there of the first `length` positions into a row: how many they are."""
        parent = sequence.request.parent
        shared = min(sequence.shared, length)
        if parent is not None:
            for source, other in (*enumerate(running[:row]), *self._resting.items()):  # the others may be empty yet
                if other.id == parent:
                    length = min(shared, other.length)
                    self.memory.move(source, row, length)
                    return length
        for key in (parent, sequence.prompt_ids):
            parked = self.parking.get(key) if key is not None else None
            if parked is not None:
                length = min(shared, parked.kv.shape[3])
                self.memory.restore(parked.kv, row, length)
                return length
        return 0

    def park(self, sequence: Running, row: int, *, last: bool) -> None:
        """Keep what a continuation of this trajectory needs."""
        self._resting[row] = sequence
        if not last:
            self._vacate((row,))

    def _vacate(self, rows: Iterable[int]) -> None:
        """Copy out what rests in rows that are about to be written."""
        for row in rows:
            sequence = self._resting.pop(row, None)
            if sequence is not None:
                self.parking.put(sequence.id, Parked(self.memory.park(row, sequence.length)))

    def drop(self, id: int) -> None:
        """Forget what is kept of a trajectory."""
        self.parking.drop(id)
        self._resting = {row: sequence for row, sequence in self._resting.items() if sequence.id != id}

    def forget(self) -> None:
        """Drop what is kept for later; the running rows stay."""
        self.parking.clear()
        self._resting.clear()
        self._last.clear()

    def clear(self) -> None:
        """Free everything."""
        self.kv = None
        self.forget()


def _rounded(positions: int) -> int:
    return -(-positions // LENGTH_QUANTUM) * LENGTH_QUANTUM
