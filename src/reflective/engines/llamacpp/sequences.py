"""Which of llama.cpp's sequences holds which trajectory: the `RowKeeper` of the engine llamacpp.

A trajectory that enters begins with the longest prefix that any sequence holds, running or finished: of its prompt, its
parent or an earlier turn. Sequences share the positions that they have in common, so this copies nothing. Finished
trajectories stay until their sequence or their positions are needed, the least recently used first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from reflective.engines.llamacpp.session import BATCH, SEQUENCES, NoRoomError, Session
from reflective.engines.sequence import Running
from reflective.engines.torch.scheduler import Scheduler

SCRATCH = 0  # the sequence that given text is read in


class Sequences:
    """The sequences of a session, for rows of `length` positions at most."""

    def __init__(self, session: Session, length: int) -> None:
        self._session, self.length, self.rows = session, length, 0
        self._free = list(range(SCRATCH + 1, SEQUENCES))
        self._of_row: dict[int, int] = {}  # rows beyond the running ones hold what may be forgotten
        self._parked: OrderedDict[int, tuple[int, Running]] = OrderedDict()  # by trajectory
        self._has_read = False  # whether the text that was read is still there

    # ---- the keeper's part

    @property
    def memory(self) -> Sequences:
        """Itself."""
        return self

    def reserve(self, scheduler: Scheduler) -> bool:
        """Nothing to reserve; True the first time."""
        first, self.rows = not self.rows, self.rows or scheduler.max_rows
        return first

    def fill(
        self, group: list[Running], first_row: int, running: list[Running], *, keep: bool
    ) -> tuple[Tensor, Tensor]:
        """See `RowKeeper.fill`; a prompt needs no keeping beside the trajectories that begin with it."""
        prompt = group[0].prompt_ids
        start = self._begin(group[0], first_row, running, prompt, len(prompt) - 1)
        logits, states = self._prefill(prompt, start, first_row)
        logits, states = logits.clone(), states[-1:].clone()
        for row in range(first_row + 1, first_row + len(group)):
            self._session.share(self._of_row[first_row], self._take(row), len(prompt))
        return logits, states

    def bring_back(self, sequence: Running, row: int, running: list[Running]) -> None:
        """See `RowKeeper.bring_back`."""
        ids = _held(sequence)
        start = self._begin(sequence, row, running, ids, len(ids))
        if start < len(ids):
            self._prefill(ids, start, row)

    def park(self, sequence: Running, row: int, *, last: bool) -> None:
        """See `RowKeeper.park`."""
        self._parked[sequence.id] = (self._of_row.pop(row), sequence)

    def move(self, source: int, target: int, length: int) -> None:
        """Row `source` becomes row `target`."""
        self._release(self._of_row.pop(target, None))
        self._of_row[target] = self._of_row.pop(source)

    def drop(self, id: int) -> None:
        """See `RowKeeper.drop`."""
        if id in self._parked:
            self._release(self._parked.pop(id)[0])

    def clear(self) -> None:
        """Forget every sequence; the session stays open."""
        self._session.drop(SCRATCH)
        for number in (*self._of_row.values(), *(number for number, _ in self._parked.values())):
            self._release(number)
        self._of_row.clear()
        self._parked.clear()

    # ---- the backbone's part

    def decode(self, tokens: Sequence[int], positions: Sequence[int]) -> tuple[Tensor, Tensor]:
        """A token of each of the first rows: logits (B, V), states (B, H)."""
        if self._has_read:
            self._session.drop(SCRATCH)
            self._has_read = False
        numbers = [self._of_row[row] for row in range(len(tokens))]
        return self._pass(tokens, positions, numbers, [True] * len(tokens), len(tokens))

    def read(self, tokens: Sequence[int], start: int, wanted: bool) -> tuple[Tensor, Tensor]:
        """Given tokens at the positions from `start` on, as one pass, beside all rows; logits where they are wanted."""
        self._session.drop(SCRATCH, start)
        self._has_read = True
        places, count = range(start, start + len(tokens)), len(tokens)
        return self._pass(tokens, places, [SCRATCH] * count, [wanted] * count, max(self._of_row, default=-1) + 1)

    # ----

    def _begin(self, sequence: Running, row: int, running: list[Running], ids: Sequence[int], most: int) -> int:
        """Give a row a sequence that begins with as much of `ids` as any other holds, at most `most`: how much."""
        parent = sequence.request.parent
        if parent is not None and parent in self._parked:
            self._parked.move_to_end(parent)
        number, held = self._take(row), [(self._of_row[i], other) for i, other in enumerate(running[:row])]
        source, length = max(
            ((n, _common(ids, _held(other))) for n, other in (*held, *self._parked.values())),
            key=lambda found: found[1],
            default=(number, 0),
        )
        length = min(length, most)
        if length:
            self._session.share(source, number, length)
        return length

    def _take(self, row: int) -> int:
        """An empty sequence for a row."""
        self._release(self._of_row.pop(row, None))
        if not self._free:
            self._make_room(row)
        self._of_row[row] = number = self._free.pop()
        return number

    def _prefill(self, ids: Sequence[int], start: int, row: int) -> tuple[Tensor, Tensor]:
        """Compute the positions of a row from `start` on: logits (1, V) of the last, states of the last pass."""
        for begin in range(start, len(ids), BATCH):
            part = ids[begin : begin + BATCH]
            last, count = begin + BATCH >= len(ids), len(part)
            wanted = [False] * (count - 1) + [last]
            found = self._pass(part, range(begin, begin + count), [self._of_row[row]] * count, wanted, row + 1)
        return found

    def _pass(
        self, tokens: Sequence[int], positions: Sequence[int], numbers: Sequence[int], wanted: Sequence[bool], rows: int
    ) -> tuple[Tensor, Tensor]:
        while True:
            try:
                return self._session.decode(tokens, positions, numbers, wanted)
            except NoRoomError:
                self._make_room(rows)

    def _make_room(self, rows: int) -> None:
        """Forget a sequence that is not one of the first `rows` rows. Raises where there is none."""
        stale = max(self._of_row, default=-1)
        if stale >= rows:
            self._release(self._of_row.pop(stale))
        elif self._parked:
            self._release(self._parked.popitem(last=False)[1][0])
        else:
            raise torch.OutOfMemoryError("llama.cpp's positions are all taken")

    def _release(self, number: int | None) -> None:
        if number is not None:
            self._session.drop(number)
            self._free.append(number)


def _held(sequence: Running) -> list[int]:
    """The ids whose keys and values a trajectory's sequence holds."""
    return [*sequence.prompt_ids, *sequence.token_ids[:-1]]


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many ids two texts have in common from their beginnings on."""
    length = min(len(a), len(b))
    if list(a[:length]) == list(b[:length]):
        return length
    return next(i for i, (x, y) in enumerate(zip(a, b)) if x != y)
