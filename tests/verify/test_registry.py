"""Graders of one's own: by the decorator, by an entry point, and refused where the kind has one."""

from __future__ import annotations

import threading
from importlib.metadata import EntryPoint

import pytest

from reflective.errors import InputError
from reflective.types import Problem, Verdict
from reflective.verify import GRADER_VERSION, GRADERS, WITHOUT_GOLD, grade, grader, registry
from reflective.verify.registry import Registry


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Registry:
    made = Registry()
    made.add_own("math", shout, needs_gold=True)
    monkeypatch.setattr(registry, "GRADERS", made)
    monkeypatch.setattr("reflective.verify.GRADERS", made)
    return made


def shout(problem: Problem, answer: str, *, time_limit_s: float) -> Verdict:
    return Verdict("right" if answer == (problem.answer or "").upper() else "wrong")


def whisper(problem: Problem, answer: str, *, time_limit_s: float) -> Verdict:
    return Verdict("right" if answer == (problem.answer or "").lower() else "wrong")


def installed(monkeypatch: pytest.MonkeyPatch, *points: tuple[str, str]) -> None:
    found = [EntryPoint(name, value, registry.ENTRY_POINTS) for name, value in points]
    monkeypatch.setattr(registry, "entry_points", lambda group: found if group == registry.ENTRY_POINTS else [])


def test_a_decorated_function_grades_its_kind(fresh: Registry) -> None:
    assert grader("shout")(shout) is shout
    assert grade(Problem("", "hey", kind="shout"), "HEY").kind == "right"
    assert "shout" in fresh and list(fresh) == ["math", "shout"]
    with pytest.raises(InputError, match="Did you mean 'shout'"):
        grade(Problem("", "hey", kind="shuot"), "HEY")


def test_a_kind_without_gold_answers_needs_none(fresh: Registry) -> None:
    grader("free", needs_gold=False)(shout)
    assert fresh.without_gold == {"free"}


def test_a_second_grader_of_a_kind_is_refused(fresh: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    grader("math")(shout)  # the same function again
    with pytest.raises(InputError, match="a grader for problems of kind 'math' already"):
        grader("math")(whisper)
    installed(monkeypatch, ("math", "verify.test_registry:shout"))
    with pytest.raises(InputError, match="second grader for problems of kind 'math'"):
        list(fresh)
    installed(monkeypatch, ("a", "verify.test_registry:shout"), ("a", "other:shout"))
    with pytest.raises(InputError, match="second grader for problems of kind 'a', from other:shout"):
        grade(Problem("", "hey", kind="a"), "HEY")


def test_an_installed_grader_is_imported_when_it_is_asked_for(fresh: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, ("shout", "verify.test_registry:shout"), ("broken", "no_such_package:f"))
    assert set(fresh) == {"math", "shout", "broken"} and len(fresh) == 3
    assert grade(Problem("", "hey", kind="shout"), "HEY").kind == "right"
    with pytest.raises(InputError, match=r"'broken' from no_such_package:f can't be loaded: ModuleNotFoundError"):
        grade(Problem("", "hey", kind="broken"), "HEY")


def test_two_threads_that_look_at_once_find_the_same(fresh: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("shout", "verify.test_registry:shout", registry.ENTRY_POINTS)
    told: list[str] = []
    other = threading.Thread(target=lambda: told.append(grade(Problem("", "hey", kind="shout"), "HEY").kind))

    def looked(group: str) -> list[EntryPoint]:
        if threading.current_thread() is not other:  # the other one looks while this one does
            other.start()
            other.join(0.3)
        return [point]

    monkeypatch.setattr(registry, "entry_points", looked)
    assert grade(Problem("", "hey", kind="shout"), "HEY").kind == "right"
    other.join(10)
    assert told == ["right"]


def test_the_own_kinds_and_the_version() -> None:
    assert set(GRADERS) >= {"math", "choice", "code", "expression", "exact", "factors", "list", "gym"}
    assert {"code", "expression", "gym"} == WITHOUT_GOLD and GRADER_VERSION >= 2
