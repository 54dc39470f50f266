"""What every family promises: splits that can't leak, determinism, and traces whose every learned line is true."""

from __future__ import annotations

import random
import re
from functools import cache
from itertools import pairwise

import pytest

from arithmetic import assert_learned_is_true, verdict_agrees
from arithmetic import value as value_of
from reflective.errors import InputError
from reflective.tasks import TASKS, get_task, mixture
from reflective.tasks.base import STEP_END, Segment, Trace
from reflective.types import Problem

pytest.importorskip("reasoning_gym")

LEVELS = (1, 2, 3)
SPLITS = ("train", "validation", "test")
SEARCHES = ("countdown", "puzzle24")


def is_right(problem: Problem, answer: str) -> bool:
    """Whether an answer solves a problem, by means of the tests alone."""
    if problem.kind == "expression":
        used = sorted(int(number) for number in re.findall(r"\d+", answer))
        return used == sorted(problem.metadata["numbers"]) and value_of(answer) == problem.metadata["target"]
    return answer == problem.answer


@cache
def traces(name: str, level: int, count: int = 120) -> list[tuple[Problem, Trace]]:
    task = get_task(name)
    rng = random.Random(level)
    return [(problem, task.trace(problem, rng)) for problem in task.problems("train", count, level)]


families = pytest.mark.parametrize("name", TASKS)
levels = pytest.mark.parametrize("level", LEVELS)


@families
def test_no_key_is_in_two_splits(name: str) -> None:
    task = get_task(name)
    keys = {
        split: {task.key(task.problem(split, i, level, seed)) for i in range(60) for level in LEVELS for seed in (0, 1)}
        for split in SPLITS
    }
    assert not keys["train"] & keys["test"]
    assert not keys["train"] & keys["validation"]
    assert not keys["validation"] & keys["test"]


@families
def test_the_same_arguments_give_the_same_problem_and_trace(name: str) -> None:
    one, other = get_task(name), type(get_task(name))()
    problem = one.problem("validation", 5, 2, 3)
    assert problem == other.problem("validation", 5, 2, 3)
    assert one.trace(problem, random.Random(1)) == other.trace(problem, random.Random(1))
    assert problem.text != one.problem("validation", 6, 2, 3).text or name == "puzzle24"


@families
def test_test_problems_are_distinct_and_findable_by_their_id(name: str) -> None:
    task = get_task(name)
    problems = list(task.problems("test", 30, 1))
    assert len({task.key(problem) for problem in problems}) == 30
    for problem in problems:
        family, split, level, index = problem.id.split("/")
        assert (family, split, level) == (name, "test", "1")
        assert task.problem("test", int(index), 1) == problem
        assert problem.metadata["level"] == 1


@pytest.mark.slow
@families
def test_every_family_has_250_distinct_test_problems_over_its_levels(name: str) -> None:
    task = get_task(name)
    assert len({task.key(problem) for problem in mixture("test", 250, families=[name])}) == 250


@pytest.mark.slow
@families
def test_the_recipe_of_nano_finds_the_problems_that_it_asks_for(name: str) -> None:
    """200 of each family to test and 50 to validate, at the two levels that nano learns (recipes/nano)."""
    assert len(list(mixture("test", 200, (1, 2), [name]))) == 200
    assert len(list(mixture("validation", 50, (1, 2), [name]))) == 50


@families
@levels
def test_gold_answers_are_right(name: str, level: int) -> None:
    for problem in get_task(name).problems("train", 100, level):
        assert problem.answer is not None
        assert is_right(problem, problem.answer)


@families
@levels
def test_an_answer_is_right_unless_the_trace_says_otherwise(name: str, level: int) -> None:
    for problem, trace in traces(name, level):
        assert is_right(problem, trace.answer) == trace.learn_answer, trace.thinking
        last = trace.step_texts[-1]
        assert last == f"So {trace.answer}, {'checked' if trace.learn_answer else 'doubtful'}"


@families
@levels
def test_learned_results_are_true(name: str, level: int) -> None:
    for _, trace in traces(name, level):
        for step in trace.steps:
            assert_learned_is_true(step)


@families
@levels
def test_a_verdict_stands_beside_what_it_compares_and_agrees_with_it(name: str, level: int) -> None:
    for _, trace in traces(name, level):
        for text in trace.step_texts:
            if text.endswith((", right", ", wrong")):
                assert verdict_agrees(text), text


