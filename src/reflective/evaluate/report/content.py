"""What a report is about: runs with their tables and summaries, and the tests between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reflective.errors import InputError
from reflective.evaluate.paired import Comparison, common, compare
from reflective.evaluate.summary import Summary, accuracy_by_problem, summarise
from reflective.evaluate.table import Table
from reflective.grading import grader_version
from reflective.records import read_records
from reflective.records.manifest import MANIFEST, RECORDS, Manifest, read_manifest

TESTED = ("chosen", "single", "best_of_n", "majority", "weighted", "oracle")
"""What two runs are compared by: the answers that each gave, and each strategy at the largest k that both have."""


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """A run folder, read once. The trajectories' texts stay on the disk."""

    name: str
    folder: Path
    manifest: Manifest
    table: Table
    summary: Summary
    notes: tuple[str, ...] = ()


def read_runs(folders: Sequence[Path], *, seed: int = 0) -> list[Run]:
    """Read and summarise runs. Raises `InputError` where a folder is no run or holds no record.

    A folder that is no run stands for the runs in it, such as those that `train head` sampled.
    """
    folders = [run for folder in folders for run in _runs_in(folder)]
    names = _names(folders)
    runs = []
    for folder, name in zip(folders, names, strict=True):
        manifest, notes = read_manifest(folder), list[str]()
        table = Table.of(read_records(folder / RECORDS, notes))
        if not table.problems:
            raise InputError(f"'{folder}' holds no record yet. Let reflective eval solve a problem first.")
        i, n = manifest.shard
        expected = len(range(i - 1, manifest.problems, n))
        if table.problems < expected:
            notes.append(f"{table.problems:,} of {expected:,} problems are there; the run is unfinished")
        if not table.finished.any():
            allowed = manifest.settings.get("max_tokens") or "the default"
            notes.append(f"no response was finished within max_tokens ({allowed}), so there is no answer; allow more")
        if not table.complete:
            notes.append("only chosen answers were written, so strategies can't be compared; see eval --answers")
        if (table.scores["score"] < 0).any():
            notes.append("some scores are negative, so they can't weigh votes; there is no weighted vote")
        graders = {g for g in table.graders if g} - {grader_version()}
        if graders:
            notes.append(
                f"verdicts are of graders of version {', '.join(sorted(graders))}, and this release has "
                f"{grader_version()}; reflective eval regrade gives new ones"
            )
        runs.append(Run(name, folder, manifest, table, summarise(table, seed=seed), tuple(notes)))
    return runs


def _runs_in(folder: Path) -> list[Path]:
    """The folder itself, or where it is no run those one or two levels below it that are."""
    if (folder / MANIFEST).exists():
        return [folder]
    below = sorted({path.parent for depth in ("*", "*/*") for path in folder.glob(f"{depth}/{MANIFEST}")})
    return below or [folder]


def paired_tests(a: Run, b: Run, *, seed: int = 0) -> dict[str, Comparison]:
    """A minus B on the problems that both have: the chosen answers, and each strategy at the k that both have."""
    ours, theirs = common(a.table, b.table)
    tests = {"chosen": compare(ours.chosen_right, theirs.chosen_right, seed=seed)}
    k = min(ours.budget, theirs.budget)
    if k and ours.complete and theirs.complete:
        left, right = (accuracy_by_problem(t, [1, k], seed=seed) for t in (ours, theirs))
        tests["single"] = compare(left["oracle"][:, 0], right["oracle"][:, 0], seed=seed)
        for name in TESTED:
            if name in left and name in right:
                tests[name] = compare(left[name][:, -1], right[name][:, -1], seed=seed)
    return tests


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' own names, with as many of the folders above as it takes to tell them apart."""
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise InputError("the same run is named twice.")
    for depth in range(1, 20):
        names = ["/".join(folder.resolve().parts[-depth:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    return [str(folder.resolve()) for folder in folders]
