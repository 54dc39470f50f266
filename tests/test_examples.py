"""Every example question that docs, help and docstrings put to a model is one that the model answers rightly.

Those beside --model are for an instruct model: they are asked where REFLECTIVE_REAL_MODEL names the folder of one.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from reflective import Problem, Reflective
from reflective.nano import EXAMPLES
from reflective.verify import grade

ROOT = Path(__file__).resolve().parent.parent
PLACES = [  # CONTRIBUTING.md asks scripted engines
    ROOT / "README.md",
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / "src/reflective/cli").glob("*.py"),
    ROOT / "src/reflective/__init__.py",
    ROOT / "src/reflective/api.py",
]
MULTIPLICATION = "Solve the following multiplication: {}. Give only the result as your final answer."

ANSWERS = {
    "Find the Least Common Multiple (LCM) of these numbers: 14, 20": "140",
    MULTIPLICATION.format("12 * 17"): "204",
    MULTIPLICATION.format("3 * 14"): "42",
}
REAL_MODEL = os.environ.get("REFLECTIVE_REAL_MODEL", "")
INSTRUCT_ANSWERS = {
    "A baker makes 24 rolls an hour. How many does he make in 5 hours?": "120",
    "A crate holds 12 bottles. How many are in 7 crates? Reason step by step.": "84",
    "A train covers 180 km in 2 hours. How far does it go in 5 hours?": "450",
    "Natalia sold 48 clips in April and half as many in May. How many did she sell altogether?": "72",
    "What is 12 * 17?": "204",
    "What is 2 + 3?": "5",
}
QUESTION = re.compile(
    r"""(?:reflective\ solve\ |\bmodel\.solve\(|\)\.solve\()(["'])(?P<asked>[^"'\n]+)\1(?P<rest>(?:[^\n\\]|\\\n?)*)
      | echo\ "(?P<piped>[^"\n]+)"\ \|\ reflective\ solve""",
    re.VERBOSE,
)


def questions(*, nano: bool = True) -> dict[str, list[str]]:
    """The questions to nano, or to others, with the places where they stand. Others are marked by --model or dots."""
    found: dict[str, list[str]] = {}
    for place in PLACES:
        for match in QUESTION.finditer(place.read_text(encoding="utf-8")):
            question = match["asked"] or match["piped"]
            other = "--model" in (match["rest"] or "") or "localhost" in (match["rest"] or "")
            if other is not nano and question not in ("…", "..."):
                found.setdefault(question, []).append(place.name)
    return found


def test_there_are_questions_in_the_readme_and_in_the_help() -> None:
    places = {place for where in questions().values() for place in where}
    assert {"README.md", "solving.md", "solve.py", "__init__.py", "api.py"} <= places


@pytest.fixture(scope="module")
def nano() -> Reflective:
    return Reflective.from_pretrained("nano")


@pytest.mark.parametrize("question", sorted({*questions(), *ANSWERS}))
@pytest.mark.parametrize("effort", ["medium", "high"])
def test_nano_answers_every_example_rightly(nano: Reflective, question: str, effort: str) -> None:
    assert question in ANSWERS, f"{questions()[question]}: put this question and its answer into the table"
    solution = nano.solve(question, effort=effort)
    assert grade(Problem(question, ANSWERS[question]), solution.answer).right, solution.answer


def test_every_question_to_an_instruct_model_has_a_known_answer() -> None:
    assert set(questions(nano=False)) - set(ANSWERS) <= set(INSTRUCT_ANSWERS)


@pytest.mark.long
@pytest.mark.skipif(not REAL_MODEL, reason="REFLECTIVE_REAL_MODEL names no folder of a pretrained model")
def test_an_instruct_model_answers_every_example_rightly() -> None:
    wrong = {}
    with Reflective.from_pretrained(REAL_MODEL) as model:
        for question, gold in INSTRUCT_ANSWERS.items():
            solution = model.solve(question, max_tokens=512)
            if not grade(Problem(question, gold), solution.answer).right:
                wrong[question] = solution.answer
    assert not wrong


# of the problems on the page: the gold answers, or for an expression what has to come of it
GOLD = {
    "least common multiple": "140",
    "countdown": "47",
    "24": "24",
    "multiplication": "204",
    "word problem": "2",
    "chain of sums": "36",
    "equation": "7",
    "prime factors": "11 * 17",
    "counting legs": "54",
}


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("effort", ["medium", "high"])
def test_nano_answers_every_example_of_the_page_rightly(nano: Reflective, name: str, effort: str) -> None:
    solution = nano.solve(EXAMPLES[name], effort=effort)
    answer = (solution.answer or "").replace("×", "*")
    assert grade(Problem(EXAMPLES[name], GOLD[name]), answer).right, solution.answer
