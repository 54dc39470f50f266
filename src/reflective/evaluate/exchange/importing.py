"""Generations, scores and verdicts that other tools wrote, as a run of ours: so that our metrics judge their selectors.

A line of the file is a problem with lists of responses, scores and verdicts, or one response; lines of the same problem
are joined. Which field is which is said by a `Fields`; a dot goes into an object ("output.score_lst"). A score may be
a number, larger being better, alone or in a list of its own, or a list of step scores in 0..1, which are aggregated as
ours are. Where no verdicts are given, the answers are extracted and graded. Null and NaN stand for what is unknown.

Where a tool judged the same responses by several filters, as lm-evaluation-harness does, only the lines of one filter
are taken: the others hold the same responses once more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from reflective.errors import InputError
from reflective.grading import Grade, has_ended, with_groups
from reflective.judge.aggregate import DEFAULT_AGGREGATION, aggregate, logit
from reflective.records import Record, RecordWriter, TrajectoryRecord
from reflective.records.manifest import MANIFEST, RECORDS, Manifest, digest_of, versions, write_manifest
from reflective.selection import best_closed
from reflective.settings import check_names
from reflective.tasks.files.gold import NoAnswer, gold_answer
from reflective.tasks.files.rows import json_lines
from reflective.types import Problem, Timing, Usage, Verdict
from reflective.verify import GRADERS, WITHOUT_GOLD, answer_part, extract_answer
from reflective.verify import grade as grade_answer

Row = tuple[str, dict[str, Any]]  # a line's place, and what it holds

STEP_CLIP = 1e-12  # a step score of 0 or 1 has no finite logit


@dataclass(frozen=True, slots=True)
class Fields:
    """The names of their fields; an empty one is not there."""

    problem: str = "problem"
    answer: str = "answer"
    responses: str = "responses"
    scores: str = "scores"
    correct: str = ""
    id: str = ""
    tokens: str = ""
    family: str = ""
    filter: str = ""

    def replaced(self, given: dict[str, str]) -> Fields:
        """With some fields named otherwise. Raises `InputError` for one that is none of ours."""
        check_names(given, [f.name for f in fields(self)], "field")
        return replace(self, **given)


PRESETS = MappingProxyType(
    {
        "plain": Fields(),
        # test/inference.py of the reference: {"prompt", "answer", "output": {"solution_lst", "score_lst"}}
        "reference": Fields("prompt", "answer", "output.solution_lst", "output.score_lst"),
        # samples_*.jsonl of lm-evaluation-harness
        "lm-eval": Fields(
            "arguments.gen_args_0.arg_0", "target", "resps", "", "exact_match", "doc_id", filter="filter"
        ),
    }
)


def import_run(
    source: Path,
    out: Path,
    mapping: Fields,
    *,
    kind: str = "math",
    model: str = "imported",
    filter: str | None = None,
    grade: Grade = grade_answer,
    notes: list[str] | None = None,
) -> int:
    """Write a run folder from a file of JSON lines; the number of problems. Raises `InputError` with the line.

    `filter` names the filter whose lines are taken (None: the first in the file). `notes` collects what a reader of the
    figures should know.
    """
    if kind not in GRADERS:
        raise InputError(f"unknown kind {kind!r}. Known: {', '.join(GRADERS)}.")
    if (out / MANIFEST).exists() or (out / RECORDS).exists():
        raise InputError(f"'{out}' already holds a run. Name another --output.")
    rows = list(_rows(source))
    told = notes if notes is not None else []
    rows, chosen = _filtered(rows, mapping, filter, told)
    groups: dict[str, _Group] = {}
    for where, row in rows:
        _take(groups, row, mapping, kind, where)
    if not groups:
        raise InputError(f"'{source}' holds no responses.")
    problems = [group.problem for group in groups.values()]
    if without := sum(p.answer is None for p in problems) if kind not in WITHOUT_GOLD and not mapping.correct else 0:
        told.append(f"{without:,} of {len(problems):,} problems have no gold answer, so theirs are ungradable")
    most = max(len(group.responses) for group in groups.values())
    write_manifest(
        out,
        Manifest(
            benchmark={"name": source.name},
            model=model,
            strategy="best_of_n",
            effort=most,
            seed=0,
            settings={},
            problems=len(problems),
            digest=digest_of(problems),
            versions=versions(),
            history=(f"imported from {source.name}" + (f", filter {chosen!r}" if chosen else ""),),
        ),
    )
    with RecordWriter(out / RECORDS, resume=False) as writer:
        for number, group in enumerate(groups.values()):
            writer.write(_record(group, number, model, grade))
    return len(groups)


@dataclass(slots=True)
class _Response:
    """What is known of a response: its text, step logits and score, verdict, and number of tokens."""

    text: str
    score: tuple[tuple[float, ...], float | None]
    verdict: Verdict | None
    tokens: Any


@dataclass(slots=True)
class _Group:
    """A problem and its responses so far."""

    problem: Problem
    responses: list[_Response]


def _rows(source: Path) -> Iterator[Row]:
    for where, row in json_lines(source):
        if not isinstance(row, dict):
            raise InputError(f"{where}: a JSON object is expected, got {type(row).__name__}.")
        yield where, row


def _filtered(rows: list[Row], mapping: Fields, wanted: str | None, notes: list[str]) -> tuple[list[Row], str]:
    """The lines of one filter, and its name; all of them where there are no filters."""
    named = [str(_field(row, mapping.filter) or "") if mapping.filter else "" for _, row in rows]
    names = list(dict.fromkeys(name for name in named if name))
    if wanted is not None and wanted not in names:
        raise InputError(f"no line is of the filter {wanted!r}. Known: {', '.join(names) or 'none'}.")
    if not names:
        return rows, ""
    chosen = wanted or names[0]
    if len(names) > 1:
        notes.append(f"of the filters {', '.join(names)} that judged these responses, {chosen!r} is taken (--filter)")
    return [row for row, name in zip(rows, named, strict=True) if name in ("", chosen)], chosen


def _field(row: dict[str, Any], name: str) -> Any:
    """The value of a field, None where it is not there; a dot goes into an object."""
    value: Any = row
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _take(groups: dict[str, _Group], row: dict[str, Any], mapping: Fields, kind: str, where: str) -> None:
    text = _field(row, mapping.problem)
    if isinstance(text, list):  # a chat: what the user said
        text = "\n\n".join(str(m.get("content", "")) for m in text if isinstance(m, dict) and m.get("role") == "user")
    responses = _flat(_field(row, mapping.responses))
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{where}: no problem text in {mapping.problem!r}. Name the field with problem=….")
    if not responses or not all(isinstance(r, str) for r in responses):
        raise InputError(f"{where}: no response texts in {mapping.responses!r}. Name the field with responses=….")
    gold = _field(row, mapping.answer)
    if isinstance(gold, dict):  # {"target": …} in the reference's parquet files
        gold = gold.get("target")
    given = _field(row, mapping.id)
    key = str(given) if given is not None else text
    group = groups.get(key)
    if group is None:
        problem = Problem(
            text,
            _gold(gold, kind),
            id="" if given is None else str(given),
            family=str(_field(row, mapping.family) or ""),
            kind=kind,
        )
        group = groups[key] = _Group(problem, [])
    elif group.problem.answer is None:  # a line without it may have come first
        group.problem = replace(group.problem, answer=_gold(gold, kind))
    columns = [
        _column(_field(row, name), len(responses), what, where)
        for what, name in (("scores", mapping.scores), ("correct", mapping.correct), ("tokens", mapping.tokens))
    ]
    try:
        group.responses += [
            _Response(text, _score(score), _verdict(correct), tokens)
            for text, score, correct, tokens in zip(responses, *columns, strict=True)
        ]
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _gold(value: Any, kind: str) -> str | None:
    """The final answer alone, also where it stands at the end of a worked solution; else what there is, as text."""
    if value is None or kind in WITHOUT_GOLD:
        return None if value is None else str(value)
    try:
        return gold_answer(value)
    except NoAnswer:
        return None
    except ValueError:
        return str(value)


def _flat(value: Any) -> list[Any]:
    """A list of responses from a response, a list, or a list of lists."""
    if isinstance(value, list):
        return [item for part in value for item in (part if isinstance(part, list) else [part])]
    return [] if value is None else [value]


def _column(value: Any, count: int, what: str, where: str) -> list[Any]:
    """One value a response. A single one is of a single response; of several, nobody knows whose it is."""
    if value is None:
        return [None] * count
    if not isinstance(value, list):
        return [value] if count == 1 else [None] * count
    if count == 1 and what == "scores" and value and all(isinstance(v, int | float) for v in value) and len(value) > 1:
        return [value]  # the step scores of the one response
    if len(value) != count:
        raise InputError(f"{where}: {len(value)} {what} for {count} responses; there must be one for each.")
    return value


def _record(group: _Group, number: int, model: str, grade: Grade) -> Record:
    trajectories = tuple(_trajectory(i, response, group.problem, grade) for i, response in enumerate(group.responses))
    best, _ = best_closed(trajectories)
    known = all(isinstance(r.tokens, int) for r in group.responses)
    return with_groups(
        Record(
            problem=group.problem,
            model=model,
            strategy="best_of_n",
            effort=len(trajectories),
            seed=0,
            selected=None if best is None else best.index,
            answer=None if best is None else best.answer,
            confidence=None,
            trajectories=trajectories,
            usage=Usage(0, sum(t.tokens for t in trajectories)),
            timing=Timing(0.0),
            verdict=Verdict("wrong", "no finished response") if best is None else best.verdict,
            extra={"number": number, "imported": True, "tokens_known": known},
        )
    )


def _trajectory(index: int, response: _Response, problem: Problem, grade: Grade) -> TrajectoryRecord:
    thinking, part = _parts(response.text)
    answer = extract_answer(part, problem.kind) if part else None
    logits, score = response.score
    t = TrajectoryRecord(
        index=index,
        seed=0,
        tokens=response.tokens if isinstance(response.tokens, int) else 0,
        finish_reason="length" if part is None else "eos",
        score=score,
        step_logits=logits,
        step_positions=tuple(range(len(logits))),
        answer=answer,
        thinking=thinking,
        answer_text=part or "",
    )
    verdict = response.verdict
    if verdict is None and has_ended(t):
        verdict = grade(problem, answer)
    return replace(t, verdict=verdict)


def _parts(text: str) -> tuple[str, str | None]:
    """Thinking and answer text; the answer is None where a thinking was begun and not closed."""
    if "<think>" not in text and "</think>" not in text:
        return "", text
    return text.partition("</think>")[0].removeprefix("<think>"), answer_part(text)


def _score(value: Any) -> tuple[tuple[float, ...], float | None]:
    """Step logits and the trajectory's score; one number in a list is a score as one alone is."""
    if isinstance(value, list):
        if not all(_is_number(v) for v in value):
            raise InputError(f"a score is a number or a list of numbers, got {value!r:.60}.")
        steps = [float(v) for v in value]
        if len(steps) == 1 and not 0.0 <= steps[0] <= 1.0:
            return (), steps[0]
        if not all(0.0 <= v <= 1.0 for v in steps):
            raise InputError("step scores must lie in 0..1. Map only trajectory scores, or turn logits into scores.")
        logits = tuple(logit(v, STEP_CLIP) for v in steps)
        return logits, aggregate(logits, DEFAULT_AGGREGATION)
    if _is_number(value):
        return (), float(value)
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return (), None
    raise InputError(f"a score is a number or a list of numbers, got {value!r:.60}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _verdict(value: Any) -> Verdict | None:
    if value is None or value != value:
        return None
    if isinstance(value, bool | int | float) and value in (0, 1):
        return Verdict("right" if value else "wrong", "as imported")
    raise InputError(f"{value!r} is no verdict; it must be true or false, 1 or 0, or null for an unknown one.")
