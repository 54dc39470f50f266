"""Which trajectory of an engine belongs to whom: what was asked for, what waits, what is being written, what is held.

Each `Owner` has a queue of requests. As rows become free they go to the engine, one from each waiting owner in turn;
beyond the rows, one more for each waiting owner, so that the engine sees that a prompt is still needed, and keeps it.
The engine lets requests with the same prompt enter together. While several owners have something under way, none holds
more than its share of the rows (`row_share`), though rows may be free: every further row slows all the others down.

All but `add` runs on the thread that owns the engine. What other threads may touch is guarded by `lock`, which is never
held while the engine works or a handler runs.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from reflective.engines.base import Engine, Event, Finished, Request, with_id
from reflective.errors import InputError
from reflective.types import Trajectory

Handler = Callable[[Event], None]


class Owner:
    """Whose trajectories they are. Handlers run under `lock`; hold it to touch what they touch."""

    def __init__(self, notify: Callable[[], None] | None = None) -> None:
        self.lock = threading.RLock()
        self.notify = notify
        """Called on the thread that drives after each event of the owner's, and when it fails: for those who can't wait
        in `advance`. It must return at once."""
        self.in_flight = 0
        """Trajectories that wait or run."""
        self.news = False
        """Whether an event has come since the owner last looked."""
        self.error: BaseException | None = None
        """What the engine or a handler raised; the owner's trajectories are gone."""
        self.entries: dict[int, Entry] = {}
        self.waiting: deque[Entry] = deque()


@dataclass(slots=True, eq=False)
class Entry:
    """A trajectory that an owner has asked for; `engine_id` is None while it waits here."""

    id: int
    request: Request
    owner: Owner
    handler: Handler
    parent: Entry | None
    engine_id: int | None = None
    ended: bool = False
    cancelled: bool = False
    forgotten: bool = False
    children: int = 0  # continuations and forks of it that wait here


def row_share(rows: int, owners: int) -> int:
    """The most rows of an owner beside others: all for one, half for two, a quarter for eight."""
    return max(1, int(rows / (1 + math.log2(max(owners, 1)))))


