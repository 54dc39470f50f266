"""Requests that arrive, wait, and are written by continuously batching replicas: a discrete-event simulation.

What is simulated is what the engines do. A request goes to the replica with the fewest rows. Its prompt is read once,
which holds up the replica's other rows. Its k trajectories become rows where rows are free; waiting requests take
turns. All rows of a replica write one token each step, and a step's length depends on their number. When all k have
ended, one of them is continued to its answer.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any

from reflective.errors import DependencyError, InputError
from reflective.serve.plan.rates import Rates
from reflective.settings import at_least

if TYPE_CHECKING:
    import simpy

WARM_UP = 0.2  # share of the requests that come first and are not counted


@dataclass(frozen=True, slots=True)
class Load:
    """What arrives: requests a minute, at random times, each with k trajectories.

    Their tokens are drawn from a log-normal distribution with mean `tokens` and standard deviation `spread` times that,
    or from `lengths` where there are any: measured ones, problem by problem. A request's trajectories are those of one
    problem, and like each other in length: the longest of k, for which a request waits, is shorter than of any k.
    """

    per_minute: float
    k: int = 8
    tokens: float = 4096
    spread: float = 0.6
    answer_tokens: float = 300
    prompt_tokens: float = 200
    lengths: tuple[tuple[int, ...], ...] = ()
    requests: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(self, 1, "k", "tokens")
        at_least(self, 10, "requests")
        if not (self.per_minute > 0 and math.isfinite(self.per_minute)):
            raise InputError(f"per_minute must be above 0, got {self.per_minute}.")
        if not all(self.lengths):
            raise InputError("lengths holds a problem without any.")
        if not (self.spread >= 0 and self.answer_tokens >= 0 and self.prompt_tokens >= 0):
            raise InputError("spread, answer_tokens and prompt_tokens must be 0 or more.")

    @property
    def mean_tokens(self) -> float:
        """Of a trajectory."""
        return fmean(fmean(problem) for problem in self.lengths) if self.lengths else self.tokens

    def draw(self, chance: random.Random) -> list[int]:
        """Draws the tokens of a request's trajectories, (k,)."""
        if self.lengths:
            return chance.choices(chance.choice(self.lengths), k=self.k)
        if self.spread == 0:
            return [round(self.tokens)] * self.k
        sigma = math.sqrt(math.log(1 + self.spread**2))
        mu = math.log(self.tokens) - sigma**2 / 2
        return [max(1, round(chance.lognormvariate(mu, sigma))) for _ in range(self.k)]


@dataclass(slots=True)
class Asked:
    """A request under way; times are seconds of the simulation."""

    arrived: float
    lengths: deque[int]  # of the trajectories that are no rows yet
    left: int  # trajectories that have not ended
    began: float | None = None
    ended: float | None = None


