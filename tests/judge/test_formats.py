"""Formats beyond a pair of single tokens: whole responses, marks of several tokens, blank lines of newline tokens."""

from __future__ import annotations

import pytest

from reflective.errors import CheckpointError
from reflective.judge.format import Format, between_marks, closing_span, step_positions, whole_response

A, B, NEWLINE, BLANK, EOS, OPEN, TAG, SHUT, TURN = range(9)
WHOLE = whole_response({BLANK}, {EOS}, line_end_ids={NEWLINE, BLANK}, line_start_ids={NEWLINE})
# "<" think ">" and "</" think ">"; the last piece may come with a newline
MARKS = between_marks({BLANK}, [{OPEN}, {TAG}, {B, BLANK}], [{SHUT}, {TAG}, {B, BLANK}], turn_ids={TURN})


def test_the_end_of_a_whole_response_closes_its_last_step() -> None:
    assert step_positions(WHOLE, [A, BLANK, B, EOS]) == [1, 3]
    assert step_positions(WHOLE, [A, B]) == []  # cut: the last step is not complete
    assert WHOLE.completed([A, B]) == [A, B, EOS] and WHOLE.completed([A, EOS]) == [A, EOS]


def test_an_end_right_behind_a_step_token_ends_no_empty_step() -> None:
    assert step_positions(WHOLE, [A, BLANK, EOS]) == [1]
    assert step_positions(WHOLE, [BLANK, A, EOS]) == [2]  # a blank line before the first word is no step
    assert step_positions(WHOLE, [EOS]) == []


def test_nothing_behind_the_end_counts() -> None:
    assert step_positions(WHOLE, [A, EOS, A, BLANK, A, EOS]) == [1]


def test_two_newline_tokens_make_a_blank_line() -> None:
    assert step_positions(WHOLE, [A, NEWLINE, B, NEWLINE, NEWLINE, A, EOS]) == [4, 6]
    assert step_positions(WHOLE, [A, NEWLINE, NEWLINE, NEWLINE, NEWLINE, B, EOS]) == [2, 6]
    assert step_positions(WHOLE, [A, NEWLINE, B, NEWLINE, A, EOS]) == [5]


def test_a_whole_response_has_no_mark_and_any_prompt_opens_it() -> None:
    assert WHOLE.is_whole and closing_span(WHOLE, [A, EOS]) is None and WHOLE.opening_ids == ()
    assert WHOLE.open([TURN, A]).reasoning


def test_marks_may_be_several_tokens_long() -> None:
    prompt = [TURN, A, TURN, OPEN, TAG, B]
    response = [A, BLANK, B, BLANK, SHUT, TAG, B, A, BLANK]
    assert MARKS.open(prompt).reasoning and not MARKS.open([TURN, OPEN, TAG, B, TURN]).reasoning
    assert step_positions(MARKS, response, prompt) == [1, 3]
    assert closing_span(MARKS, response, prompt) == (4, 7)
    assert step_positions(MARKS, [OPEN, TAG, BLANK, A, BLANK, SHUT, A, SHUT, TAG, BLANK, A, BLANK]) == [4]
    reader = MARKS.open(prompt)
    assert [reader.push(token) for token in response[:7]] == [False, True, False, True, False, False, False]
    assert reader.closed_at == 6 and not reader.reasoning


def test_only_a_mark_at_the_end_counts_where_the_template_marks_no_turns() -> None:
    plain = between_marks({BLANK}, OPEN, SHUT, plain_turns=True)
    assert plain.open([A, B, OPEN, NEWLINE]).reasoning  # the template's own
    assert not plain.open([A, OPEN, B, A, A, B]).reasoning  # typed by the user, with the assistant's turn behind it


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"step_ids": frozenset()}, "no step token"),
        ({"step_ids": frozenset({BLANK}), "opening": (frozenset({A}),)}, "both an opening and a closing"),
    ],
)
def test_impossible_formats_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        Format(**fields)  # type: ignore[arg-type]
