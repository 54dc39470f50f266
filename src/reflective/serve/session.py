"""One request on its way through the engine: an attempt whose events a coroutine reads.

The driver's thread calls `_tell` and `_notify`; everything else runs in the event loop. Between the two lies a bounded
queue: of a client that reads too slowly, texts and steps are left out, and counted. What makes the answer is never
lost, since the trajectory that ends carries its whole text.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Container
from contextlib import suppress

from reflective.engines.driver import Client, Driver
from reflective.judge.calibrate import Calibration
from reflective.search import Majority, SearchEvent, StepScored, Text
from reflective.search.attempt import Attempt
from reflective.serve.prompts import Question
from reflective.types import Solution, Trajectory

MAX_EVENTS = 2048  # in the queue, before texts and steps are left out
CHARACTERS_A_TOKEN = 4  # where tokens are not counted: of English, about


class Bell:
    """Wakes coroutines from the thread that drives: one call into the loop, however many have news."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ready: deque[asyncio.Event] = deque()
        self._rung = False

    def ring(self, fresh: asyncio.Event) -> None:
        """Set `fresh` in the loop's thread, soon."""
        self._ready.append(fresh)
        if not self._rung:
            self._rung = True
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._rung = False  # before looking: what is appended from here on rings again
        while self._ready:
            self._ready.popleft().set()


class Session:
    """A question under way. A context manager: what it holds in the engine is given back at its end.

    `wanted` are the kinds of events that are read.
    """

    def __init__(
        self,
        driver: Driver,
        bell: Bell,
        question: Question,
        *,
        calibration: Calibration | None,
        wanted: Container[type[SearchEvent]],
        answer_of: Callable[[Trajectory], str | None] | None = None,
    ) -> None:
        self.question = question
        self.lost = 0
        """Events that were left out since somebody last looked."""
        self._bell, self._wanted = bell, wanted
        self._characters = 0
        self._queue: deque[SearchEvent] = deque()
        self._fresh = asyncio.Event()
        self._fault: Exception | None = None
        self._client: Client = driver.client(notify=self._notify)
        self.attempt = Attempt(
            self._client,
            question.problem,
            question.k,
            question.strategy,
            question.settings,
            calibration,
            tell=self._tell,
            prompt_ids=question.prompt_ids,
            answer_of=answer_of,
        )

    def __enter__(self) -> Session:
        self.attempt.begin()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def fail(self, fault: Exception) -> None:
        """Whoever reads the events gets this instead of the rest of them."""
        self._fault = self._fault or fault
        self._fresh.set()

    async def events(self, patience_s: float | None = None) -> AsyncGenerator[SearchEvent | None]:
        """Everything that happens, until the attempt is done; None where nothing came for `patience_s`.

        Raises what the engine raised.
        """
        while True:
            self._fresh.clear()
            if self._fault is not None:
                raise self._fault
            over = self.attempt.done or self._client.error is not None  # before looking: then nothing comes behind it
            while self._queue:
                yield self._queue.popleft()
            if over:
                break
            try:
                async with asyncio.timeout(patience_s):
                    await self._fresh.wait()
            except TimeoutError:
                yield None
        if self._client.error is not None:
            raise self._client.error

    @property
    def written(self) -> int:
        """Tokens so far, about."""
        return self._characters // CHARACTERS_A_TOKEN

    async def solution(self) -> Solution:
        """The outcome, once the events have ended."""
        if isinstance(self.question.strategy, Majority):
            return await asyncio.to_thread(self.attempt.solution)  # a vote may ask graders
        return self.attempt.solution()

    # ---- on the thread that drives

    def _tell(self, event: SearchEvent) -> None:
        if isinstance(event, Text):
            self._characters += len(event.delta)
        if type(event) not in self._wanted:
            return
        if len(self._queue) >= MAX_EVENTS and isinstance(event, Text | StepScored):
            self.lost += 1
            return
        self._queue.append(event)

    def _notify(self) -> None:
        if self._queue or self.attempt.done or self._client.error is not None:
            self._bell.ring(self._fresh)
