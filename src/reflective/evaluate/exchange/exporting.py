"""Our records in the formats of others, one JSON line per problem.

"reference" is what the reference's test/compute_metric.py reads: its best-of-n takes the largest of `score_lst`, so a
trajectory without a score gets one below every other. "lm-eval" is a samples_*.jsonl of lm-evaluation-harness, with
its hashes; the metric is `exact_match` of the chosen answer, null where it could not be graded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from reflective.errors import InputError
from reflective.files import disk_errors, whole_file
from reflective.records import Record, TrajectoryRecord, read_records
from reflective.records.manifest import RECORDS, read_manifest
from reflective.settings import check_names

NO_SCORE = -1.0  # below every score, which are in 0..1


def export_run(folder: Path, out: Path, format: str) -> int:
    """Write all problems of a run; how many. Raises `InputError` for an unknown format or a file that is there."""
    check_names([format], FORMATS, "format")
    read_manifest(folder)
    if out.is_file() or out.is_dir():
        raise InputError(f"'{out}' is there already. Name another --output.")
    with disk_errors(out, InputError), whole_file(out) as path:
        with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
            count = 0
            for record in read_records(folder / RECORDS):
                if not any(t.thinking or t.answer_text for t in record.trajectories) and record.trajectories:
                    raise InputError(f"'{folder}' holds no texts (--no-texts), so responses can't be exported.")
                row = FORMATS[format](record, count)
                file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
                count += 1
        return count


def response_of(t: TrajectoryRecord) -> str:
    """A trajectory as the one text that a model wrote."""
    return f"{t.thinking}</think>{t.answer_text}" if t.closed else t.thinking


def _reference(record: Record, number: int) -> dict[str, Any]:
    return {
        "prompt": record.problem.text,
        "answer": record.problem.answer,
        "output": {
            "solution_lst": [response_of(t) for t in record.trajectories],
            "score_lst": [NO_SCORE if t.score is None or not t.closed else t.score for t in record.trajectories],
        },
    }


def _lm_eval(record: Record, number: int) -> dict[str, Any]:
    problem = record.problem
    doc = {"id": problem.id, "problem": problem.text, "answer": problem.answer, "family": problem.family}
    target = problem.answer or ""
    right = record.verdict.right if record.verdict else None
    return {
        "doc_id": int(record.extra.get("number", number)),
        "doc": doc,
        "target": target,
        "arguments": {"gen_args_0": {"arg_0": problem.text, "arg_1": {"until": [], "do_sample": True}}},
        "resps": [[response_of(t) for t in record.trajectories]],
        "filtered_resps": [record.answer or ""],
        "filter": "none",
        "metrics": ["exact_match"],
        "doc_hash": _hash(json.dumps(doc, indent=2, ensure_ascii=False)),
        "prompt_hash": _hash(problem.text),
        "target_hash": _hash(target),
        "exact_match": None if right is None else float(right),
    }


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


FORMATS: Mapping[str, Callable[[Record, int], dict[str, Any]]] = MappingProxyType(
    {"reference": _reference, "lm-eval": _lm_eval}
)
