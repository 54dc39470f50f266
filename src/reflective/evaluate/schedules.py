"""Fit effort auto's schedule and its confidence on a run, and keep them with the head (`reflective calibrate`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reflective.errors import InputError
from reflective.evaluate.policies import problems_of
from reflective.judge.calibrate import Calibration, Sample, fit_calibration
from reflective.judge.config import SPRM_FOLDER
from reflective.judge.judge import Judge
from reflective.judge.schedule import NEUTRAL, Schedule
from reflective.records.manifest import Manifest, read_manifest
from reflective.search.auto_effort import AutoEffort
from reflective.search.certify import fit_schedule
from reflective.search.simulate import Trace, simulate


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What a fit came to, and where it was written ("" where it was not)."""

    schedule: Schedule
    folder: str


def calibrate_run(
    folders: Sequence[Path],
    *,
    model: str | None = None,
    head: str | None = None,
    risk: float | None = None,
    output: Path | None = None,
    seed: int = 0,
    note: Callable[[str], None] = lambda line: None,
) -> Calibrated:
    """Fit on the runs' records and write the schedule into the head's folder, or with the head into `output`.

    Raises `InputError` where the runs are of another head or differ among each other.
    """
    from reflective.models import save_judge
    from reflective.models.metadata import read_metadata

    manifests = [read_manifest(folder) for folder in folders]
    for other in manifests[1:]:
        for name, value in _drawn(manifests[0]).items():
            if _drawn(other)[name] != value:
                raise InputError(
                    f"the runs differ in {name}: {value!r} and {_drawn(other)[name]!r}. Fit on runs that were sampled "
                    "alike."
                )
    first = manifests[0]
    problems = [traces for folder in folders for traces in problems_of(folder)[1]]
    k = min((len(traces) for traces in problems), default=0)
    sampling = {name: float(first.settings[name]) for name in NEUTRAL if name in first.settings}
    found = read_metadata(model or first.model, head=head, require_head=False)
    judge = found.judge
    if first.head and first.head != judge.digest:
        raise InputError(f"the run was scored by another head than that of {model or first.model!r}.")
    schedule = fit_schedule(problems, k, risk=risk, head=judge.digest, sampling=sampling, seed=seed, note=note)
    calibration = with_auto(judge.config.calibration, problems, schedule)
    fitted = Judge(replace(judge.config, schedule=schedule, calibration=calibration), judge.head)
    place = output or found.head_folder or found.folder / SPRM_FOLDER
    if output is None and found.shipped:
        raise InputError("this head comes with the package; name a folder for it with its schedule: --output.")
    return Calibrated(schedule, str(save_judge(place, fitted)))


def _drawn(manifest: Manifest) -> dict[str, Any]:
    """What made a run's trajectories what they are."""
    settings = {name: manifest.settings.get(name) for name in (*NEUTRAL, "max_tokens", "answer_tokens")}
    return {"model": manifest.model, "head": manifest.head, **settings}


def with_auto(calibration: Calibration | None, problems: Sequence[Sequence[Trace]], schedule: Schedule) -> Calibration:
    """The calibration with effort auto's: what its vote's share and its leader tell of being right."""
    strategy = AutoEffort(schedule)
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
    known = calibration or Calibration()
    return Calibration({**known.strategies, **fitted.strategies}, {**known.informed, **fitted.informed})
