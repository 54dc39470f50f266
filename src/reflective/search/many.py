"""Many problems, several at a time, so that the engine is always full: for evaluation and for training data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from reflective.engines.base import Engine
from reflective.engines.driver import Driver
from reflective.errors import InputError
from reflective.judge.calibrate import Calibration
from reflective.search.attempt import Attempt
from reflective.search.base import Strategy
from reflective.search.best_of_n import BestOfN
from reflective.search.settings import Settings
from reflective.settings import check_least
from reflective.types import Problem, Solution, Timing, Usage

ROWS_IN_FLIGHT = 64  # trajectories that wait or run before no further problem is started

Item = TypeVar("Item", str, Problem)


def solve_many(
    engine: Engine,
    problems: Iterable[Item],
    k: int,
    *,
    strategy: Strategy | None = None,
    settings: Settings | None = None,
    calibration: Calibration | None = None,
    in_flight: int = ROWS_IN_FLIGHT,
) -> Iterator[tuple[Item, Solution]]:
    """Solve problems and yield each with its solution as soon as it is there: not in the order given.

    A problem's solution is the same as from `solve` alone, whatever else is under way. All trajectories of a problem
    are submitted together, so that the engine reads their prompt once. A problem that can't be solved (too long for the
    context, blank) yields a solution without trajectories that says so in its notes. Problems are drawn from the
    iterable as room appears, for one trajectory, or where the strategy decides at marks for all that begin together.
    Ctrl-C stops what is being written and raises KeyboardInterrupt.
    """
    check_least(1, in_flight=in_flight)
    strategy, settings = strategy or BestOfN(), settings or Settings()
    # a trajectory that waits would hold up decisions that fall at marks, and the others would be written beyond them
    together = strategy.begins(strategy.budget(k)) if strategy.every else 1
    waiting = iter(problems)
    attempts: list[tuple[Item, Attempt]] = []
    more = True
    with Driver.of(engine).client() as client:
        while more or attempts:
            while more and (client.in_flight < in_flight + 1 - together or not client.in_flight):
                item = next(waiting, None)
                if item is None:
                    more = False
                    break
                try:
                    attempt = Attempt(client, item, k, strategy, settings, calibration)
                    attempt.begin()
                except InputError as error:
                    yield item, _unsolvable(engine, item, strategy.budget(k), strategy, settings, error)
                else:
                    attempts.append((item, attempt))
            if attempts and client.advance():
                raise KeyboardInterrupt
            for _, attempt in attempts:
                attempt.tick()
            for item, attempt in [entry for entry in attempts if entry[1].done]:
                attempts.remove((item, attempt))
                attempt.release()
                yield item, attempt.solution()


def _unsolvable(
    engine: Engine, item: str | Problem, k: int, strategy: Strategy, settings: Settings, error: InputError
) -> Solution:
    return Solution(
        problem=item if isinstance(item, Problem) else Problem(item),
        answer=None,
        answer_text="",
        confidence=0.0,
        effort=k,
        strategy=strategy.name,
        selected=None,
        trajectories=(),
        usage=Usage(0, 0),
        timing=Timing(0.0),
        model=engine.name,
        seed=settings.seed,
        notes=(str(error),),
    )
