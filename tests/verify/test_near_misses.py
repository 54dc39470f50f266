"""No near miss is right, no like form is refused: the tables of `near_misses.py`, one by one and turned around."""

from __future__ import annotations

import pytest

from reflective.types import Problem
from reflective.verify import answer_part, extract_answer, grade
from verify import near_misses
from verify.near_misses import LIKE_FORMS, NEAR_MISSES, NO_ANSWER, ONE_WAY


def kind_of(gold: str, answer: str) -> str:
    return grade(Problem("", gold), answer, time_limit_s=60.0).kind


@pytest.mark.parametrize("about", NEAR_MISSES)
def test_no_near_miss_is_right(about: str) -> None:
    assert [pair for pair in NEAR_MISSES[about] if kind_of(*pair) != "wrong"] == []


@pytest.mark.parametrize("about", NEAR_MISSES)
def test_no_near_miss_is_right_in_a_response(about: str) -> None:
    """The extraction may lose an answer, but it may not turn a wrong one into a right one."""
    found = []
    for gold, answer in NEAR_MISSES[about]:
        for response in (f"hm</think>So\n\\[\\boxed{{{answer}}}\\]", f"{gold}</think>The answer is ${answer}$."):
            stated = extract_answer(answer_part(response) or "")
            if grade(Problem("", gold), stated, time_limit_s=60.0).kind == "right":
                found.append((gold, answer, stated, response))
    assert found == []


@pytest.mark.parametrize(("gold", "response", "kind"), NO_ANSWER)
def test_no_response_without_the_answer_is_right(gold: str, response: str, kind: str) -> None:
    part = answer_part(response)
    answer = None if part is None else extract_answer(part, kind)
    problem = Problem("", gold, kind=kind, metadata={"tests": [{"input": "", "output": "5"}]})
    assert grade(problem, answer, time_limit_s=60.0).kind == "wrong"


@pytest.mark.parametrize("about", LIKE_FORMS)
def test_every_like_form_is_right(about: str) -> None:
    assert [pair for pair in LIKE_FORMS[about] if kind_of(*pair) != "right"] == []
    turned = [(answer, gold) for gold, answer in LIKE_FORMS[about] if (gold, answer) not in ONE_WAY]
    assert [pair for pair in turned if kind_of(*pair) != "right"] == []


@pytest.mark.parametrize("about", LIKE_FORMS)
def test_every_like_form_is_found_and_right_in_a_box(about: str) -> None:
    found = []
    for gold, answer in LIKE_FORMS[about]:
        stated = extract_answer(answer_part(f"hm</think>So\n\\[\\boxed{{{answer}}}\\]") or "")
        if grade(Problem("", gold), stated, time_limit_s=60.0).kind != "right":
            found.append((gold, answer, stated))
    assert found == []


def test_there_are_enough_of_them_and_none_twice() -> None:
    misses = [pair for pairs in NEAR_MISSES.values() for pair in pairs]
    likes = [pair for pairs in LIKE_FORMS.values() for pair in pairs]
    assert len(misses) + len(NO_ANSWER) >= 200 and len(likes) >= 100
    assert len(set(misses)) == len(misses) and len(set(likes)) == len(likes)
    assert not set(misses) & set(likes) and set(near_misses.ONE_WAY) <= set(likes)
