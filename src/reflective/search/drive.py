"""The loops that turn a strategy into a solution: one problem, streamed or at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from reflective.engines.base import Engine, Event
from reflective.errors import EngineError
from reflective.search.attempt import Attempt, Calibrated
from reflective.search.base import Strategy
from reflective.search.best_of_n import BestOfN
from reflective.search.events import SearchEvent, Solved
from reflective.search.interrupts import Interrupts
from reflective.search.settings import Settings
from reflective.types import Problem, Solution

DRAIN_STEPS = 8  # engine steps within which a cancelled trajectory must have ended


def stream(
    engine: Engine,
    problem: str | Problem,
    k: int,
    *,
    strategy: Strategy | None = None,
    settings: Settings | None = None,
    calibration: Calibrated | None = None,
    interrupts: Interrupts | None = None,
) -> Iterator[SearchEvent]:
    """Solve a problem and tell what happens, from `Started` to `Solved`.

    Ctrl-C while the engine writes ends it early, with what is there: the solution is marked as interrupted. A caller
    that spends time between the events passes its own open `Interrupts`, which then covers that time, too. An iterator
    that is dropped stops its trajectories.
    """
    attempt = Attempt(engine, problem, k, strategy or BestOfN(), settings or Settings(), calibration)
    healthy = False
    try:
        yield from attempt.begin()
        while not attempt.done:
            events, stop = advance(engine, interrupts)
            for event in events:
                yield from attempt.handle(event)
            if stop and not attempt.done:
                attempt.interrupt()
                yield from drain(engine, attempt)
                break
        healthy = True
        yield Solved(attempt.solution())
    except GeneratorExit:
        attempt.interrupt()
        for _ in drain(engine, attempt):
            pass
        raise
    finally:
        if healthy or attempt.in_flight:
            attempt.release()


def solve(
    engine: Engine,
    problem: str | Problem,
    k: int,
    *,
    strategy: Strategy | None = None,
    settings: Settings | None = None,
    calibration: Calibrated | None = None,
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


def advance(engine: Engine, interrupts: Interrupts | None = None) -> tuple[list[Event], bool]:
    """One engine step, during which Ctrl-C waits; the events, and whether the user wants to stop."""
    if not engine.busy:
        raise EngineError(f"{engine.name!r} lost a trajectory: there is nothing left to do, but one has not ended.")
    try:
        if interrupts is not None:
            return engine.step(), interrupts.pressed
        with Interrupts() as own:
            return engine.step(), own.pressed
    except KeyboardInterrupt:
        return [], True


def drain(engine: Engine, attempt: Attempt) -> Iterator[SearchEvent]:
    """Let the engine end what has been cancelled."""
    for _ in range(DRAIN_STEPS):
        if attempt.done or not engine.busy:
            return
        for event in engine.step():
            yield from attempt.handle(event)
