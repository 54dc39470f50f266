"""The plan: as many replicas as a target needs, and what comes of them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Final

from reflective.errors import InputError
from reflective.serve.plan.rates import Rates
from reflective.serve.plan.simulate import Load, Outcome, simulate
from reflective.settings import check_least

MOST_SIMULATED: Final = 12  # replicas; of more, this many are simulated with their share of the load
FILLINGS: Final = 12  # the simulated time, in times that a trajectory takes on a full replica
MOST_REQUESTS: Final = 20_000  # of one simulation
FULL: Final = 0.85  # of the rows that may be written on average, where no target says otherwise


def work_s(load: Load, rates: Rates) -> float:
    """Seconds of a full replica that a request takes."""
    written = load.k * load.mean_tokens + load.answer_tokens
    return written / rates.tokens_per_s + load.prompt_tokens / rates.prompt_tokens_per_s


def enough(load: Load, rates: Rates, delay_s: float) -> int:
    """The smallest number of replicas whose rows are at most `FULL`, and whose 95th percentile of the queueing delay is
    at most `delay_s`."""
    replicas = max(1, math.ceil(load.per_minute / 60 * work_s(load, rates) / FULL))
    while Outcome.quantile(simulated(load, rates, replicas).delay, 0.95) > delay_s:
        replicas += max(1, replicas // 20)
    return replicas


def simulated(load: Load, rates: Rates, replicas: int) -> Outcome:
    """Of a large fleet a part, with its share of the load: a little worse than the whole, which balances better."""
    part = min(replicas, MOST_SIMULATED)
    per_minute = load.per_minute * part / replicas
    # long enough that the time in which the replicas fill is a small part of it
    filling = load.mean_tokens * rates.step_s(rates.max_rows)
    requests = max(load.requests, min(math.ceil(FILLINGS * filling * per_minute / 60), MOST_REQUESTS))
    return simulate(replace(load, per_minute=per_minute, requests=requests), rates, part)


def plan(
    load: Load, rates: Rates, *, replicas: int | None = None, delay_s: float = 5.0, cost_per_hour: float | None = None
) -> dict[str, Any]:
    """All of it as plain values: what `reflective plan serve` prints. `cost_per_hour` is that of one replica."""
    if not (0 <= delay_s < math.inf):  # also false for NaN
        raise InputError(f"delay is {delay_s:g}; it must be 0 seconds or more.")
    check_least(1, replicas=replicas)
    check_least(0, cost_per_hour=cost_per_hour)
    count = enough(load, rates, delay_s) if replicas is None else replicas
    outcome = simulated(load, rates, count)
    answers_per_hour = 60 * load.per_minute
    hours = 1000 * count / answers_per_hour
    return {
        "replicas": count,
        "gpus": count * rates.gpus,
        "queueing_s": _quantiles(outcome.delay),
        "latency_s": _quantiles(outcome.latency),
        "busy": round(outcome.busy, 3),
        "rows_in_use": round(outcome.rows, 3),
        "per_1000_answers": {
            "replica_hours": round(hours, 4),
            "gpu_hours": round(hours * rates.gpus, 4),
            "cost": None if cost_per_hour is None else round(hours * cost_per_hour, 2),
        },
        "load": {
            "per_minute": load.per_minute,
            "effort": load.k,
            "tokens": round(load.mean_tokens, 1),
            "answer_tokens": load.answer_tokens,
            "prompt_tokens": load.prompt_tokens,
        },
        "rates": rates.to_json(),
    }


def _quantiles(values: tuple[float, ...]) -> dict[str, float]:
    return {"median": round(Outcome.quantile(values, 0.5), 3), "p95": round(Outcome.quantile(values, 0.95), 3)}
