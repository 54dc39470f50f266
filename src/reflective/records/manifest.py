"""A run folder: `manifest.json` says what was asked of which model, `records.jsonl` what came of it.

A run goes on only under the manifest that it began with: a folder never holds answers of two models or two settings.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from reflective.errors import InputError, ReflectiveError
from reflective.files import disk_errors, write_text
from reflective.types import Problem

MANIFEST, RECORDS = "manifest.json", "records.jsonl"
VERSION = 1
PACKAGES = ("reflective", "torch", "transformers", "vllm", "math-verify", "reasoning-gym")  # what verdicts depend on


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a run is. `problems` counts those of the whole benchmark, `digest` is a hash over them.

    `shard` is (i, n): this folder has every n-th problem, from the i-th on. `benchmark` and `settings` are what was
    asked for; `history` tells what was done to the records afterwards (merged, graded again). `head` is the digest of
    the head's weights, where that is known.
    """

    benchmark: Mapping[str, Any]
    model: str
    strategy: str
    effort: int
    seed: int
    settings: Mapping[str, Any]
    problems: int
    digest: str
    shard: tuple[int, int] = (1, 1)
    versions: Mapping[str, str] = field(default_factory=dict)
    history: tuple[str, ...] = ()
    head: str = ""

    @property
    def name(self) -> str:
        """The benchmark, as the user named it."""
        return str(self.benchmark.get("name", "benchmark"))

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {"version": VERSION, **asdict(replace(self, benchmark=dict(self.benchmark)))}

    @classmethod
    def from_json(cls, data: Any, where: str) -> Manifest:
        """From `to_json`'s object. Raises `InputError` where it is something else."""
        if not isinstance(data, Mapping) or data.get("version") != VERSION:
            raise InputError(f"{where} is no manifest of version {VERSION}. Name a folder that reflective eval wrote.")
        known = {f.name for f in fields(cls)}
        try:
            given = {name: value for name, value in data.items() if name in known}
            first, count = given["shard"]
            return cls(**{**given, "shard": (int(first), int(count)), "history": tuple(given.get("history", ()))})
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{where} is damaged: {type(error).__name__} {error}.") from error

    def difference(self, other: Manifest, *, but: Iterable[str] = ()) -> str:
        """The first thing in which two manifests differ, in words; nothing where they are the same."""
        for f in fields(self):
            if f.name in but:
                continue
            mine, theirs = _plain(getattr(self, f.name)), _plain(getattr(other, f.name))
            if mine != theirs:
                if isinstance(mine, dict) and isinstance(theirs, dict):
                    key = next(k for k in {**mine, **theirs} if mine.get(k) != theirs.get(k))
                    return f"{f.name} {key} {theirs.get(key)!r} instead of {mine.get(key)!r}"
                return f"{f.name} {theirs!r} instead of {mine!r}"
        return ""


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """The manifest of a run folder. Raises `InputError` where there is none."""
    path = Path(folder) / MANIFEST
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"'{folder}' is no run folder: no {MANIFEST} in it ({error.strerror}).") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}.") from error
    return Manifest.from_json(data, str(path))


def claim(folder: Path, manifest: Manifest) -> None:
    """Begin a run in a folder, or go on with the same one. Raises `InputError` where the folder holds another."""
    path = folder / MANIFEST
    if path.exists():
        there = read_manifest(folder)
        changed = there.difference(manifest, but=() if there.head else ("head",))
        if changed:
            raise InputError(f"'{folder}' holds a run with other settings: {changed}. Name another --output.")
        return
    if (folder / RECORDS).exists():
        raise InputError(f"'{folder}' holds records without a manifest. Name another --output.")
    write_manifest(folder, manifest)


def write_manifest(folder: Path, manifest: Manifest, kind: type[ReflectiveError] = InputError) -> None:
    """Whole or not at all; what the disk says becomes an error of that kind."""
    text = json.dumps(manifest.to_json(), ensure_ascii=False, indent=2, default=str) + "\n"
    with disk_errors(folder / MANIFEST, kind):
        write_text(folder / MANIFEST, text)


def digest_of(problems: Iterable[Problem]) -> str:
    """A hash over the problems: their texts, gold answers and graders."""
    digest = hashlib.sha256()
    for p in problems:
        row = [p.id, p.text, p.answer, p.kind, dict(p.metadata), *([list(p.messages)] if p.messages else [])]
        digest.update(json.dumps(row, default=str, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Of Python and of those packages that are there."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _plain(value: Any) -> Any:
    """As it comes back from JSON."""
    return json.loads(json.dumps(dict(value) if isinstance(value, Mapping) else value, default=str))
