"""What each part of the mathematics grader is worth: the pairs of tests/verify/cases graded without it.

    python benchmarks/grading_parts.py

A part is switched off, and what it would have read goes to math-verify or stays unread. "math-verify alone" is its
`parse` and `verify` as they come. For each: right pairs that are not graded as right, wrong ones that are, and seconds
for all pairs in one process. The first figure is without the fast path alone, which no part here runs through.

"first look" counts what the third set (heldout.jsonl) to the seventh keep of the first time that they were graded;
"third set" and so on grade them now. In answers of the last four that are whole texts, what they state is looked for
first.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from common import parse, progress, report

from reflective.evaluate.bootstrap import wilson
from reflective.types import Problem
from reflective.verify import extract_answer, grade
from reflective.verify.math import atoms, comparison, formula, notation, phrases

CASES = Path(__file__).parents[1] / "tests" / "verify" / "cases"
QUICK = 20  # every so many pairs in a quick run


def single_numbers_only(atom: notation.Atom) -> formula.Node:
    node = _tree(atom)
    inner = node.arguments[0] if isinstance(node, formula.Call) and node.name == "neg" else node
    if isinstance(inner, formula.Number | formula.Variable):
        return node
    raise formula.Unsupported("left to the library")


def all_by_library(self: comparison.Comparison, gold: str, answer: str) -> str | None:
    return self.symbolic(phrases.plain(gold), phrases.plain(answer))


_tree = atoms.tree
PARTS: dict[str, tuple[Any, str, Any]] = {
    "the fast path": (json, "_unused", None),
    "formulas and values": (atoms, "tree", single_numbers_only),
    "brackets, lists, relations": (comparison.Comparison, "texts", all_by_library),
    "units": (notation, "split_unit", lambda text: (text, None)),
    "names and labels": (comparison, "is_label", lambda value: False),
    "statements about numbers": (comparison, "is_statement", lambda relation: False),
    "true equations": (comparison, "same_identity", lambda gold, answer: False),
    "regions of inequalities": (comparison, "region", lambda relation: None),
    "phrases": (phrases, "_PHRASES", ()),
    "times of day": (notation, "read_clock", lambda text: None),
    "bases": (atoms, "based_number", lambda atom: None),
    "roundings": (atoms, "rounds", lambda gold, answer: False),
}


def ours(pair: dict[str, str]) -> str:
    return comparison.compare(pair["gold"], pair["answer"], [])[0]


def extracted(pair: dict[str, str]) -> str:
    kind = pair.get("problem", "math")
    answer = extract_answer(pair["answer"], kind) if pair.get("text") else pair["answer"]
    return grade(Problem("", pair["gold"], kind=kind), answer, time_limit_s=60.0).kind


def stock(pair: dict[str, str]) -> str:
    from math_verify import parse as read
    from math_verify import verify

    logging.disable(logging.CRITICAL)
    answer = pair["answer"] if pair.get("text") else f"\\boxed{{{pair['answer']}}}"
    return "right" if verify(read(f"\\boxed{{{pair['gold']}}}"), read(answer)) else "wrong"


def measure(judge: Callable[[dict[str, str]], str], pairs: list[dict[str, str]]) -> dict[str, float]:
    begin = time.perf_counter()
    kinds = [judge(pair) for pair in pairs]
    seconds = time.perf_counter() - begin
    graded = list(zip(pairs, kinds, strict=True))
    false_wrong = sum(pair["verdict"] == "right" != kind for pair, kind in graded)
    false_right = sum(pair["verdict"] == "wrong" and kind == "right" for pair, kind in graded)
    return {"false_wrong": false_wrong, "false_right": false_right, "seconds": round(seconds, 1)}


def first_look(pairs: list[dict[str, str]]) -> dict[str, dict[str, Any]]:
    """For right and wrong pairs: how many were graded otherwise at first, of how many, and the Wilson interval."""
    found: dict[str, dict[str, Any]] = {}
    for verdict, name in (("right", "false_wrong"), ("wrong", "false_right")):
        of_these = [pair for pair in pairs if pair["verdict"] == verdict]
        errors = sum("first_look" in pair for pair in of_these)
        low, high = wilson(errors / len(of_these), len(of_these))
        found[name] = {"errors": errors, "of": len(of_these), "interval": [round(low, 4), round(high, 4)]}
    return found


def main() -> int:
    setting = parse(__doc__)
    step = QUICK if setting.quick else 1
    pairs, third, fourth, fifth, sixth, seventh = (
        [json.loads(line) for line in (CASES / name).read_text(encoding="utf-8").splitlines()]
        for name in ("pairs.jsonl", "heldout.jsonl", "fourth.jsonl", "fifth.jsonl", "sixth.jsonl", "seventh.jsonl")
    )
    pairs = pairs[::step]
    found: dict[str, Any] = {"right pairs": sum(pair["verdict"] == "right" for pair in pairs), "pairs": len(pairs)}
    sets = {"third set": third, "fourth set": fourth, "fifth set": fifth, "sixth set": sixth, "seventh set": seventh}
    found["first look"] = {name: first_look(rows) for name, rows in sets.items()}
    for name, rows in sets.items():
        found[name] = measure(extracted, rows[::step])
        found[f"{name}, math-verify alone"] = measure(stock, [row for row in rows if "problem" not in row][::step])
        progress(f"{name}: {found[name]}; math-verify alone: {found[f'{name}, math-verify alone']}")
    for name, (owner, attribute, stand_in) in PARTS.items():
        notation.read.cache_clear()
        with patch.object(owner, attribute, stand_in, create=owner is json):
            found[f"without {name}"] = measure(ours, pairs)
        progress(f"without {name}: {found[f'without {name}']}")
    found["math-verify alone"] = measure(stock, pairs)
    progress(f"math-verify alone: {found['math-verify alone']}")
    report("grading_parts", setting, found, [])
    return 0


if __name__ == "__main__":
    sys.exit(main())
