"""Rows of a file: JSON lines, JSON, CSV, TSV or parquet, the first four also gzipped.

A row is a mapping of field names to plain values. What is read is data: nothing is unpickled or executed. Parquet needs
the package pyarrow (extra `eval`), which is imported when the first parquet file is read.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from reflective.errors import DependencyError, InputError

Row = Mapping[str, Any]

KNOWN = ".jsonl, .ndjson, .json, .csv, .tsv (each also with .gz), .parquet"


def read_rows(path: Path) -> list[Row]:
    """The rows of a file, by its ending. Raises `InputError` naming the file and the line that can't be read."""
    endings = [ending.lower() for ending in path.suffixes]
    packed = bool(endings) and endings[-1] == ".gz"
    ending = (endings[:-1] if packed else endings)[-1:] or [""]
    if ending[0] == ".parquet" and not packed:
        return _rows_of(_parquet(path), path)
    reader = _READERS.get(ending[0])
    if reader is None:
        raise InputError(f"'{path}' has an ending that is not known. Known: {KNOWN}.")
    return _rows_of(reader(_text(path, packed), path), path)


def json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """The values of JSON lines under any name, each behind its place ("file:line"). Raises `InputError` naming it."""
    return _placed(_text(path, packed=False), path)


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


def _text(path: Path, packed: bool) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if packed else data).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise InputError(f"can't read '{path}': {error}.") from error


def _rows_of(values: list[Any], path: Path) -> list[Row]:
    for number, value in enumerate(values, 1):
        if not isinstance(value, Mapping):
            raise InputError(f"'{path}', row {number}: an object is expected, got {type(value).__name__}.")
    if not values:
        raise InputError(f"'{path}' holds no row.")
    return values


def _jsonl(text: str, path: Path) -> list[Any]:
    return [value for _, value in _placed(text, path)]


def _placed(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: U+2028 may stand inside a JSON string
        if line.strip():
            where = f"{path}:{number}"
            yield where, json_value(line, where)


def _json(text: str, path: Path) -> list[Any]:
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
        return lists[0] if len(lists) == 1 else [value]
    if not isinstance(value, list):
        raise InputError(f"'{path}': a JSON list of objects is expected, got {type(value).__name__}.")
    return value


def _csv(text: str, path: Path) -> list[Any]:
    return _separated(text, path, ",")


def _tsv(text: str, path: Path) -> list[Any]:
    return _separated(text, path, "\t")


def _separated(text: str, path: Path, delimiter: str) -> list[Any]:
    limit = csv.field_size_limit(max(len(text), csv.field_size_limit()))  # a worked solution may be long
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise InputError(f"can't read '{path}': {error}.") from error
    finally:
        csv.field_size_limit(limit)
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values():
            raise InputError(f"'{path}', row {number} has another number of fields than the header.")
    return rows


def _parquet(path: Path) -> list[Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DependencyError(
            f"'{path}' is a parquet file, which needs pyarrow. Install it with: pip install \"reflective[eval]\""
        ) from error
    try:
        rows: list[Any] = pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, ValueError, OverflowError, pyarrow.ArrowException) as error:
        raise InputError(f"can't read '{path}': {error}.") from error
    return rows


_READERS: Mapping[str, Callable[[str, Path], list[Any]]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
}
