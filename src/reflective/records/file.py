"""Files of records: one JSON line each, in a file that is only ever appended to.

Promises: a line is complete or absent. A process may be killed at any moment; the line that was being written is
dropped when the file is read or resumed, and a note says so. A disk that runs full leaves the file as it was before
the line. Two writers of the same file are refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from reflective.errors import InputError, ReflectiveError
from reflective.files import lock
from reflective.records.record import Record, key_of
from reflective.types import Problem

MEND: Final = "Remove the line; the command that wrote it then solves its problem again."


def read_records(path: str | os.PathLike[str], notes: list[str] | None = None) -> Iterator[Record]:
    """The records of a file, in order. A truncated last line is skipped, with a remark in `notes`.

    Raises `InputError` with the line number for a line that is no record, or the second one of a problem.
    """
    lines: dict[str, int] = {}  # of each key
    with _open_binary(path) as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                if notes is not None:
                    notes.append(_cut_off(path, number))
                return
            if line.strip():
                try:
                    record = Record.from_json(json.loads(line, parse_constant=_refuse_constant))
                except (ValueError, RecursionError) as error:
                    reason = str(error) if isinstance(error, InputError) else f"not JSON ({error}). {MEND}"
                    raise InputError(f"{os.fspath(path)}:{number}: {reason}") from error
                if (first := lines.setdefault(record.key, number)) != number:
                    raise InputError(
                        f"{os.fspath(path)}:{number}: several records are of the same problem: line {first} holds "
                        f"{record.key!r:.60}, too. Remove one of the lines."
                    )
                yield record


def with_own_keys(problems: Sequence[Problem]) -> list[Problem]:
    """The problems, where several have the same id (or none and the same text) numbered apart."""
    seen: dict[str, int] = {}
    apart = []
    for problem in problems:
        key = key_of(problem)
        seen[key] = seen.get(key, 0) + 1
        apart.append(problem if seen[key] == 1 else replace(problem, id=f"{key}#{seen[key]}"))
    return apart


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"it holds {name}")


def _open_binary(path: str | os.PathLike[str]) -> Any:
    try:
        return open(path, "rb")
    except OSError as error:
        raise InputError(f"{os.fspath(path)}: {error.strerror or error}.") from error


def _cut_off(path: str | os.PathLike[str], number: int) -> str:
    return f"{os.fspath(path)}:{number}: the last line was cut off and is left out"


class RecordWriter:
    """Appends records to a file, a line each.

    With `resume` an existing file is read first: `done` holds the keys that are there, a last line that was cut off is
    removed (see `notes`). Without it, a file that holds something is refused. `sync` waits for the disk after each
    line, which survives a power cut, too.
    """

    def __init__(self, path: str | os.PathLike[str], *, resume: bool = True, sync: bool = False) -> None:
        self.path = Path(path)
        self.notes: list[str] = []
        self.done: set[str] = set()
        self._sync = sync
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise InputError(f"can't write records to {self.path}: {error.strerror or error}.") from error
        try:
            lock(self._file, self.path)
            if os.fstat(self._file).st_size and not resume:
                raise InputError(f"{self.path} already holds records. Resume it, or name another file.")
            self._recover()
        except BaseException:
            self.close()
            raise

    def write(self, record: Record) -> None:
        """Append one record. When that fails, the file stays as it was."""
        line = (
            json.dumps(record.to_json(), ensure_ascii=False, allow_nan=False, default=str, separators=(",", ":")) + "\n"
        )
        data = memoryview(line.encode("utf-8", "backslashreplace"))
        size = os.fstat(self._file).st_size
        try:
            while data:
                data = data[os.write(self._file, data) :]
            if self._sync:
                os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, size)
            raise ReflectiveError(
                f"can't write to {self.path}: {error.strerror or error}. The {len(self.done)} records in it are whole."
            ) from error
        self.done.add(record.key)

    def close(self) -> None:
        """Release the file. Closing twice is fine."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _recover(self) -> None:
        """Learn what is done, and cut a last line that was not completed."""
        good = 0
        with open(self.path, "rb") as file:
            for line in file:
                good += len(line) if line.endswith(b"\n") else 0
        self.done = {record.key for record in read_records(self.path, self.notes)}
        if good < os.fstat(self._file).st_size:
            os.ftruncate(self._file, good)
