"""Every example question that docs, help and docstrings put to nano is one that nano answers rightly."""

from __future__ import annotations

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
QUESTION = re.compile(
    r"""(?:reflective\ solve\ |\bmodel\.solve\(|\)\.solve\()(["'])(?P<asked>[^"'\n]+)\1(?P<rest>(?:[^\n\\]|\\\n?)*)
      | echo\ "(?P<piped>[^"\n]+)"\ \|\ reflective\ solve""",
    re.VERBOSE,
)


def questions() -> dict[str, list[str]]:
    """The questions to nano, with the places where they stand. Other models' are marked by --model or by dots."""
    found: dict[str, list[str]] = {}
    for place in PLACES:
        for match in QUESTION.finditer(place.read_text(encoding="utf-8")):
            question = match["asked"] or match["piped"]
            if "--model" not in (match["rest"] or "") and question not in ("…", "..."):
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
