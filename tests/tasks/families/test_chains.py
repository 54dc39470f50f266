"""The search among chains: hand-computed chains, brackets, and what a failed try teaches."""

from __future__ import annotations

import random
import re

from reflective.tasks.families.chains import Move, chains, expression, numbers_used, search_trace


def test_the_chains_over_two_numbers() -> None:
    assert {str(chain[0]) for chain in chains([2, 6])} == {"6 + 2 = 8", "6 - 2 = 4", "6 * 2 = 12", "6 / 2 = 3"}


def test_equal_numbers_give_no_zero_and_no_repeats() -> None:
    assert [str(chain[0]) for chain in chains([5, 5])] == ["5 + 5 = 10", "5 * 5 = 25", "5 / 5 = 1"]


def test_brackets_stand_where_they_are_needed() -> None:
    first = Move(8, "-", 5, 3)
    assert expression((first, Move(3, "*", 10, 30), Move(30, "-", 6, 24))) == "(8 - 5) * 10 - 6"
    assert expression((first, Move(12, "-", 3, 9, running_right=True))) == "12 - (8 - 5)"
    assert expression((Move(6, "/", 2, 3), Move(12, "/", 3, 4, running_right=True))) == "12 / (6 / 2)"
    assert expression((Move(6, "*", 2, 12), Move(14, "-", 12, 2, running_right=True))) == "14 - 6 * 2"


def test_every_chain_is_worth_what_its_expression_says() -> None:
    for chain in chains([2, 3, 7, 8]):
        assert eval(expression(chain)) == chain[-1].value
        assert sorted(map(int, re.findall(r"\d+", expression(chain)))) == [2, 3, 7, 8]


def test_tries_are_not_repeated_and_only_the_hit_is_learned_whole() -> None:
    for seed in range(200):
        trace = search_trace([3, 5, 8, 10], 25, random.Random(seed))
        tries = [text for text in trace.step_texts if text.endswith(", no")]
        assert len(set(tries)) == len(tries)
        assert len(tries) <= 6
        for step, text in zip(trace.steps, trace.step_texts, strict=True):
            if text.endswith(", no"):
                assert not step[0].learn  # the choice of the first two numbers
                assert step[-1].learn  # the outcome and the verdict
                assert not text.startswith("25")
        if trace.learn_answer:
            hit = next(i for i in reversed(range(len(trace.steps))) if trace.step_texts[i].endswith(", yes"))
            assert all(segment.learn for segment in trace.steps[hit])


def test_giving_up_is_said() -> None:
    drawn = [search_trace([3, 5, 8, 10], 25, random.Random(seed)) for seed in range(400)]
    given_up = [trace for trace in drawn if "Give up" in trace.step_texts]
    assert 0.07 < len(given_up) / len(drawn) < 0.18
    assert all(trace.step_texts[-1].endswith(", doubtful") for trace in given_up)


def test_the_numbers_used_are_those_that_the_chain_joins() -> None:
    for chain in chains([2, 3, 7, 8]):
        assert numbers_used(chain) == (2, 3, 7, 8)


def test_a_try_compares_its_last_value_with_the_target() -> None:
    for seed in range(200):
        for text in search_trace([3, 5, 8, 10], 25, random.Random(seed)).step_texts:
            if text.endswith((", yes", ", no")):
                value, target = re.findall(r"= (\d+) for (\d+), ", text)[0]
                assert target == "25"
                assert (value == target) == text.endswith(", yes")


def test_a_chain_that_seems_to_hit_is_gone_through_up_to_its_first_fault() -> None:
    first_bent = last_bent = wrong_number = 0
    for seed in range(300):
        texts = list(search_trace([3, 5, 8, 10], 25, random.Random(seed)).step_texts)
        for at, text in enumerate(texts):
            if not text.endswith(", yes"):
                continue
            moves = text.removesuffix(" for 25, yes").split(", ")
            checks = texts[at + 1 : at + 5]
            ends = next(i for i, check in enumerate(checks) if check.endswith(", wrong") or check.startswith("uses"))
            assert all(check.endswith(", right") for check in checks[:ends])
            assert [check.split(", ")[0] for check in checks[: ends + 1]][:3] == moves[: ends + 1]
            first_bent += ends == 0
            last_bent += ends == 2
            wrong_number += checks[ends].startswith("uses") and checks[ends].endswith(", wrong")
    assert min(first_bent, last_bent, wrong_number) > 5
