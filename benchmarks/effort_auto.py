"""Effort auto against effort high by the clock: nano on problems of its ten families, levels 1 and 2, 16 in flight.

    python benchmarks/effort_auto.py

One engine, the same problems on both sides, in alternating rounds; neither the model's load nor the first round counts.
Effort auto at risks of 1 and of 1.5 points. The engine's rows are full on both sides: `problems_in_flight` says how
many problems that takes on the average, `processor_s` what a round costs, and `tokens` what it writes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from common import Check, Result, Setting, alternate, median, parse, ratio, report, rounded, summary, timed

IN_FLIGHT = 16
RISKS = (0.01, 0.015)


def side(model: Any, problems: list[Any], **options: Any) -> Callable[[], Result]:
    """Solving all problems at an effort."""
    from reflective.search import solve_many
    from reflective.search.many import ROWS_IN_FLIGHT

    k, strategy, settings = model.plan(max_tokens=512, seed=1, **options)
    rows = IN_FLIGHT * k if strategy.begins(k) == k else ROWS_IN_FLIGHT

    def run() -> Result:
        solutions: list[Any] = []

        def work() -> None:
            found = solve_many(model.engine, problems, k, strategy=strategy, settings=settings, in_flight=rows)
            solutions.extend(solution for _, solution in found)

        spent = time.process_time()
        seconds = timed(work)
        return {
            "seconds": seconds,
            "processor_s": time.process_time() - spent,
            "tokens": sum(solution.usage.completion_tokens for solution in solutions),
            "problems_in_flight": sum(solution.timing.total_s for solution in solutions) / seconds,
        }

    return run


def main() -> int:
    setting: Setting = parse(__doc__)
    from reflective.api import Reflective
    from reflective.tasks import mixture

    model = Reflective.from_pretrained("nano", threads=setting.threads)
    problems = list(mixture("test", 4 if setting.quick else 80, (1, 2), seed=1))
    runs = {"high": side(model, problems, effort=4 if setting.quick else "high")}
    runs |= {f"auto, risk {risk:g}": side(model, problems, effort="auto", risk=risk) for risk in RISKS}
    results = alternate(runs, setting.repeats)
    sides = {
        name: summary(found)
        | {key: rounded(median(found, key)) for key in ("processor_s", "tokens", "problems_in_flight")}
        for name, found in results.items()
    }
    high, *autos = results.values()
    found = ratio(autos[0], high)
    report(
        "effort_auto",
        setting,
        {
            "sides": sides,
            "ratio_of": f"{list(results)[1]} / high",
            **found,
            "ratio_at_risk_0.015": ratio(autos[1], high),
        },
        [Check("auto at a risk of 1 point / high", found["ratio"], "<=", 0.45)],
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
