"""Problem files: any rows, with a mapping that says which field holds the question, which the gold answer.

    read_problems([Path("problems.jsonl")], fields={"problem": "q", "answer": "reward_model.ground_truth.target.0"})

A field is named by its path: names and list places, joined by dots (a field whose name itself has dots is found, too).
Without a mapping the usual names are tried, in lower or upper case. Beside the question and the answer a row may have
an id, a family, a kind and metadata; the metadata of kind "code" may also stand in fields of their own (`mode`,
`entry`, `tests`, `check`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from reflective.errors import InputError
from reflective.settings import check_names
from reflective.tasks.files.gold import (
    NoAnswer,
    check_depth,
    check_texts,
    earlier_messages,
    gold_answer,
    question_text,
    stated_result,
)
from reflective.tasks.files.rows import Entry, Row, json_value, read_entries
from reflective.tasks.prompts import SLOT, ask, check_prompt
from reflective.types import Problem
from reflective.verify import GRADERS, WITHOUT_GOLD

FIELDS: Final[Mapping[str, tuple[str, ...]]] = {  # what is tried where the mapping says nothing
    "problem": ("problem", "question", "prompt", "text", "model_input", "query", "input", "instruction", "messages"),
    "answer": ("answer", "final_answer", "gold", "gold_answer", "target", "expected_answer", "correct_answer",
               "reference_answer", "reward_model.ground_truth.target", "reward_model.ground_truth", "ground_truth",
               "label", "solution", "reference_solution"),
    "id": ("id", "unique_id", "task_id"),
    "family": ("family", "subject", "sub", "type", "category", "data_source"),
    "kind": ("kind",),
    "metadata": ("metadata",),
}  # fmt: skip
SYNONYMS: Final = {"question": "problem"}  # for names in a mapping
CODE_FIELDS: Final = ("mode", "entry", "tests", "check", "time_limit_s", "memory_bytes")
DEFAULT_KIND: Final = "math"
_MISSING: Final = object()


def read_problems(
    paths: Sequence[Path],
    *,
    fields: Mapping[str, str] | None = None,
    kind: str | None = None,
    prompt: str | None = None,
    needs_answer: bool = True,
    skipped: list[str] | None = None,
    name: str | None = None,
) -> list[Problem]:
    """The problems of one or several files. `kind` is that of rows without one; a `prompt` goes around every question.

    With `needs_answer` False a row without an answer is a problem whose answer is None. `name` (the first file's) is
    the family of rows without one and begins their ids. Raises `InputError` naming the row and the field that is not
    as it should be; with a list `skipped` such rows are left out and told there.
    """
    mapping = {SYNONYMS.get(ours, ours): theirs for ours, theirs in (fields or {}).items()}
    check_names(mapping, FIELDS, "field")
    if kind is not None:
        check_names([kind], GRADERS, "kind")
    prompt = check_prompt(prompt or SLOT)
    name = name or Path(paths[0].name.removesuffix(".gz")).stem
    entries = [entry for path in paths for entry in read_entries(path)]
    rows = [entry.row for entry in entries if entry.row is not None]
    gold = mapping.get("answer")
    if rows and gold is not None and not needs_answer and all(value_at(row, gold) is _MISSING for row in rows):
        raise InputError(f"'{paths[0]}': no row has the answer {gold!r}; row 1 has {', '.join(map(str, rows[0]))}.")

    def read(row: Row, index: int) -> Problem:
        return _problem(row, index, name, mapping, kind, prompt, needs_answer)

    problems = problems_of(entries, read, skipped)
    if len({problem.id for problem in problems}) < len(problems):  # ids that hold within a subject only
        return [replace(problem, id=f"{name}/{index}") for index, problem in enumerate(problems)]
    return problems


def problems_of(
    entries: Sequence[Entry], read: Callable[[Row, int], Problem | None], skipped: list[str] | None, what: str = ""
) -> list[Problem]:
    """What `read` makes of each row and its index; nothing of rows for which it returns None.

    Raises `InputError` for a row that can't be read, with its place and `what` it should be; with a list `skipped` such
    rows are left out and told there, and only a file without any other is refused.
    """
    found: list[Problem] = []
    faults: list[str] = []
    if skipped is None and (unreadable := next((entry for entry in entries if entry.row is None), None)):
        raise InputError(unreadable.fault)
    for index, entry in enumerate(entries):
        fault = entry.fault
        if entry.row is not None:
            try:
                check_depth(entry.row)
                problem = read(entry.row, index)
                if problem is not None:
                    texts = (problem.text, problem.answer, problem.id, problem.family, problem.metadata)
                    check_texts(*texts, problem.messages)
                    found.append(problem)
                continue
            except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
                fault = f"{entry.place}{what}: {_reason(error)}"
        if skipped is None:
            raise InputError(fault)
        faults.append(fault)
    if faults and not found:
        raise InputError(f"no row can be used, of {len(faults):,}. The first: {faults[0]}")
    if skipped is not None:
        skipped += faults
    return found


def value_at(row: Any, path: str) -> Any:
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
    return value_at(inner, rest) if rest else inner


def _problem(
    row: Row,
    index: int,
    name: str,
    mapping: Mapping[str, str],
    default_kind: str | None,
    prompt: str,
    needs_answer: bool,
) -> Problem:
    question = _field(row, "problem", mapping, needed=True)
    text, earlier = ask(question_text(question), prompt), earlier_messages(question)
    kind = str(_field(row, "kind", mapping) or default_kind or DEFAULT_KIND)
    if kind not in GRADERS:
        raise ValueError(f"unknown kind {kind!r}. Known: {', '.join(GRADERS)}.")
    metadata = _field(row, "metadata", mapping)
    if isinstance(metadata, str) and metadata.lstrip().startswith("{"):
        metadata = json_value(metadata, "the metadata")
    code = {key: row[key] for key in CODE_FIELDS if key in row} if kind == "code" else {}
    stated_id = _field(row, "id", mapping)
    return Problem(
        text=text,
        answer=_answer(row, mapping, kind, needs_answer),
        id=f"{name}/{index}" if stated_id is None else str(stated_id),
        family=str(_field(row, "family", mapping) or name),
        kind=kind,
        metadata={**(dict(metadata) if isinstance(metadata, Mapping) else {}), **code},
        messages=(*earlier, {"role": "user", "content": text}) if earlier else (),
    )


def _answer(row: Row, mapping: Mapping[str, str], kind: str, needed: bool) -> str | None:
    value = _field(row, "answer", mapping, needed=needed and (kind not in WITHOUT_GOLD or "answer" in mapping))
    if value is None or kind in WITHOUT_GOLD:
        return None if value is None else str(value)
    try:
        answer = gold_answer(value)
    except NoAnswer:
        if needed:
            raise
        return None
    return stated_result(answer) if kind == DEFAULT_KIND else answer


def _field(row: Row, name: str, mapping: Mapping[str, str], *, needed: bool | None = None) -> Any:
    """The value of the mapped field, else of the first usual one that is there; None where it is not needed.

    `needed` None: where it is mapped.
    """
    paths = (mapping[name],) if name in mapping else FIELDS[name]
    lowered = {} if name in mapping else {str(key).strip().lower(): value for key, value in row.items()}
    for path in paths:
        for value in (value_at(row, path), value_at(lowered, path)):
            if value is not _MISSING and value not in (None, "", []):
                return value
    if name in mapping if needed is None else needed:
        raise ValueError(f"no {name} (looked for {', '.join(paths)}; the row has {', '.join(map(str, row))})")
    return None


def _reason(error: Exception) -> str:
    """What is wrong with a row, from the exception that reading it raised."""
    return str(error.args[0] if isinstance(error, KeyError) and error.args else error)
