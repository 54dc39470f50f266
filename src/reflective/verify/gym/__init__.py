"""Kind "gym": problems of the package reasoning_gym, whose answers often have many right forms.

A problem names its family, its seed and its place; the package writes the very problem again, and its scorer judges the
answer, in a helper process with a time limit. So no scorer ever sees anything of a record but the answer. Only scorers
that were read and found to evaluate nothing are called (`families.py`), in the versions of the package in which they
were read. A score of exactly 1 is right; anything between 0 and 1, part of an answer, is wrong. A few families that the
package grades unsafely or wrongly are graded by functions of ours.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import metadata
from typing import Any

from reflective.types import Problem, Verdict
from reflective.verify.exact import grade_exact
from reflective.verify.gym.families import FAMILIES, REVIEWED_VERSIONS, UNREVIEWED
from reflective.verify.math.grader import grade_math
from reflective.verify.processes import SHARED

MAX_CHARS = 20_000
PROBABILITY_TOLERANCE = "0.0001"  # the package's own


def grade_gym(problem: Problem, answer: str, *, time_limit_s: float) -> Verdict:
    """Right when the family's reviewed grader says so."""
    name = str(problem.metadata.get("gym", ""))
    family = FAMILIES.get(name)
    if family is None or family.refused:
        return Verdict("ungradable", f"no reviewed grader for {name!r}" + (f": {family.refused}" if family else ""))
    if len(answer) > MAX_CHARS:
        return Verdict("wrong", f"longer than {MAX_CHARS:,} characters")
    if family.forbidden and (found := family.forbidden.search(answer)):
        return Verdict("wrong", f"{found[0][:40]!r} is not allowed")
    if family.grader in _OURS:
        return _OURS[family.grader](problem, answer, time_limit_s)
    if family.grader != "package":
        return Verdict("ungradable", f"{name} is of kind {family.grader!r}, not 'gym'")
    if (version := installed_version()) not in REVIEWED_VERSIONS:
        return Verdict("ungradable", UNREVIEWED.format(version=version, known=", ".join(sorted(REVIEWED_VERSIONS))))
    try:
        item = json.dumps([name, int(problem.metadata["seed"]), int(problem.metadata["index"])])
        digest = str(problem.metadata["digest"])
    except (KeyError, TypeError, ValueError) as error:
        return Verdict("ungradable", f"the metadata do not name a problem of reasoning_gym: {error!r}")
    return SHARED.verdict("score", item, answer, time_limit_s=time_limit_s, prepare=("draw", item, digest))


def installed_version() -> str:
    """Of the package; empty where it is not installed."""
    try:
        return metadata.version("reasoning-gym")
    except metadata.PackageNotFoundError:
        return ""


def _integral(problem: Problem, answer: str, time_limit_s: float) -> Verdict:
    """Any antiderivative, with or without its constant; the package hands the answer to sympy.parse_expr, which
    evaluates it."""
    variable = str(problem.metadata.get("variable", "x"))
    return SHARED.verdict("antiderivatives", problem.answer or "", answer, variable, time_limit_s=time_limit_s)


def _expanded(problem: Problem, answer: str, time_limit_s: float) -> Verdict:
    """A polynomial multiplied out: the same value, and no product of sums left."""
    if any(bracket in answer.replace("^{", "").replace("**(", "") for bracket in "(["):
        return Verdict("wrong", "not multiplied out")
    return grade_math(problem, answer, time_limit_s=time_limit_s)


def _integer(problem: Problem, answer: str, time_limit_s: float) -> Verdict:
    """A whole number in any base that its prefix names: 0x1f, 31, 0b11111."""
    gold = int(problem.answer or "", 0)
    try:
        stated = int(answer.strip("$` "), 0)
    except ValueError:
        return Verdict("wrong", "no whole number")
    return Verdict("right", "equal") if gold == stated else Verdict("wrong", "another value")


def _probability(problem: Problem, answer: str, time_limit_s: float) -> Verdict:
    """A number as the "math" grader reads it, or one within the package's tolerance of the exact value."""
    tolerant = replace(problem, metadata={"tolerances": [PROBABILITY_TOLERANCE]})
    return grade_math(tolerant, answer, time_limit_s=time_limit_s)


def _one_of(problem: Problem, answer: str, time_limit_s: float) -> Verdict:
    """One of several golds, line by line."""
    golds = problem.metadata.get("golds")
    if not isinstance(golds, list) or not golds:
        return Verdict("ungradable", "the metadata hold no list of golds")
    for gold in golds:
        one = Problem("", answer=str(gold), kind="exact")
        if grade_exact(one, answer, time_limit_s=time_limit_s).right:
            return Verdict("right", "one of the solutions")
    return Verdict("wrong", "none of the solutions")


_OURS: Mapping[str, Callable[[Problem, str, float], Verdict]] = {
    "integral": _integral,
    "expanded": _expanded,
    "integer": _integer,
    "probability": _probability,
    "one of": _one_of,
}


def extra_metadata(name: str, item: Mapping[str, Any]) -> dict[str, Any]:
    """What the grader of a family needs of the package's item beyond question and answer, in plain JSON."""
    meta = item["metadata"]
    if name == "puzzle24":
        return {"numbers": list(map(int, meta["numbers"])), "target": 24, "use_all": True}
    if name == "countdown":
        return {"numbers": list(map(int, meta["numbers"])), "target": int(meta["target"]), "use_all": True}
    if FAMILIES[name].grader == "integral":
        return {"variable": str(meta["variable"])}
    return {"golds": list(map(str, meta["valid_answers"]))} if FAMILIES[name].grader == "one of" else {}
