"""The one loop over an engine, for any number of clients in any number of threads.

At any moment one thread owns the engine: the one that drives. A client that waits for events drives, unless another
thread does so already. A single thread therefore pays for no hand-over, and several threads take turns; `start` gives
the driver a thread of its own.

Events go to the client that asked for the trajectory. Its handlers run between two steps, on the thread that drives:
what they decide (cancel, fork, answer) takes effect before the next token is written, so that results depend neither
on which thread drives nor on how fast a client reads. Which requests are written first is decided in `ledger.py`.

Failure: an exception from the engine is raised in every client that has a trajectory under way, and ends those. An
exception from a handler, from a request that the engine refuses, or of one trajectory (`EngineError.trajectory`), is
raised in its own client alone.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, ref

from reflective.engines.base import Engine, Event, Request
from reflective.engines.interrupts import Interrupts
from reflective.engines.ledger import Handler, Ledger, Owner
from reflective.errors import EngineError, InputError

__all__ = ["Client", "Driver", "Interrupts"]

DRAIN_STEPS = 8  # engine steps within which a cancelled trajectory must have ended
LOOK_S = 0.1  # seconds between two looks for a Ctrl-C while another thread drives
CLOSED = "the engine was closed."

Result = TypeVar("Result")


class Client(Owner):
    """An owner of trajectories: it submits, forks and cancels, and receives their events. A context manager.

    Events go to the handler that was given with the request, or else into a queue that `events` empties. A client that
    leaves more than `limit` events in its queue has its trajectories cancelled and gets an `EngineError`; None: no
    limit.
    """

    def __init__(
        self, driver: Driver, engine: Engine, limit: int | None, notify: Callable[[], None] | None = None
    ) -> None:
        super().__init__(notify)
        self.engine = engine
        self._driver, self._limit = driver, limit
        self._queue: deque[Event] = deque()
        self._closed = False

    def submit(self, request: Request, handler: Handler | None = None) -> int:
        """Ask for a trajectory; its id. Raises `ContextError` or `InputError` where the request can't be served."""
        self.engine.check(request)
        self._raise()
        if self._closed or self._driver.closed:
            raise EngineError(CLOSED)
        return self._driver.ledger.add(self, request, handler or self._keep)

    def fork(self, id: int, at: int, request: Request, handler: Handler | None = None) -> int:
        """Ask for a trajectory that begins with the first `at` response tokens of `id` (see `Engine.fork`)."""
        return self.submit(replace(request, parent=id, at=at), handler)

    def cancel(self, id: int) -> None:
        """Stop a trajectory: it finishes with reason "cancelled" in the next step. Forget one that has finished."""
        if (entry := self.entries.get(id)) is not None:
            self._driver.command(partial(self._driver.ledger.cancel, entry))

    def take_features(self, id: int) -> tuple[list[int], Any]:
        """As `Engine.take_features`."""
        entry = self.entries.get(id)
        if entry is None or (engine_id := entry.engine_id) is None:
            raise InputError(f"no features are held for trajectory {id}: it has not been written.")
        return self._driver.call(lambda engine: engine.take_features(engine_id))

    def advance(self, interrupts: Interrupts | None = None) -> bool:
        """Let the engine work until something has come for this client, or a step was made here.

        Returns whether the user wants to stop: Ctrl-C waits for the end of the step. A caller that spends time between
        two steps passes its own open `Interrupts`, which covers that time, too. Returns at once where nothing is in
        flight. Raises what the engine or a handler raised.
        """
        try:
            if interrupts is not None:
                self._driver.advance(self, interrupts)
            else:
                with Interrupts() as interrupts:
                    self._driver.advance(self, interrupts)
        except KeyboardInterrupt:
            self._driver.whole = True  # the step has ended, though without an event
            return True
        self._raise()
        return interrupts.pressed

    def events(self, interrupts: Interrupts | None = None) -> list[Event]:
        """What has come into the queue; waits for something while trajectories are in flight.

        Ctrl-C raises KeyboardInterrupt.
        """
        while not self._queue and self.in_flight:
            if self.advance(interrupts):
                raise KeyboardInterrupt
        self._raise()
        with self.lock:
            events = list(self._queue)
            self._queue.clear()
        return events

    def drain(self) -> None:
        """Let the engine end what has been cancelled."""
        driver = self._driver
        last = driver.steps + DRAIN_STEPS
        while self.in_flight and self.error is None and driver.steps < last and not driver.drives_here:
            driver.advance(self)
        self._raise()

    def close(self) -> None:
        """Cancel and forget everything of this client; nothing of it is left running in the engine."""
        if not self._closed:
            self._closed = True
            self._driver.command(partial(self._driver.ledger.drop, self))
            self._driver.end_orphans(self.engine)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _keep(self, event: Event) -> None:
        if self._limit is not None and len(self._queue) >= self._limit:
            raise EngineError(f"{self._limit:,} events were not read in time; the trajectories were cancelled.")
        self._queue.append(event)

    def _raise(self) -> None:
        if self.error is not None:
            raise self.error


