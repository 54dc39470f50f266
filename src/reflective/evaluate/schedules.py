"""Fit effort auto's schedule and its confidence on a run, and keep them with the head (`reflective calibrate`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from reflective.errors import InputError
from reflective.evaluate.policies import model_of_run, problems_of
from reflective.judge.config import SPRM_FOLDER
from reflective.judge.schedule import NEUTRAL, Schedule
from reflective.records import Record
from reflective.records.manifest import Manifest, read_manifest
from reflective.search.auto_fit import fit_auto

PACKAGE: Final = Path(__file__).resolve().parents[1]  # its own heads stay as they came


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
    learn: Sequence[Path] = (),
    note: Callable[[str], None] = lambda line: None,
) -> Calibrated:
    """Fit on the runs' records and write the schedule into the head's folder, or with the head into `output`.

    With `learn`, runs of other problems, the schedule is learnt from those, and all problems of `folders` test it.
    Raises `InputError` where the runs are of another head or differ among each other.
    """
    from reflective.models import save_judge

    manifests = [read_manifest(folder) for folder in (*folders, *learn)]
    for other in manifests[1:]:
        for name, value in _origin(manifests[0]).items():
            if _origin(other)[name] != value:
                raise InputError(
                    f"the runs differ in {name}: {value!r} and {_origin(other)[name]!r}. Fit on runs that were sampled "
                    "alike."
                )
    first = manifests[0]
    played = [problems_of(folder) for folder in (*folders, *learn)]
    _check_distinct([record for records, _ in played for record in records])
    problems, learnt = (
        [traces for _, of_run in part for traces in of_run] for part in (played[: len(folders)], played[len(folders) :])
    )
    sampling = {name: float(first.settings[name]) for name in NEUTRAL if name in first.settings}
    found = model_of_run(model or first.model, first.head, head=head)
    judge = found.judge
    if first.head and first.head != judge.digest:
        raise InputError(f"the run was scored by another head than that of {model or first.model!r}.")
    place = output or found.head_folder or found.folder / SPRM_FOLDER
    if output is None and PACKAGE in place.resolve().parents:
        raise InputError("this head comes with the package; name a folder for it with its schedule: --output.")
    fitted, schedule = fit_auto(judge, problems, sampling=sampling, risk=risk, seed=seed, learnt=learnt, note=note)
    return Calibrated(schedule, str(save_judge(place, fitted)))


def _check_distinct(records: Sequence[Record]) -> None:
    """A certificate counts problems, each of which must be a draw of its own."""
    twice = len(records) - len({(record.key, record.problem.text) for record in records})
    if twice:
        raise InputError(
            f"{twice:,} problems are in several of the runs, and a certificate counts each problem once. Name each run "
            "once, and runs of different problems."
        )


def _origin(manifest: Manifest) -> dict[str, Any]:
    """What made a run's trajectories what they are."""
    settings = {name: manifest.settings.get(name) for name in (*NEUTRAL, "max_tokens", "answer_tokens")}
    return {"model": manifest.model, "head": manifest.head, **settings}
