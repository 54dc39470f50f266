"""Own files: any rows, with a mapping that says which field holds the question, which the gold answer.

    load_problems("problems.jsonl", fields={"problem": "q", "answer": "reward_model.ground_truth.target.0"})

A field is named by its path: names and list places, joined by dots (a field whose name itself has dots is found, too).
Without a mapping the usual names are tried. Behind the question and the answer a row may have an id, a family, a kind
and metadata; the metadata of kind "code" may also stand in fields of their own (`mode`, `entry`, `tests`, `check`).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from reflective.errors import InputError
from reflective.tasks.benchmarks.base import SLOT, ask, reason_of
from reflective.tasks.benchmarks.gold import NoAnswer, check_texts, gold_answer, question_text
from reflective.tasks.benchmarks.rows import Row, json_value, read_rows
from reflective.types import Problem
from reflective.verify import GRADERS, WITHOUT_GOLD

FIELDS: Mapping[str, tuple[str, ...]] = {  # what is tried where the mapping says nothing
    "problem": ("problem", "question", "prompt", "text", "model_input", "query", "Problem", "Question", "messages"),
    "answer": ("answer", "final_answer", "gold", "target", "expected_answer", "Answer",
               "reward_model.ground_truth.target", "reward_model.ground_truth", "solution"),
    "id": ("id", "unique_id", "task_id", "ID"),
    "family": ("family", "subject", "sub", "type", "category", "data_source"),
    "kind": ("kind",),
    "metadata": ("metadata",),
}  # fmt: skip
CODE_FIELDS = ("mode", "entry", "tests", "check", "time_limit_s", "memory_bytes")
DEFAULT_KIND = "math"
_MISSING = object()


def own_problems(
    path: Path,
    *,
    fields: Mapping[str, str] | None = None,
    kind: str | None = None,
    prompt: str | None = None,
    needs_answer: bool = True,
) -> list[Problem]:
    """The problems of a file. `kind` is that of rows without one; a `prompt` goes around every question.

    With `needs_answer` False a row without an answer is a problem whose answer is None. Raises `InputError` naming the
    row and the field that is not as it should be.
    """
    mapping = dict(fields or {})
    for name in mapping:
        if name not in FIELDS:
            near = difflib.get_close_matches(name, FIELDS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise InputError(f"unknown field {name!r} in the mapping.{hint} Known: {', '.join(FIELDS)}.")
    name = Path(path.name.removesuffix(".gz")).stem
    rows = read_rows(path)
    gold = mapping.get("answer")
    if gold is not None and not needs_answer and all(at(row, gold) is _MISSING for row in rows):
        raise InputError(f"'{path}': no row has the answer {gold!r}; row 1 has {', '.join(map(str, rows[0]))}.")
    problems = []
    for index, row in enumerate(rows):
        try:
            problems.append(_problem(row, index, name, mapping, kind, prompt or SLOT, needs_answer))
        except (ValueError, TypeError, RecursionError) as error:
            raise InputError(f"'{path}', row {index + 1}: {reason_of(error)}") from error
    if len({problem.id for problem in problems}) < len(problems):  # ids that hold within a subject only
        return [replace(problem, id=f"{name}/{index}") for index, problem in enumerate(problems)]
    return problems


def _problem(
    row: Row,
    index: int,
    name: str,
    mapping: Mapping[str, str],
    default_kind: str | None,
    prompt: str,
    needs_answer: bool,
) -> Problem:
    text = question_text(_field(row, "problem", mapping, needed=True))
    kind = str(_field(row, "kind", mapping) or default_kind or DEFAULT_KIND)
    if kind not in GRADERS:
        raise ValueError(f"unknown kind {kind!r}. Known: {', '.join(GRADERS)}.")
    metadata = _field(row, "metadata", mapping)
    if isinstance(metadata, str) and metadata.lstrip().startswith("{"):
        metadata = json_value(metadata, "the metadata")
    code = {key: row[key] for key in CODE_FIELDS if key in row} if kind == "code" else {}
    stated_id = _field(row, "id", mapping)
    problem = Problem(
        text=ask(text, prompt),
        answer=_answer(row, mapping, kind, needs_answer),
        id=f"{name}/{index}" if stated_id is None else str(stated_id),
        family=str(_field(row, "family", mapping) or name),
        kind=kind,
        metadata={**(dict(metadata) if isinstance(metadata, Mapping) else {}), **code},
    )
    check_texts(problem.text, problem.answer, problem.id, problem.family, problem.metadata)
    return problem


def _answer(row: Row, mapping: Mapping[str, str], kind: str, needed: bool) -> str | None:
    value = _field(row, "answer", mapping, needed=needed and (kind not in WITHOUT_GOLD or "answer" in mapping))
    if value is None or kind in WITHOUT_GOLD:
        return None if value is None else str(value)
    try:
        return gold_answer(value)
    except NoAnswer:
        if needed:
            raise
        return None


def _field(row: Row, name: str, mapping: Mapping[str, str], *, needed: bool | None = None) -> Any:
    """The value of the mapped field, else of the first usual one that is there; None where it is not needed.

    `needed` None: where it is mapped.
    """
    paths = (mapping[name],) if name in mapping else FIELDS[name]
    for path in paths:
        value = at(row, path)
        if value is not _MISSING and value not in (None, "", []):
            return value
    if name in mapping if needed is None else needed:
        raise ValueError(f"no {name} (looked for {', '.join(paths)}; the row has {', '.join(map(str, row))})")
    return None


def at(row: Any, path: str) -> Any:
    """The value at a path such as "reward_model.ground_truth.target.0"; a sentinel where there is none."""
    if isinstance(row, Mapping) and path in row:
        return row[path]
    head, _, rest = path.partition(".")
    if isinstance(row, Mapping) and head in row:
        inner = row[head]
    elif isinstance(row, Sequence) and not isinstance(row, str) and head.isdecimal() and int(head) < len(row):
        inner = row[int(head)]
    else:
        return _MISSING
    return at(inner, rest) if rest else inner
