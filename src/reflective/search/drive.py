"""From a strategy to a solution: one problem, streamed or at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from reflective.engines.base import Engine
from reflective.engines.driver import Driver, Interrupts
from reflective.errors import EngineError
from reflective.judge.calibrate import Calibration
from reflective.search.attempt import Attempt
from reflective.search.base import Strategy
from reflective.search.best_of_n import BestOfN
from reflective.search.events import SearchEvent, Solved
from reflective.search.settings import Settings
from reflective.types import Problem, Solution


def stream(
    engine: Engine,
    problem: str | Problem,
    k: int,
    *,
    strategy: Strategy | None = None,
    settings: Settings | None = None,
    calibration: Calibration | None = None,
    interrupts: Interrupts | None = None,
) -> Iterator[SearchEvent]:
    """Solve a problem and tell what happens, from `Started` to `Solved`.

    Ctrl-C while the engine writes ends it early, with what is there: the solution is marked as interrupted. A caller
    that spends time between the events passes its own open `Interrupts`, which then covers that time, too. An iterator
    that is dropped stops its trajectories. Several streams may share an engine, in one thread or in several.
    """
    events: deque[SearchEvent] = deque()
    with Driver.of(engine).client() as client:
        attempt = Attempt(
            client, problem, k, strategy or BestOfN(), settings or Settings(), calibration, tell=events.append
        )
        attempt.begin()
        interrupted = False
        while events or not (attempt.done or interrupted):
            while events:
                yield events.popleft()
            if not attempt.done and client.advance(interrupts):
                interrupted = True
                attempt.interrupt()
                client.drain()
            attempt.tick()
    yield Solved(attempt.solution())


def solve(
    engine: Engine,
    problem: str | Problem,
    k: int,
    *,
    strategy: Strategy | None = None,
    settings: Settings | None = None,
    calibration: Calibration | None = None,
    on_event: Callable[[SearchEvent], None] | None = None,
) -> Solution:
    """Solve a problem. `on_event` is told everything that `stream` yields."""
    with Interrupts() as interrupts:
        for event in stream(
            engine,
            problem,
            k,
            strategy=strategy,
            settings=settings,
            calibration=calibration,
            interrupts=interrupts,
        ):
            if on_event is not None:
                on_event(event)
            if isinstance(event, Solved):
                return event.solution
    raise EngineError("the search ended without a solution.")
