"""Rows of a file: JSON lines, JSON, CSV, TSV or parquet, the first four also gzipped.

A row is a mapping of field names to plain values. What is read is data: nothing is unpickled or executed. Texts are
UTF-8, or UTF-16 with a byte-order mark. Parquet needs the package pyarrow (extra `eval`), which is imported when the
first parquet file is read.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from reflective.errors import DependencyError, InputError, first_line

Row = Mapping[str, Any]
Value = tuple[int | None, Any]  # the number of its last line, where it has one, and a row, or the error in its place

KNOWN: Final = ".jsonl, .ndjson, .json, .csv, .tsv (each also with .gz), .parquet"
GZIP_MAGIC: Final = b"\x1f\x8b"
UTF16_MARKS: Final = (b"\xff\xfe", b"\xfe\xff")
MAX_FIELD: Final = 2**31 - 1  # characters of a CSV field: Python's own limit is 131,072


@dataclass(frozen=True, slots=True)
class Entry:
    """A row and its place, such as "'p.csv', line 3, row 2"; where it can't be read, what is wrong instead."""

    place: str
    row: Row | None
    fault: str = ""


def read_entries(path: Path) -> list[Entry]:
    """What a file holds, row by row. Raises `InputError` where the file as a whole can't be read."""
    if path.is_dir():
        raise InputError(f"'{path}' is a folder; name a file in it.")
    if not path.exists():
        raise InputError(f"can't read '{path}': No such file or directory.")
    endings = [ending.lower() for ending in path.suffixes]
    ending = (endings[:-1] if endings[-1:] == [".gz"] else endings)[-1:] or [""]
    if endings[-1:] == [".parquet"]:
        return _entries(((None, row) for row in _parquet(path)), path)
    reader = _READERS.get(ending[0])
    if reader is None:
        raise InputError(f"'{path}' has an ending that is not known. Known: {KNOWN}.")
    return _entries(reader(_text(path), path), path)


def read_rows(path: Path) -> list[Row]:
    """The rows of a file. Raises `InputError` naming the first that can't be read."""
    rows = []
    for entry in read_entries(path):
        if entry.row is None:
            raise InputError(entry.fault)
        rows.append(entry.row)
    return rows


def json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """The values of JSON lines under any name, each behind its place ("file:line"). Raises `InputError` naming it."""
    for number, value in _jsonl(_text(path), path):
        if isinstance(value, InputError):
            raise value
        yield f"{path}:{number}", value


def json_value(text: str, where: str) -> Any:
    """The value of a JSON text. Raises `InputError` that begins with `where` and says what is wrong."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where} is not JSON: {error}.") from error
    except RecursionError as error:
        raise InputError(f"{where} is nested too deeply to be read.") from error
    except ValueError as error:
        raise InputError(f"{where} has a number of more than {sys.get_int_max_str_digits():,} digits.") from error


def _entries(values: Iterable[Value], path: Path) -> list[Entry]:
    found = []
    for number, (line, value) in enumerate(values, 1):
        place = f"'{path}', row {number}" if line in (None, number) else f"'{path}', line {line}, row {number}"
        if isinstance(value, Mapping):
            found.append(Entry(place, value))
        elif isinstance(value, InputError):
            found.append(Entry(place, None, str(value).replace("ROW", place, 1)))
        else:
            found.append(Entry(place, None, f"{place}: an object is expected, got {type(value).__name__}."))
    if not found:
        raise InputError(f"'{path}' holds no row.")
    return found


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        if data.startswith(GZIP_MAGIC) or path.suffix.lower() == ".gz":
            data = gzip.decompress(data)
        return data.decode("utf-16" if data.startswith(UTF16_MARKS) else "utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise InputError(f"can't read '{path}': {first_line(error)}.") from error


def _jsonl(text: str, path: Path) -> Iterator[Value]:
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: U+2028 may stand inside a JSON string
        if line.strip():
            try:
                yield number, json_value(line, f"{path}:{number}")
            except InputError as error:
                yield number, error


def _json(text: str, path: Path) -> Iterator[Value]:
    """A list; an object with one list in it; or JSON lines under another name."""
    try:
        value = json_value(text, f"'{path}'")
    except InputError as error:
        first = text.lstrip().partition("\n")[0].strip()
        if isinstance(error.__cause__, json.JSONDecodeError) and first.endswith("}"):
            return _jsonl(text, path)
        raise
    if isinstance(value, dict):
        lists = [item for item in value.values() if isinstance(item, list)]
        value = lists[0] if len(lists) == 1 else [value]
    if not isinstance(value, list):
        raise InputError(f"'{path}': a JSON list of objects is expected, got {type(value).__name__}.")
    return ((None, item) for item in value)


def _csv(text: str, path: Path) -> Iterator[Value]:
    return iter(_separated(text, path, ","))


def _tsv(text: str, path: Path) -> Iterator[Value]:
    return iter(_separated(text, path, "\t"))


def _separated(text: str, path: Path, delimiter: str) -> list[Value]:
    found: list[Value] = []
    limit = csv.field_size_limit(MAX_FIELD)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                found.append((reader.line_num, InputError("ROW has another number of fields than the header.")))
            else:
                found.append((reader.line_num, row))
    except csv.Error as error:
        raise InputError(f"can't read '{path}', line {reader.line_num}: {error}.") from error
    finally:
        csv.field_size_limit(limit)
    return found


def _parquet(path: Path) -> list[Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DependencyError(
            f"'{path}' is a parquet file, which needs pyarrow. Install it in the checkout: pip install \".[eval]\""
        ) from error
    try:
        rows: list[Any] = pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, ValueError, OverflowError, pyarrow.ArrowException) as error:
        raise InputError(f"can't read '{path}': {first_line(error)}.") from error
    return rows


_READERS: Mapping[str, Callable[[str, Path], Iterator[Value]]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
}
