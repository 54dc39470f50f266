"""Arithmetic read out of plain English."""

from __future__ import annotations

import pytest

from reflective.tasks.families.equations import equations


def read(solution: str, question: str) -> list[str] | None:
    found = equations(solution, question)
    if found is None:
        return None
    return [
        ", ".join(f"{o.left} {o.sign} {o.right} = {o.value}" for o in equation.operations)
        + (f" {equation.noun}" if equation.noun else "")
        for equation in found
    ]


@pytest.mark.parametrize(
    ("solution", "question", "expected"),
    [
        ("In all 240 clams / 4 clams/minute = 60 minutes", "240 clams, 4 a minute", ["240 / 4 = 60"]),
        ("so that's 0.6*100 = 60 students", "60% of 100 students", ["60 * 100 = 6000, 6000 / 100 = 60 students"]),
        ("She has $1,200 x 2 = $2,400", "Twice 1200", ["1200 * 2 = 2400"]),
        ("In total 3 + 8 + 4 = 15 slices", "3, 8 and 4 slices", ["3 + 8 = 11, 11 + 4 = 15 slices"]),
        ("1/3 * 3900 = 1300 rooms", "1/3 of 3900 rooms", ["3900 / 3 = 1300 rooms"]),
        ("The perimeter is 2(24+7) = 62", "24 by 7", ["24 + 7 = 31, 2 * 31 = 62"]),
        ("She has 30 + 41 signatures = 71 signatures", "30 and 41 signatures", ["30 + 41 = 71 signatures"]),
    ],
)
def test_equations_are_read(solution: str, question: str, expected: list[str]) -> None:
    assert read(solution, question) == expected


@pytest.mark.parametrize(
    ("solution", "question"),
    [
        ("5 * 0.5 = 2 tubes", "5 tubes"),  # false
        ("47 * 0.49 = 23.03", "47 screws of 0.49"),  # not whole
        ("T = 222 - 137 = 85", "222 toys"),  # where does 137 come from?
        ("so he is happy", "6 toys"),  # nothing to compute
    ],
)
def test_what_is_false_or_broken_or_of_unknown_origin_is_refused(solution: str, question: str) -> None:
    assert read(solution, question) is None
