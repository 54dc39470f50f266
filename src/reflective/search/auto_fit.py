"""All that effort auto needs of a judge, fitted on records: the schedule, and what its confidence is computed from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from reflective.judge.calibrate import Calibration, Sample, fit_calibration
from reflective.judge.judge import Judge
from reflective.judge.schedule import Schedule
from reflective.search.auto_effort import AutoEffort, leader_at_high
from reflective.search.certify import fit_schedule
from reflective.search.simulate import Trace, simulate
from reflective.search.weighted import Weighted


def fit_auto(
    judge: Judge,
    problems: Sequence[Sequence[Trace]],
    *,
    sampling: Mapping[str, float],
    risk: float | None = None,
    seed: int = 0,
    learnt: Sequence[Sequence[Trace]] = (),
    note: Callable[[str], None] = lambda line: None,
) -> tuple[Judge, Schedule]:
    """The judge with a schedule for as many trajectories as every problem has, and the schedule.

    `sampling` is how the trajectories were drawn; `learnt` are other problems to learn from. Raises `InputError` where
    nothing can be fitted (`fit_schedule`).
    """
    k = min((len(traces) for traces in problems), default=0)
    high = leader_at_high(judge.format.is_whole)
    schedule = fit_schedule(
        problems, k, high=high, risk=risk, head=judge.digest, sampling=sampling, seed=seed, learnt=learnt, note=note
    )
    calibration = _with_auto(judge.config.calibration or Calibration(), problems, schedule)
    return Judge(replace(judge.config, schedule=schedule, calibration=calibration), judge.head), schedule


def _with_auto(known: Calibration, problems: Sequence[Sequence[Trace]], schedule: Schedule) -> Calibration:
    """The calibration with effort auto's: what its evidence and its leader tell of being right.

    Where the weighted vote leads, its evidence is that of `Weighted`, whose coefficients are fitted on every k: from
    one k alone, whose shares seldom come near 1, a unanimous vote would be called certain.
    """
    strategy = AutoEffort(schedule)
    if schedule.leader == "vote" and Weighted.name in known.strategies:
        plain = {**known.strategies, strategy.name: known.strategies[Weighted.name]}
        informed = dict(known.informed)
        if Weighted.name in informed:
            informed[strategy.name] = informed[Weighted.name]
        return Calibration(plain, informed)
    samples = []
    for traces in problems:
        outcome = simulate(strategy, traces, schedule.k)
        choice = outcome.choice
        if choice.index is None or choice.evidence is None or outcome.right is None:
            continue
        best = traces[choice.index].whole
        ended = outcome.started - len(outcome.let_go)
        samples.append(
            Sample(strategy.name, choice.evidence, max(ended, 1), outcome.right, best.score, best.mean_logprob)
        )
    fitted = fit_calibration(samples)
    return Calibration({**known.strategies, **fitted.strategies}, {**known.informed, **fitted.informed})