@families
@levels
def test_a_false_result_is_found_wrong_in_its_step(name: str, level: int) -> None:
    """Except in a try, which is checked in the steps behind it."""
    for _, trace in traces(name, level):
        for step, text in zip(trace.steps, trace.step_texts, strict=True):
            is_try = text.endswith((", yes", ", no"))
            if not is_try and not text.startswith("So") and not text.endswith(" prime"):
                assert all(segment.learn for segment in step) != text.endswith(", wrong") or text.startswith("uses")


@families
@levels
def test_the_end_is_in_doubt_where_a_check_has_failed_and_nothing_was_done_about_it(name: str, level: int) -> None:
    for _, trace in traces(name, level):
        if name in SEARCHES:
            gave_up = "Give up" in trace.step_texts
            assert trace.learn_answer == (not gave_up and trace.step_texts[-2].endswith(", right"))
            continue
        failed = [
            text
            for text, following in pairwise(trace.step_texts)
            if text.endswith(", wrong") and not following.startswith("Again ")
        ]
        assert trace.learn_answer != bool(failed)


@families
@levels
def test_a_step_written_anew_is_the_same_operation_and_right(name: str, level: int) -> None:
    for _, trace in traces(name, level):
        for text, following in pairwise(trace.step_texts):
            if following.startswith("Again "):
                assert following.removeprefix("Again ").split(" = ")[0] == text.split(" = ")[0]
                assert text.endswith(", wrong")
                assert following.endswith(", right")


@families
@levels
def test_steps_are_short_lines_with_one_end(name: str, level: int) -> None:
    for _, trace in traces(name, level):
        assert trace.thinking == "\n" + "".join(text + STEP_END for text in trace.step_texts)
        for text in trace.step_texts:
            assert "\n" not in text
            assert not text.endswith(".")
            assert text.replace("×", "*").isascii()
        assert len(trace.steps) >= 2
        assert len(trace.thinking) <= 650


@families
def test_segments_join_to_the_completion(name: str) -> None:
    for _, trace in traces(name, 2):
        segments = trace.segments()
        text = "".join(segment.text for segment in segments)
        assert text == trace.thinking + "</think>\n\n\\boxed{" + trace.answer + "}"
        assert all(a.learn != b.learn for a, b in pairwise(segments))
        assert segments[-1] == Segment("}") or trace.learn_answer


@families
def test_some_traces_fail_their_check_and_some_of_those_recover(name: str) -> None:
    drawn = [trace for level in LEVELS for _, trace in traces(name, level)]
    failed = [trace for trace in drawn if any(text.endswith(", wrong") for text in trace.step_texts)]
    repaired = [trace for trace in failed if trace.learn_answer]
    assert 0.25 < len(failed) / len(drawn) < 0.5
    assert 0.02 < len(repaired) / len(failed) < 0.2


def test_a_mixture_takes_families_and_levels_in_turn() -> None:
    problems = list(mixture("train", 60))
    assert [problem.family for problem in problems[:10]] == list(TASKS)
    for name in TASKS:
        assert {problem.metadata["level"] for problem in problems if problem.family == name} == set(LEVELS)


def test_a_mixture_of_test_problems_has_no_repeats_across_levels() -> None:
    problems = list(mixture("test", 120, families=["lcm", "gcd"]))
    assert len({(problem.family, get_task(problem.family).key(problem)) for problem in problems}) == 120


def test_an_exhausted_level_says_how_many_there_are() -> None:
    with pytest.raises(InputError, match=r"no more than \d+ distinct test problems at level 1"):
        list(get_task("puzzle24").problems("test", 1000, 1))


def test_an_unknown_name_gets_the_nearest_known_one() -> None:
    with pytest.raises(InputError, match="Did you mean 'countdown'"):
        get_task("count_down")
    with pytest.raises(InputError, match="no level 4"):
        get_task("gcd").problem("test", 0, level=4)
    with pytest.raises(InputError, match="unknown split 'dev'"):
        get_task("gcd").problem("dev", 0)  # type: ignore[arg-type]


def test_a_step_must_not_hold_a_step_end() -> None:
    for text in ("2 + 2 = 4.", "a.\n\nb", " "):
        with pytest.raises(ValueError, match="a step"):
            Trace(((Segment(text),),), "4")
