"""Confidence from token figures, by hand."""

import math

import pytest

from reflective.confidence import GROUP_WINDOW, confidence_of, self_certainty_of, window_for


def test_the_window_is_an_eighth_of_a_short_trajectory_and_never_longer_than_the_authors():
    assert [window_for(n) for n in (1, 8, 9, 80, 10**6)] == [1, 1, 2, 10, GROUP_WINDOW]


def test_groups_tail_and_bottom_by_hand():
    # 16 tokens: window 2, 15 groups; the lowest is (0 + 1) / 2, a tenth of 15 is 1 group
    tokens = [4.0] * 6 + [0.0, 1.0] + [3.0] * 6 + [2.0, 6.0]
    got = confidence_of(tokens)
    assert got.mean == pytest.approx(sum(tokens) / 16)
    assert got.lowest_group == got.bottom10 == pytest.approx(0.5)
    assert got.tail == pytest.approx(4.0)


def test_the_bottom_is_a_tenth_of_the_groups():
    # 160 tokens: window 20, 141 groups, 14 of them; the values rise, so the lowest groups are the first
    tokens = [float(i) for i in range(160)]
    assert confidence_of(tokens).bottom10 == pytest.approx(sum(9.5 + i for i in range(14)) / 14)


def test_nothing_is_known_of_no_token_or_a_broken_figure():
    assert confidence_of(()) is None and self_certainty_of(()) is None
    assert confidence_of((1.0, math.inf)) is None and self_certainty_of((math.nan,)) is None
    assert self_certainty_of((1.0, 2.0)) == 1.5


def test_a_record_keeps_them_and_comes_back():
    from reflective import Record, Scripted, ScriptedEngine
    from reflective.search import solve

    script = [Scripted("so.\n\nyes.\n\n</think>\\boxed{4}", [1.0, 2.0], certainties=[1.0, 3.0], confidences=[2.0])]
    record = Record.of(solve(ScriptedEngine(script), "2+2?", 1))
    t = record.trajectories[0]
    assert t.self_certainty == pytest.approx(2.0, abs=0.2) and t.confidence_mean == t.confidence_tail == 2.0
    assert [t.thinking[:end] for end in t.step_ends] == ["so.", "so.\n\nyes."]
    assert Record.from_json(record.to_json()) == record
    bare = Record.of(solve(ScriptedEngine([Scripted("a</think>b")]), "2+2?", 1)).trajectories[0]
    assert bare.self_certainty is bare.confidence_mean is None
