"""What is done to records afterwards, without generating: shards merged into one run, answers graded again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from reflective.errors import InputError
from reflective.grading import Grade, regraded
from reflective.records import Record, RecordWriter, read_records
from reflective.records.manifest import MANIFEST, RECORDS, Manifest, read_manifest, write_manifest
from reflective.verify import grade as grade_answer


def merge(folders: Sequence[Path], out: Path) -> tuple[int, int]:
    """Join the shards of one run in a new folder; how many problems there are, and how many there should be.

    Raises `InputError` where the folders are not shards of the same run, or a problem is in two of them.
    """
    if not folders:
        raise InputError("nothing to merge. Name the run folders of the shards.")
    manifests = [read_manifest(folder) for folder in folders]
    for folder, manifest in zip(folders[1:], manifests[1:], strict=True):
        changed = manifests[0].difference(manifest, but=("shard", "history"))
        if changed:
            raise InputError(f"'{folder}' is of another run than '{folders[0]}': {changed}.")
    count = 0
    home: dict[str, int] = {}
    for i, folder in enumerate(folders):
        for record in read_records(folder / RECORDS):
            if record.key in home:
                twin = folders[home[record.key]]
                raise InputError(f"'{folder}' and '{twin}' both hold the problem {record.key[:60]!r}.")
            home[record.key] = i
            count += 1
    joined = replace(manifests[0], shard=(1, 1), history=(*manifests[0].history, f"merged from {len(folders)} folders"))
    _begin(out, joined)
    with RecordWriter(out / RECORDS, resume=False) as writer:
        for folder in folders:
            for record in read_records(folder / RECORDS):
                writer.write(record)
    return count, joined.problems


def regrade(
    folder: Path, out: Path, *, kind: str | None = None, extract: bool = False, grade: Grade = grade_answer
) -> tuple[int, int]:
    """Grade all answers of a run again, into a new folder; how many trajectories there are and whose verdict changed.

    `kind` names another grader for all problems; `extract` also looks for the final answers again.
    """
    manifest = read_manifest(folder)
    how = f"graded again{f' as {kind}' if kind else ''}{', answers extracted again' if extract else ''}"
    _begin(out, replace(manifest, history=(*manifest.history, how)))
    count = changed = 0
    with RecordWriter(out / RECORDS, resume=False) as writer:
        for old in _of_kind(read_records(folder / RECORDS), kind):
            new = regraded(old, grade=grade, extract=extract)
            writer.write(new)
            count += len(new.trajectories)
            pairs = zip(old.trajectories, new.trajectories, strict=True)
            changed += sum((a.verdict and a.verdict.kind) != (b.verdict and b.verdict.kind) for a, b in pairs)
    return count, changed


def _of_kind(records: Iterator[Record], kind: str | None) -> Iterator[Record]:
    for record in records:
        yield record if kind is None else replace(record, problem=replace(record.problem, kind=kind))


def _begin(out: Path, manifest: Manifest) -> None:
    if (out / MANIFEST).exists() or (out / RECORDS).exists():
        raise InputError(f"'{out}' already holds a run. Name another --output.")
    write_manifest(out, manifest)
