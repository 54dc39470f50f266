"""Who is let in, and when: a bounded queue in front of the engine, and turns between clients.

A request comes in as soon as fewer trajectories wait or run than the engine can keep busy with. Those that wait are let
in by turns between clients, first come first served within each, so that one client's thousand requests stand before
nobody else's first one. Among those that are in, the engine's rows go round by turns, too (`engines/ledger.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass

from reflective.serve.faults import Fault

LONGEST_RETRY_S = 60


@dataclass(slots=True, eq=False)
class Place:
    """A request's place: `came` is done once it is let in."""

    client: str
    rows: int
    came: asyncio.Future[None]


class Admission:
    """The gate of one engine. For the event loop's thread alone."""

    def __init__(self, rows: int, waiting: int) -> None:
        self._most, self._limit = rows, waiting
        self._turns: dict[str, deque[Place]] = {}
        self.waiting = 0
        self.rows = 0
        """Trajectories of the requests that are inside."""
        self.inside = 0
        self._pace_s: float | None = None  # seconds between two requests that leave, smoothed
        self._left_at: float | None = None

    def expect(self) -> None:
        """Raise `Fault` where a request that came now would find the queue full."""
        if self.waiting >= self._limit and not (self._room and not self.waiting):
            raise Fault(
                429,
                f"The server is busy: {self.waiting:,} requests wait already. Try again later.",
                code="queue_full",
                headers={"Retry-After": str(self.retry_s)},
            )

    def ask(self, client: str, rows: int) -> Place:
        """A place for a request of `rows` trajectories; `leave` gives it back."""
        self.expect()
        place = Place(client, rows, asyncio.get_running_loop().create_future())
        self._turns.setdefault(client, deque()).append(place)
        self.waiting += 1
        self._let_in()
        return place

    def leave(self, place: Place) -> None:
        """A request is done, or waits no longer; others may come in."""
        queue = self._turns.get(place.client)
        if queue is not None and place in queue:
            queue.remove(place)
            self.waiting -= 1
            if not queue:
                del self._turns[place.client]
            place.came.cancel()
            return
        now = time.monotonic()
        if self._left_at is not None:
            pace = now - self._left_at
            self._pace_s = pace if self._pace_s is None else 0.9 * self._pace_s + 0.1 * pace
        self._left_at = now
        self.rows -= place.rows
        self.inside -= 1
        self._let_in()

    def close(self, fault: Fault) -> None:
        """Everyone who waits gets the fault."""
        for place in [place for queue in self._turns.values() for place in queue]:
            if not place.came.done():
                place.came.set_exception(fault)

    @property
    def retry_s(self) -> int:
        """Seconds after which a client that is sent away may find room."""
        return round(min(max(1.0, (self._pace_s or 1.0) * self.waiting), LONGEST_RETRY_S))

    @property
    def _room(self) -> bool:
        return self.rows < self._most

    def _let_in(self) -> None:
        while self._turns and self._room:
            client = next(iter(self._turns))
            queue = self._turns.pop(client)
            place = queue.popleft()
            if queue:
                self._turns[client] = queue  # behind the others
            self.waiting -= 1
            self.rows += place.rows
            self.inside += 1
            if not place.came.done():
                place.came.set_result(None)
