"""Problems with final answers from a JSON-lines file: what a user needs to adapt an own model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reflective.errors import InputError
from reflective.tasks.benchmarks.gold import check_texts
from reflective.tasks.benchmarks.rows import json_lines
from reflective.types import Problem
from reflective.verify import GRADERS

TEXT_FIELDS = ("problem", "question", "prompt", "text")
ANSWER_FIELDS = ("answer", "gold", "solution")


def read_problems(path: Path) -> list[Problem]:
    """One problem a line: {"problem": …, "answer": …}, optionally `id`, `family`, `kind` and `metadata`.

    `question`, `prompt` and `text` are read as `problem`, too. Raises `InputError` naming the first bad line.
    """
    problems = [_problem(item, where) for where, item in json_lines(path)]
    if not problems:
        raise InputError(f"'{path}' holds no problem.")
    return problems


def _problem(item: Any, where: str) -> Problem:
    if not isinstance(item, dict):
        raise InputError(f'{where}: a line holds an object such as {{"problem": "…", "answer": "42"}}.')
    text, answer = _first(item, TEXT_FIELDS), _first(item, ANSWER_FIELDS)
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{where}: no problem text (looked for {', '.join(TEXT_FIELDS)}).")
    if not isinstance(answer, str | int | float) or isinstance(answer, bool) or not str(answer).strip():
        raise InputError(f"{where}: no final answer (looked for {', '.join(ANSWER_FIELDS)}).")
    kind = str(item.get("kind", "math"))
    if kind not in GRADERS:
        raise InputError(f"{where}: unknown kind {kind!r}. Known: {', '.join(GRADERS)}.")
    problem = Problem(
        text=text,
        answer=str(answer),
        id=str(item.get("id", where)),
        family=str(item.get("family", "")),
        kind=kind,
        metadata=item.get("metadata") or {},
    )
    try:
        check_texts(problem.text, problem.answer, problem.id, problem.family, problem.metadata)
    except ValueError as error:
        raise InputError(f"{where}: {error}.") from error
    return problem


def _first(item: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((item[name] for name in names if name in item), None)
