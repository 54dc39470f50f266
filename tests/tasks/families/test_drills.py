"""Drills: worded and verdicted as the traces are, learned only where true and not given."""

from __future__ import annotations

import random

from arithmetic import EQUATION, assert_learned_is_true, is_true, verdict_agrees
from reflective.tasks.base import STEP_END, Segment
from reflective.tasks.families import drills


def lines(count: int = 1200) -> list[list[Segment]]:
    rng = random.Random(0)
    return [rng.choices(drills.KINDS, drills.WEIGHTS)[0](rng) for _ in range(count)]


def text_of(line: list[Segment]) -> str:
    return "".join(segment.text for segment in line)


def test_verdicts_agree_with_what_stands_beside_them() -> None:
    for line in lines():
        if text_of(line).endswith((", right", ", wrong")):
            assert verdict_agrees(text_of(line)), text_of(line)


def test_learned_results_are_true() -> None:
    for line in lines():
        assert_learned_is_true(line)


def test_a_hit_is_a_value_that_is_the_target() -> None:
    tries = [text_of(line) for line in lines() if text_of(line).endswith((", yes", ", no"))]
    assert tries
    for text in tries:
        value, target = text.split(" = ")[1].rsplit(", ", 1)[0].split(" for ")
        assert (value == target) == text.endswith(", yes")


def test_what_is_given_is_not_learned_and_the_verdict_is() -> None:
    for line in lines():
        assert not line[0].learn
        assert line[-1].learn


def test_half_of_the_checks_fail() -> None:
    verdicts = [text_of(line).rsplit(", ", 1)[-1] for line in lines()]
    right, wrong = verdicts.count("right"), verdicts.count("wrong")
    assert 0.42 < wrong / (right + wrong) < 0.58
    assert right + wrong > 0.6 * len(verdicts)


def test_only_results_are_written_wrong() -> None:
    for line in lines():
        first = EQUATION.search(text_of(line))
        if first is not None and not is_true(first):
            assert [segment.learn for segment in line] == [False, True, False, True]


def test_a_drill_is_a_completion_with_an_empty_answer() -> None:
    text = text_of(drills.drill(random.Random(0)))
    assert text.startswith("\n")
    assert text.count(STEP_END) == drills.LINES
    assert text.endswith(STEP_END + "</think>\n\n\\boxed{0}")
