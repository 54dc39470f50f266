"""What a final answer is, and whether it is right: one definition for search, training, evaluation and serving.

    part = answer_part(response)              # behind </think>; None where the thinking was not finished
    answer = extract_answer(part, problem.kind)
    verdict = grade(problem, answer)          # right, wrong or ungradable, with the reason

A problem's kind names its grader (`registry.py` says how one's own is added). A grader never evaluates what a model
wrote, never raises, and ends within the time limit, in any thread; only "code" runs what a model wrote, in the sandbox
and for as long as its tests may take. What it can't decide it calls ungradable, which is not wrong: such a trajectory
is left out of training and counted apart in evaluation.
"""

from __future__ import annotations

from collections.abc import Iterable

from reflective.settings import check_names
from reflective.types import Problem, Verdict
from reflective.verify.choice import grade_choice
from reflective.verify.code.grader import grade_code
from reflective.verify.exact import grade_exact, grade_factors
from reflective.verify.expression import grade_expression
from reflective.verify.extract import answer_part, extract_answer
from reflective.verify.gym import grade_gym
from reflective.verify.lists import grade_list
from reflective.verify.math.grader import grade_math, unreadable
from reflective.verify.registry import GRADERS, WITHOUT_GOLD, Grader, grader

__all__ = [
    "GRADERS",
    "GRADER_VERSION",
    "WITHOUT_GOLD",
    "Grader",
    "answer_part",
    "extract_answer",
    "grade",
    "grader",
    "self_check",
]

GRADER_VERSION = 8  # changes whenever a verdict or an extracted answer may; records keep it beside their verdicts
DEFAULT_TIME_LIMIT_S = 5.0

for _kind, _grade, _needs_gold in (
    ("math", grade_math, True),
    ("choice", grade_choice, True),
    ("code", grade_code, False),
    ("expression", grade_expression, False),
    ("exact", grade_exact, True),
    ("factors", grade_factors, True),
    ("list", grade_list, True),
    ("gym", grade_gym, False),
):
    GRADERS.add_own(_kind, _grade, needs_gold=_needs_gold)


def grade(problem: Problem, answer: str | None, *, time_limit_s: float = DEFAULT_TIME_LIMIT_S) -> Verdict:
    """The verdict on a final answer (None: there is none). Only an unknown kind raises."""
    check_names([problem.kind], GRADERS, "kind of problem")
    judge = GRADERS[problem.kind]
    if problem.kind not in WITHOUT_GOLD and not (problem.answer or "").strip():
        return Verdict("ungradable", "the problem has no gold answer")
    if answer is None or not answer.strip():
        return Verdict("wrong", "no final answer")
    try:
        return judge(problem, answer, time_limit_s=time_limit_s)
    except Exception as error:  # a grader that fails is a fact about the grader, not about the answer
        return Verdict("ungradable", f"the grader failed: {type(error).__name__}: {str(error)[:100]}")


def self_check(
    problems: Iterable[Problem], *, time_limit_s: float = DEFAULT_TIME_LIMIT_S
) -> list[tuple[Problem, Verdict]]:
    """The problems whose gold answer does not grade as right against itself, with what is wrong with it.

    A "math" gold is also read, which an identical answer does not need: one that only an identical answer could match
    is reported as ungradable. A problem without a gold answer has nothing to be checked.
    """
    faults = []
    for problem in problems:
        if problem.kind in WITHOUT_GOLD and problem.answer is None:
            continue
        verdict = grade(problem, problem.answer, time_limit_s=time_limit_s)
        if verdict.kind == "right" and problem.kind == "math" and problem.answer is not None:
            reason = unreadable(problem.answer, time_limit_s=time_limit_s)
            if reason is not None:
                verdict = Verdict("ungradable", f"the gold answer can't be read: {reason}")
        if verdict.kind != "right":
            faults.append((problem, verdict))
    return faults