class Ledger:
    """The books of one engine; see the module's docstring."""

    def __init__(self, lock: threading.Condition) -> None:
        self._lock = lock
        self._ids = itertools.count()
        self._turns: deque[Owner] = deque()  # the owners whose requests wait, in the order of their turns
        self._written: dict[int, Entry] = {}  # by the engine's id: what it writes, and what it holds of what has ended
        self._active: set[Owner] = set()  # the owners that have something in flight
        self._rows = 0  # trajectories that the engine writes or lets wait
        self._unsent: list[tuple[Entry, Event]] = []  # events that the engine does not know of
        self.orphans: set[int] = set()
        """The engine's ids of cancelled trajectories whose owner is gone."""

    @property
    def busy(self) -> bool:
        """Whether anything waits or is being written for an owner."""
        return bool(self._turns or self._rows or self._unsent)

    @property
    def awaited(self) -> bool:
        """Whether the engine owes an event to an owner, and this ledger has none to pass on."""
        return bool(self._rows and not self._unsent)

    def add(self, owner: Owner, request: Request, handler: Handler) -> int:
        """Queue a request, from any thread. Raises `InputError` where the owner does not have its parent."""
        with self._lock:
            parent = None
            if request.parent is not None:
                parent = owner.entries.get(request.parent)
                if parent is None or parent.engine_id is None or (request.at is None and not parent.ended):
                    kind = "finished" if request.at is None else "finished or running"
                    raise InputError(
                        f"trajectory {request.parent} can't be continued: it is no {kind} one of this client."
                    )
                parent.children += 1
            entry = Entry(next(self._ids), request, owner, handler, parent)
            owner.entries[entry.id] = entry
            owner.in_flight += 1
            self._active.add(owner)
            owner.waiting.append(entry)
            if len(owner.waiting) == 1:
                self._turns.append(owner)
            self._lock.notify_all()
            return entry.id

    # ---- to the engine

    def hand_over(self, engine: Engine) -> None:
        """Submit what has its turn."""
        while True:
            with self._lock:
                if not self._turns or self._rows >= engine.max_rows + len(self._turns):
                    return
                share = row_share(engine.max_rows, len(self._active))
                owner = next((o for o in self._turns if o.in_flight - len(o.waiting) <= share), None)
                if owner is None:
                    return
                self._turns.remove(owner)
                entry = owner.waiting.popleft()
                if owner.waiting:
                    self._turns.append(owner)
            self._submit(entry, engine)

    def cancel(self, entry: Entry, engine: Engine) -> None:
        """Stop a trajectory; it then ends in the next step. Forget one that has ended."""
        if entry.id not in entry.owner.entries:
            return
        if entry.ended:
            entry.forgotten = True
            if not entry.children:  # those begin with what it has written
                self._forget(entry, engine)
        elif not entry.cancelled:
            entry.cancelled = True
            if entry.engine_id is None and not self._withdraw(entry, engine):
                return
            if entry.engine_id is not None:
                engine.cancel(entry.engine_id)

    def drop(self, owner: Owner, engine: Engine) -> None:
        """Cancel and forget all that is an owner's."""
        with self._lock:
            entries = list(owner.entries.values())
            owner.entries.clear()
            owner.in_flight = 0
            self._active.discard(owner)
            if owner.waiting:
                owner.waiting.clear()
                self._turns.remove(owner)
            self._unsent = [(entry, event) for entry, event in self._unsent if entry.owner is not owner]
        for entry in entries:
            if entry.engine_id is not None:
                del self._written[entry.engine_id]
                if not entry.ended:
                    self._rows -= 1
                    self.orphans.add(entry.engine_id)
                engine.cancel(entry.engine_id)

    def fail(self, error: BaseException, engine: Engine, id: int | None = None) -> None:
        """The engine has failed: every owner that has something in flight gets the error and loses what it has.

        Where it has failed with the trajectory of this id alone, its owner does.
        """
        if id is not None:
            if id in self._written:
                self.fail_one(self._written[id].owner, error, engine)
            return
        with self._lock:
            entries = [*self._written.values(), *(entry for entry, _ in self._unsent)]
            owners = {entry.owner for entry in entries if not entry.ended} | {*self._turns}
            for owner in owners:
                owner.error = owner.error or error
        for owner in owners:
            with suppress(Exception):  # an engine that is broken may not even cancel
                self.drop(owner, engine)
            if owner.notify is not None:
                owner.notify()

    def fail_one(self, owner: Owner, error: BaseException, engine: Engine) -> None:
        """Something of this owner's has failed: it gets the error and loses what it has; nobody else does."""
        owner.error = owner.error or error
        self.drop(owner, engine)
        if owner.notify is not None:
            owner.notify()

    def _submit(self, entry: Entry, engine: Engine) -> None:
        request, parent = entry.request, entry.parent
        if parent is not None:
            request = replace(request, parent=parent.engine_id)
            parent.children -= 1
        try:
            entry.engine_id = engine.submit(request)
        except Exception as error:
            self.fail_one(entry.owner, error, engine)
            return
        self._written[entry.engine_id] = entry
        self._rows += 1
        if parent is not None and parent.forgotten and not parent.children:
            self._forget(parent, engine)

    def _withdraw(self, entry: Entry, engine: Engine) -> bool:
        """Take a waiting entry out of its queue; True where the engine has to end it."""
        owner = entry.owner
        with self._lock:
            owner.waiting.remove(entry)
            if not owner.waiting:
                self._turns.remove(owner)
        if entry.parent is None:
            self._unsent.append((entry, Finished(entry.id, _unwritten(entry.request))))
            return False
        self._submit(entry, engine)  # its trajectory holds what its parent has written
        return True

    def _forget(self, entry: Entry, engine: Engine) -> None:
        del entry.owner.entries[entry.id]
        if entry.engine_id is not None:
            del self._written[entry.engine_id]
            engine.cancel(entry.engine_id)

    # ---- from the engine

    def pass_on(self, events: Sequence[Event], engine: Engine) -> None:
        """Call the handlers of these events, after those of events that the engine does not know of."""
        unsent, self._unsent = self._unsent, []
        for entry, event in unsent:
            self._tell(entry, event, engine)
        for event in events:
            found = self._written.get(event.id)
            if found is not None:
                self._tell(found, with_id(event, found.id), engine)
            elif isinstance(event, Finished) and event.id in self.orphans:
                self.orphans.discard(event.id)
                engine.cancel(event.id)
        if not engine.busy:
            self.orphans.clear()

    def _tell(self, entry: Entry, event: Event, engine: Engine) -> None:
        owner = entry.owner
        if isinstance(event, Finished):
            with self._lock:
                entry.ended = True
                owner.in_flight -= 1
                if not owner.in_flight:
                    self._active.discard(owner)
                self._rows -= entry.engine_id is not None
        try:
            with owner.lock:
                entry.handler(event)
        except Exception as error:
            self.fail_one(owner, error, engine)
        owner.news = True
        if owner.notify is not None:
            owner.notify()


def _unwritten(request: Request) -> Trajectory:
    """What is there of a trajectory that was cancelled before it was begun."""
    return Trajectory(request.index, (), "", "", (), None, "cancelled", token_logprobs=(), seed=request.seed)
