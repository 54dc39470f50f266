"""Where steps end: each rule of the definition on a case written by hand, then against independent statements of it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflective.errors import CheckpointError, InputError
from reflective.judge.detection import step_ids_by_rule
from reflective.judge.format import Format, Reader, between_marks, closing_span, step_positions

A, B, STOP, STOP2, THINK, END, TURN = range(7)
RULE = between_marks(frozenset({STOP, STOP2}), THINK, END, turn_ids=frozenset({TURN}))
LAST = between_marks(frozenset({STOP, STOP2}), THINK, END, closes="last", turn_ids=frozenset({TURN}))
OPEN = (A, THINK)  # a prompt whose template opens the thinking


def think_end_index(format: Format, response: list[int], prompt: Sequence[int] = ()) -> int | None:
    """Where the mark that closes the reasoning stands."""
    span = closing_span(format, response, prompt)
    return span[0] if span is not None else None


tokens = st.integers(A, TURN)
responses = st.lists(tokens, max_size=24)
prompts = st.lists(tokens, max_size=8)


def test_a_step_ends_at_each_step_token() -> None:
    assert step_positions(RULE, [A, STOP, B, A, STOP2, B], OPEN) == [1, 4]


def test_adjacent_step_tokens_count_once() -> None:
    assert step_positions(RULE, [A, STOP, STOP2, STOP, B, STOP], OPEN) == [1, 5]


def test_a_step_token_right_after_think_does_not_count() -> None:
    assert step_positions(RULE, [THINK, STOP, A, STOP]) == [3]


def test_a_step_token_right_after_a_prompt_that_ends_in_think_does_not_count() -> None:
    assert step_positions(RULE, [STOP, A, STOP], OPEN) == [2]


def test_a_step_token_that_follows_one_in_the_prompt_does_not_count() -> None:
    assert step_positions(RULE, [STOP, A, STOP], [THINK, A, STOP]) == [2]


def test_without_think_there_is_no_step() -> None:
    assert step_positions(RULE, [A, STOP, B, STOP], [A]) == []


def test_unclosed_thinking_counts_to_its_end() -> None:
    assert step_positions(RULE, [THINK, A, STOP, B, STOP]) == [2, 4]


def test_nothing_after_the_first_think_end_counts() -> None:
    response = [A, STOP, END, A, STOP, END, A, STOP]
    assert step_positions(RULE, response, OPEN) == [1]
    assert think_end_index(RULE, response, OPEN) == 2


def test_the_reference_reads_to_the_last_think_end() -> None:
    response = [A, STOP, END, A, STOP, END, A, STOP]
    assert step_positions(LAST, response, OPEN) == [1, 4]
    assert think_end_index(LAST, response, OPEN) == 5


def test_a_second_thinking_is_answer_text() -> None:
    assert step_positions(RULE, [THINK, A, STOP, END, THINK, A, STOP, END]) == [2]


def test_empty_thinking_has_no_step() -> None:
    assert step_positions(RULE, [END, A, STOP], OPEN) == []
    assert think_end_index(RULE, [END, A, STOP], OPEN) == 0


def test_a_step_token_as_last_token_counts() -> None:
    assert step_positions(RULE, [A, STOP], OPEN) == [1]


def test_a_step_token_right_before_think_end_counts() -> None:
    assert step_positions(RULE, [A, STOP, END], OPEN) == [1]


def test_step_tokens_of_the_prompt_are_not_steps() -> None:
    assert step_positions(RULE, [A, STOP], [THINK, A, STOP, B]) == [1]


def test_a_think_that_the_user_wrote_opens_nothing() -> None:
    typed = [TURN, A, THINK, B, TURN]
    assert step_positions(RULE, [A, STOP, B, STOP], typed) == []
    assert think_end_index(RULE, [A, STOP, END], typed) is None
    assert step_positions(RULE, [THINK, A, STOP, END, A, STOP], typed) == [2]
    assert step_positions(RULE, [A, STOP], [*typed, THINK]) == [1]


def test_a_think_end_that_the_user_wrote_closes_nothing() -> None:
    assert step_positions(RULE, [A, STOP, END, B, STOP], [TURN, A, END, TURN, THINK]) == [1]


def test_closed_thinking_of_an_earlier_turn_leaves_it_closed() -> None:
    assert step_positions(RULE, [A, STOP], [THINK, A, END, B]) == []


def test_a_stray_think_end_before_think_closes_nothing() -> None:
    assert step_positions(RULE, [END, THINK, A, STOP, END]) == [3]
    assert step_positions(LAST, [END, THINK, A, STOP]) == [3]
    assert think_end_index(RULE, [END, THINK, A, STOP, END]) == 4


def test_nothing_at_all() -> None:
    assert step_positions(RULE, []) == []
    assert think_end_index(RULE, []) is None


def declared(rule: Format, response: list[int], prompt: list[int]) -> list[int]:
    """The definition again, by sets of positions and not by states."""
    text, start = [*prompt, *response], len(prompt)
    border = max((i for i in range(start) if text[i] in rule.turn_ids or text[i] == END), default=-1)
    opens = [i for i in range(len(text)) if text[i] == THINK and (i >= start or i > border)]
    if not opens:
        return []
    closes = [i for i in range(max(start, opens[0] + 1), len(text)) if text[i] == END] or [len(text)]
    end = closes[0] if rule.closes == "first" else closes[-1]
    return [
        i - start
        for i in range(max(start, opens[0]), end)
        if text[i] in rule.step_ids and text[i - 1] not in rule.step_ids and text[i - 1] != THINK
    ]


@given(response=responses, prompt=prompts)
def test_steps_are_those_of_the_declared_definition(response: list[int], prompt: list[int]) -> None:
    assert step_positions(RULE, response, prompt) == declared(RULE, response, prompt)


@given(response=responses, prompt=prompts)
def test_steps_to_the_last_think_end_are_those_of_the_declared_definition(
    response: list[int], prompt: list[int]
) -> None:
    assert step_positions(LAST, response, prompt) == declared(LAST, response, prompt)


@given(response=responses)
def test_the_reference_mask_agrees_where_the_template_opens_the_thinking(response: list[int]) -> None:
    """The reference's mask (`get_score_mask`): from the first <think> to the last </think> of prompt and response."""
    text = [A, B, THINK, *response]
    end = max((i for i, token in enumerate(text) if token == END), default=len(text) - 1)
    mask = [
        i - 3
        for i, token in enumerate(text)
        if token in (STOP, STOP2) and text[i - 1] not in (STOP, STOP2, THINK) and 2 <= i <= end
    ]
    assert step_positions(LAST, response, text[:3]) == mask