@dataclass(slots=True)
class Replica:
    """One engine. `written` are the tokens that every row of it has written so far, counted from its beginning."""

    rates: Rates
    rows: list[tuple[float, int, Asked]] = field(default_factory=list)  # a heap by the token at which they end
    waiting: deque[Asked] = field(default_factory=deque)
    answers: deque[Asked] = field(default_factory=deque)  # go first: they are short, and their memory is held
    written: float = 0.0
    to_read: float = 0.0  # seconds of prompts that are still to be read
    busy_s: float = 0.0
    row_s: float = 0.0
    wake: simpy.Event | None = None

    @property
    def load(self) -> int:
        """Rows, and trajectories that wait to become some."""
        return len(self.rows) + len(self.answers) + sum(len(asked.lengths) for asked in self.waiting)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Seconds of each request that was counted, and how full the replicas were."""

    latency: tuple[float, ...]
    delay: tuple[float, ...]
    busy: float
    rows: float

    @staticmethod
    def quantile(values: Sequence[float], q: float) -> float:
        """Linear between the values."""
        ordered = sorted(values)
        at = q * (len(ordered) - 1)
        low = int(at)
        return ordered[low] + (at - low) * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low])


def simulate(load: Load, rates: Rates, replicas: int = 1) -> Outcome:
    """What comes of a load on so many replicas."""
    try:
        import simpy
    except ImportError as error:
        raise DependencyError("planning needs SimPy. Install it: pip install 'reflective[serve]'.") from error
    env = simpy.Environment()
    fleet = [Replica(rates) for _ in range(replicas)]
    counter = itertools.count()
    chance = random.Random(load.seed)
    everyone: list[Asked] = []
    first, marks = int(WARM_UP * load.requests), []

    def arrivals() -> Generator[Any, Any, None]:
        for number in range(load.requests):
            yield env.timeout(chance.expovariate(load.per_minute / 60))
            asked = Asked(env.now, deque(load.draw(chance)), load.k)
            everyone.append(asked)
            if number in (first, load.requests - 1):
                marks.append((env.now, sum(r.busy_s for r in fleet), sum(r.row_s for r in fleet)))
            replica = min(fleet, key=lambda replica: replica.load)
            replica.waiting.append(asked)
            _wake(replica)

    def engine(replica: Replica) -> Generator[Any, Any, None]:
        while True:
            _admit(replica, env.now, load, counter)
            if not replica.rows:
                replica.wake = env.event()
                yield replica.wake
                continue
            rows, began = len(replica.rows), env.now
            if replica.to_read:  # prompts hold everything up
                seconds, replica.to_read = replica.to_read, 0.0
                yield env.timeout(seconds)
                replica.busy_s += seconds
                replica.row_s += seconds * rows
                continue
            step_s = rates.step_s(rows)
            first_end = replica.rows[0][0]
            end = env.timeout(max(first_end - replica.written, 0.0) * step_s)
            replica.wake = env.event() if rows < rates.max_rows else None
            yield end | replica.wake if replica.wake is not None else end
            passed = env.now - began
            # late in a long simulation a short time is lost in the clock's rounding: tokens are counted, not seconds
            replica.written = first_end if end.processed else min(replica.written + passed / step_s, first_end)
            replica.busy_s += passed
            replica.row_s += passed * rows
            while replica.rows and replica.rows[0][0] <= replica.written + 1e-6:
                _end(replica, heapq.heappop(replica.rows)[2], env.now, load)

    env.process(arrivals())
    for replica in fleet:
        env.process(engine(replica))
    env.run()
    counted = everyone[first:]
    (began, busy, rows), (ended, all_busy, all_rows) = marks  # neither the filling nor the emptying counts
    span = max(ended - began, 1e-9) * replicas
    return Outcome(
        latency=tuple((asked.ended or math.inf) - asked.arrived + rates.request_s for asked in counted),
        delay=tuple((math.inf if asked.began is None else asked.began) - asked.arrived for asked in counted),
        busy=min((all_busy - busy) / span, 1.0),
        rows=min((all_rows - rows) / span / rates.max_rows, 1.0),
    )


def _wake(replica: Replica) -> None:
    if replica.wake is not None and not replica.wake.triggered:
        replica.wake.succeed()


def _admit(replica: Replica, now: float, load: Load, counter: itertools.count[int]) -> None:
    """Fill the free rows; waiting requests take turns."""
    while len(replica.rows) < replica.rates.max_rows:
        if replica.answers:
            asked, tokens = replica.answers.popleft(), load.answer_tokens
        elif replica.waiting:
            asked = replica.waiting.popleft()
            if asked.began is None:
                asked.began = now
                replica.to_read += load.prompt_tokens / replica.rates.prompt_tokens_per_s
            tokens = asked.lengths.popleft()
            if asked.lengths:
                replica.waiting.append(asked)
        else:
            return
        heapq.heappush(replica.rows, (replica.written + tokens, next(counter), asked))


def _end(replica: Replica, asked: Asked, now: float, load: Load) -> None:
    """A row has ended: one of the trajectories, or the answer."""
    asked.left -= 1
    if asked.left == 0 and load.answer_tokens > 0:
        replica.answers.append(asked)
    elif asked.left <= 0:
        asked.ended = now
