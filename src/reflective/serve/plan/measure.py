"""The rates of an engine that is here, measured on it: seconds of a step by rows, and how fast a prompt is read."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Final

from reflective.engines.base import Engine, Finished, Request, Sampling
from reflective.engines.driver import Driver
from reflective.errors import EngineError
from reflective.nano import EXAMPLES
from reflective.serve.plan.rates import Rates
from reflective.settings import check_least

SHORT, LONG = 8, 48  # tokens of the two timings whose difference is that of the steps alone
REPEATS: Final = 3  # of each timing; the median counts


def measured_rates(
    engine: Engine, prompts: Sequence[str] = tuple(EXAMPLES.values()), *, most_rows: int | None = None
) -> Rates:
    """The rates of an embedded engine, on prompts like those that are to be served.

    Rows that end early are left out of the count of written tokens, so use prompts whose trajectories are long.
    """
    encoded = [tuple(engine.encode_prompt(prompt)) for prompt in prompts]
    if not encoded:
        raise EngineError("no prompts were given, so nothing can be measured.")
    rows = engine.max_rows if most_rows is None else most_rows
    check_least(1, max_rows=rows)
    counts = sorted({min(2**i, rows) for i in range(rows.bit_length() + 1)})
    steps, reads = [], []
    for count in counts:
        short, long = ([_timed(engine, encoded, count, tokens) for _ in range(REPEATS)] for tokens in (SHORT, LONG))
        (short_s, short_n), (long_s, long_n) = (_median(timings) for timings in (short, long))
        step_s = max((long_s - short_s) / max((long_n - short_n) / count, 1.0), 1e-6)
        steps.append((count, step_s))
        reads.append(max(short_s - step_s * short_n / count, 1e-6))
    tokens = sum(map(len, encoded)) / len(encoded)
    return Rates(
        steps=tuple(steps),
        prompt_tokens_per_s=tokens / statistics.median(reads),
        max_rows=rows,
        source=f"measured on {engine.name}",
        measured=True,
    )


def _timed(engine: Engine, prompts: Sequence[tuple[int, ...]], rows: int, tokens: int) -> tuple[float, int]:
    """Seconds and written tokens of so many rows of one prompt, begun together."""
    prompt = prompts[rows % len(prompts)]
    written = 0
    began = time.perf_counter()
    with Driver.of(engine).client() as client:
        for seed in range(rows):
            client.submit(Request(prompt, Sampling(), seed=seed, max_tokens=tokens, index=seed))
        while client.in_flight:
            written += sum(event.trajectory.tokens for event in client.events() if isinstance(event, Finished))
        seconds = time.perf_counter() - began
    return seconds, written


def _median(timings: Sequence[tuple[float, int]]) -> tuple[float, int]:
    return statistics.median(s for s, _ in timings), round(statistics.median(n for _, n in timings))