@given(response=responses, prompt=prompts, cut=st.integers(0, 24))
def test_a_continuation_sees_the_steps_that_the_whole_has(response: list[int], prompt: list[int], cut: int) -> None:
    tracker = Reader(RULE, prompt)
    for token in response[:cut]:
        tracker.push(token)
    twin = tracker.copy()
    rest = [i for i, token in enumerate(response[cut:], min(cut, len(response))) if twin.push(token)]
    whole = step_positions(RULE, response, prompt)
    assert [i for i in whole if i >= cut] == rest
    assert tracker.count == sum(i < cut for i in whole)
    assert twin.count == len(whole)


@given(response=responses, prompt=prompts)
def test_the_last_thinking_token_is_the_one_before_think_end(response: list[int], prompt: list[int]) -> None:
    end, tracker = think_end_index(RULE, response, prompt), Reader(RULE, prompt)
    for token in response[:end]:
        tracker.push(token)
    if end is None:
        assert tracker.reasoning or THINK not in response
    else:
        assert response[end] == END
        assert tracker.reasoning
        tracker.push(END)
        assert not tracker.reasoning


VOCABULARY = {0: "a", 1: ".\n\n", 2: ").\n\n", 3: "\n", 4: "。", 5: "abc\n", 6: "。\n\n", 7: ".\n"}


def test_reference_rule_takes_the_one_token_of_the_mark() -> None:
    assert step_ids_by_rule("reference", lambda text: [1] if text == ".\n\n" else [], VOCABULARY) == {1}


def test_reference_rule_refuses_a_tokenizer_that_splits_the_mark() -> None:
    with pytest.raises(CheckpointError, match=r"as 2 tokens.*'paper'"):
        step_ids_by_rule("reference", lambda text: [7, 3], VOCABULARY)


def test_paper_rule_takes_every_token_that_contains_the_mark() -> None:
    assert step_ids_by_rule("paper", lambda text: [1], VOCABULARY) == {1, 2}


def test_chinese_rule_takes_short_tokens_with_a_newline_or_full_stop() -> None:
    assert step_ids_by_rule("chinese", lambda text: [1], VOCABULARY) == {1, 3, 4, 6, 7}


def test_a_rule_that_finds_nothing_is_refused() -> None:
    with pytest.raises(CheckpointError, match="finds no token"):
        step_ids_by_rule("paper", lambda text: [1], {0: "a"})
    with pytest.raises(InputError, match="unknown step rule"):
        step_ids_by_rule("none", lambda text: [1], VOCABULARY)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("steps", "think", "end", "message"),
    [
        (frozenset(), THINK, END, "no step token"),
        (frozenset({STOP}), END, END, "same token"),
        (frozenset({STOP, THINK}), THINK, END, "can't be step tokens"),
    ],
)
def test_impossible_rules_are_refused(steps: frozenset[int], think: int, end: int, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        between_marks(steps, think, end)