class Driver:
    """The owner of an engine's loop. `Driver.of(engine)` is the engine's only one; `client` is how it is used."""

    _of: WeakKeyDictionary[Engine, Driver] = WeakKeyDictionary()
    _making = threading.Lock()

    def __init__(self, engine: Engine) -> None:
        self._engine = ref(engine)  # weak: an engine that nobody uses any more goes, and its driver with it
        self._lock = threading.Condition()
        self._thread: int | None = None  # the one that drives
        self._urgent = 0  # threads that want the engine for themselves, between two steps
        self._commands: deque[Callable[[Engine], None]] = deque()
        self._own: threading.Thread | None = None
        self.ledger = Ledger(self._lock)
        self.steps = 0
        self.whole = True
        """Whether the last step came back; where it did not, nobody knows what the engine is in."""
        self.closed = False

    @classmethod
    def of(cls, engine: Engine) -> Driver:
        """The driver of this engine, made when it is first asked for. Raises `InputError` for what is no engine."""
        if not isinstance(engine, Engine):
            raise InputError(
                f"engine is {engine!r:.60}; it must be an Engine, such as Reflective.from_pretrained makes."
            )
        with cls._making:
            driver = cls._of.get(engine)
            if driver is None:
                driver = cls._of[engine] = cls(engine)
            return driver

    def client(self, *, limit: int | None = None, notify: Callable[[], None] | None = None) -> Client:
        """A new client; `limit` bounds its queue, `notify` is called when something has come (see `Owner`)."""
        return Client(self, self._there(), limit, notify)

    def call(self, work: Callable[[Engine], Result]) -> Result:
        """Have the engine for oneself between two steps, for what is no trajectory, such as `Engine.score`."""
        engine = self._there()
        if self.drives_here:
            return work(engine)
        with self._lock:
            self._urgent += 1
            try:
                self._lock.wait_for(lambda: self._thread is None)
                self._thread = threading.get_ident()
            finally:
                self._urgent -= 1
        try:
            return work(engine)
        finally:
            self._let_go(engine)

    def start(self) -> None:
        """Drive in a thread of its own until `close`, for clients that do not wait themselves: a server's."""
        if self._own is None:
            self._own = threading.Thread(target=self._run, args=(self._there(),), name="driver", daemon=True)
            self._own.start()

    def close(self) -> None:
        """Close the engine, between two steps. What is in flight fails."""

        def work(engine: Engine) -> None:
            self.closed = True
            self.ledger.fail(EngineError(CLOSED), engine)
            engine.close()

        if not self.closed:
            self.call(work)

    def _there(self) -> Engine:
        engine = self._engine()
        if engine is None or self.closed:
            raise EngineError(CLOSED)
        return engine

    # ---- what clients use, on any thread

    @property
    def drives_here(self) -> bool:
        """Whether this thread drives; a handler runs there."""
        return self._thread == threading.get_ident()

    def command(self, command: Callable[[Engine], None]) -> None:
        """Have `command` carried out between two steps: at once where nobody drives and no thread is there to."""
        with self._lock:
            self._commands.append(command)
            if self._thread is not None or self._own is not None:
                self._lock.notify_all()
                return
            self._thread = threading.get_ident()
        if (engine := self._engine()) is not None:
            self._let_go(engine)

    def advance(self, client: Client, interrupts: Interrupts | None = None) -> None:
        """Drive for one step; or wait, while another thread drives, until something has come for `client`."""
        with self._lock:
            while not client.news and client.error is None and client.in_flight:
                if self._take():
                    break
                if self.drives_here or (interrupts is not None and interrupts.pressed):
                    return
                self._lock.wait(LOOK_S)
            else:
                client.news = False
                return
        try:
            self._step(client.engine)
        finally:
            client.news = False
            self._let_go(client.engine)

    def end_orphans(self, engine: Engine) -> None:
        """Step until nothing is left of clients that are gone; another thread that drives sees to it itself."""
        for _ in range(DRAIN_STEPS):
            with self._lock:
                if self._own is not None or not self.ledger.orphans or not self.whole or not self._take():
                    return
            try:
                self._step(engine)
            finally:
                self._let_go(engine)

    # ---- the loop, on the thread that drives

    def _take(self) -> bool:
        """Become the thread that drives, if there is none; call it with the lock held."""
        if self._thread is not None or self._urgent:
            return False
        self._thread = threading.get_ident()
        return True

    def _let_go(self, engine: Engine) -> None:
        """Stop driving; what was commanded meanwhile is done first."""
        while True:
            with self._lock:
                if not self._commands:
                    self._thread = None
                    self._lock.notify_all()
                    return
            try:
                self._obey(engine)
            except Exception as error:
                self.ledger.fail(error, engine)

    def _run(self, engine: Engine) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self.closed or (self._work and self._take()))
                if self.closed:
                    return
            try:
                self._step(engine)
            finally:
                self._let_go(engine)

    @property
    def _work(self) -> bool:
        return self.ledger.busy or bool(self._commands) or (self.whole and bool(self.ledger.orphans))

    def _step(self, engine: Engine) -> None:
        """Hand over what has its turn, let the engine make a step, and pass on what it tells."""
        self.steps += 1
        self.whole = False
        events: list[Event] = []
        try:
            self._obey(engine)
            self.ledger.hand_over(engine)
            if engine.busy:
                events = engine.step()
            elif self.ledger.awaited:
                raise EngineError(f"{engine.name!r} lost a trajectory: nothing is left to do, but one has not ended.")
        except Exception as error:
            id = error.trajectory if isinstance(error, EngineError) else None
            self.whole = id is not None
            self.ledger.fail(error, engine, id)
            return
        self.whole = True
        self.ledger.pass_on(events, engine)

    def _obey(self, engine: Engine) -> None:
        while self._commands:
            self._commands.popleft()(engine)
