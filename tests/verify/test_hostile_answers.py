"""Answers that are written to crash, hang or fool a grader."""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reflective.types import Problem
from reflective.verify import GRADERS, answer_part, extract_answer, grade
from reflective.verify.text import to_latex

pytestmark = pytest.mark.slow

MEGABYTE = 1_000_000

HOSTILE = {
    "a megabyte of digits": "7" * MEGABYTE,
    "a megabyte of boxes": "\\boxed{" * (MEGABYTE // 7),
    "a megabyte between boxes": "\\boxed{3}" + "," * MEGABYTE + "\\boxed{4}",
    "a megabyte of open brackets": "\\(" * (MEGABYTE // 2),
    "a megabyte of cues": "answer is " * (MEGABYTE // 10),
    "a megabyte of spaces": "answer" + " " * MEGABYTE,
    "a megabyte of open thinking": "</think>" + "<think>" * (MEGABYTE // 7),
    "deep braces": "{" * 900 + "7" + "}" * 900,
    "deep parentheses": "(" * 900 + "7" + ")" * 900,
    "deep fractions": "\\frac{" * 200 + "1" + "}{2}" * 200,
    "deep roots": "\\sqrt{" * 190 + "2" + "}" * 190,
    "deep matrices": "\\begin{pmatrix}" * 60 + "1" + "\\end{pmatrix}" * 60,
    "signs": "-" * 1900 + "7",
    "exponents": "2" + "^2" * 600,
    "bars": "|" * 1900,
    "commas": "," * 1900,
    "dollars": "$" * 1999,
    "backslashes": "\\" * 1999,
    "plus-minus": "\\pm" * 300,
    "a power tower in Python": "10**10**10",
    "another": "9**9**9**9",
    "a power tower": "9^{9^{9^{9}}}",
    "a factorial": "((9!)!)!",
    "a huge binomial": "\\binom{10^9}{10^8}",
    "a huge exponential": "e^{10^{9}}",
    "a huge argument": "\\tan(10^{100})",
    "a tiny power": "10^{-1000000000}",
    "a division by zero": "\\frac{1}{0}",
    "a logarithm of zero": "\\log 0",
    "zero to the zero": "0^0",
    "a long sum": "\\sum_{k=1}^{10^{9}} k^{k}",
    "a long product": "\\prod_{k=1}^{10^{8}} k",
    "an integral": "\\int_0^1 \\int_0^1 x^{y^{x^{y}}} dx dy",
    "100,000 characters": "x + " * 25_000 + "1",
    "100,000 characters of prose": "It is said that 7 is not 8, and so on. " * 2_600,
    "a tower of exponents": "2^{" * 50 + "2" + "}" * 50,
    "boxes sixty deep": "\\boxed{" * 60 + "7" + "}" * 60,
    "an infinite series": "\\sum_{n=1}^{\\infty} \\frac{\\sin(n^2)}{n + \\pi^n}",
    "a series that diverges": "\\sum_{n=1}^{\\infty} n!",
    "half a surrogate": "\ud83d 7",
    "the other half": "7 \ude00",
    "right-to-left text": "الجواب هو ٧ \u202e21\u202c",
    "Hebrew": "\u200fהתשובה היא 7",
    "a matrix of matrices": "\\begin{pmatrix}"
    + "\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix} & " * 3
    + "7 \\end{pmatrix}",
    "a huge matrix": "\\begin{pmatrix}" + " \\\\ ".join([" & ".join("7" * 40)] * 20) + "\\end{pmatrix}",
    "underscores": "_a" * 50_000,
    "a megabyte of backticks": "`" * MEGABYTE,
    "calls in backticks": "`f(" * 30_000,
    "remarks in parentheses": "7 (ab" * 20_000,
    "formulas without dollars": "(1 + " * 20_000 + "x ≤ 1 : " * 10_000,
    "reasons": "1, since x because a for 3 of the 4 to be " * 2_500,
    "checks": "\nCheck: 1" * 10_000,
    "bullets": "\n- 7" * 25_000,
    "stars": "*a" * 50_000 + "**b" * 20_000,
    "spaced dollars": "$ a " * 30_000,
    "sets in sets": "\\{" * 100 + "7" + "\\}" * 100,
    "NUL": "3\x00",
    "an unpaired surrogate": "3\ud800",
    "only surrogates": "\udfff\udfff",
    "code": "__import__('os').system('exit 3')",
    "code in LaTeX": "\\text{__import__('os').system('exit 3')}",
    "eval": "eval('1+1')",
    "a tower of subscripts": "x_{" * 300 + "1" + "}" * 300,
    "a tower of texts": "\\text{" * 300 + "7" + "}" * 300,
    "a continued fraction": "\\cfrac{1}{1+" * 120 + "7" + "}" * 120,
    "nested roots of roots": "\\sqrt[" * 90 + "2" + "]{2}" * 90,
    "a remainder of a tower": "7^{7^{7^{7}}} \\bmod 13",
    "a root of huge degree": "\\sqrt[10^{9}]{2} + \\sqrt[10^{100}]{3}",
    "an exponent of a billion": "1e999999999",
    "a factorial of factorials": "(3!)" + "!" * 1900,
    "a long period": "0.\\overline{" + "142857" * 300 + "}",
    "a long number in a base": "1" * 1900 + "_{7}",
    "a plus-minus sign in every term": "1" + " \\pm 1" * 300,
    "colons": "1" + ":1" * 900,
    "slashes": "1" + "/7" * 900,
    "mixed numbers": "1 1/2 " * 300,
    "thousands": "1" + ",000" * 450,
    "halves": "½" * 1900,
    "superscripts": "2" + "⁷" * 1800,
    "root signs": "√" * 1900 + "7",
    "fractions without arguments": "\\frac" * 390,
    "open matrices": "\\begin{pmatrix}" * 130,
    "a determinant of 64 letters": "\\begin{vmatrix}"
    + " \\\\ ".join(" & ".join(f"x_{i + j}" for j in range(8)) for i in range(8))
    + "\\end{vmatrix}",
    "unions": "\\cup".join(f"({i}, {i + 1})" for i in range(150)),
    "inequalities": "x" + " < x" * 300,
    "names": "a_1 = 1, " * 200,
    "half-open brackets": "([" * 450 + "1, 2" + ")]" * 450,
    "zero-width spaces between digits": "\u200b".join("12" * 400),
    "accents on a digit": "7" + "\u0301" * 1900,
    "directions turned over and over": "\u202e\u2066" * 500 + "21" + "\u2069\u202c" * 500,
    "halves of surrogates the wrong way round": "\ude00\ud83d7" * 600,
    "noncharacters": "\uffff\ufffe7\ufdd0",
    "invisible tags": "\U000e0037" * 1000,
    "100,000 characters of closing marks": "7</think>" * 11_000,
    "100,000 characters of tags": "<answer>7" * 11_000,
    "100,000 characters of denials": "not 5 " * 17_000,
    "100,000 characters of ratios": "1:" * 50_000,
    "100,000 characters of numbers": "1 1/2, " * 14_000,
    "100,000 characters of bold": "**7** " * 17_000,
    "100,000 characters of parts": "(a) 7 (b) " * 10_000,
    "a part and 100,000 spaces": "(a) 7 (b)" + " " * 100_000 + "7",
    "100,000 characters taken back": "7. Wait, that's wrong. " * 4_300,
    "100,000 characters of stars": "**a " * 25_000,
    "100,000 characters of fences": "```\n" * 25_000,
    "100,000 characters of backslashes": "\\" * 100_000,
    "100,000 characters of half a surrogate": "\ud800" * 100_000,
    "100,000 characters of dollars": "$" * 100_000,
}


@pytest.mark.parametrize("kind", sorted(GRADERS))
@pytest.mark.parametrize("name", HOSTILE)
def test_no_hostile_answer_is_right_or_crashes_or_hangs(name: str, kind: str) -> None:
    problem = Problem("", "C" if kind == "choice" else "12", kind=kind, metadata={"numbers": [12], "target": 12})
    text = HOSTILE[name]
    start = time.monotonic()
    for answer in (text, extract_answer(text, kind), extract_answer(f"\\boxed{{{text}}}", kind), answer_part(text)):
        verdict = grade(problem, answer, time_limit_s=0.3)
        assert verdict.kind != "right"
        assert "the grader failed" not in verdict.reason  # a bug of ours, which `grade` would hide
    assert time.monotonic() - start < 60.0


def test_unicode_digits_are_digits() -> None:
    for answer in ("12", "１２", "١٢", "१२"):
        for kind in ("math", "exact", "factors"):
            assert grade(Problem("", "12", kind=kind), answer).kind == "right"


_PIECES = st.sampled_from(
    "1 2 07 .5 3.25 1,000 x y e i \\pi \\frac \\sqrt \\binom ^ _ ! + - * / = < > \\le \\ne ( ) [ ] { } \\{ \\} | , ; : "
    "% \\% \\$ $ ^\\circ \\text{cm} \\text{and} or \\cup \\pm \\in \\infty \\sin \\log \\begin{pmatrix} \\end{pmatrix} "
    "& \\\\ \\boxed{ million dollars \\overline ' A B (C) 答案 ² ½ \x00 \ud800".split(" ")
)


@settings(max_examples=max(400, settings().max_examples), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(gold=st.lists(_PIECES, min_size=1, max_size=7), answer=st.lists(_PIECES, min_size=1, max_size=7))
def test_random_notation_never_breaks_the_graders(gold: list[str], answer: list[str]) -> None:
    for kind in GRADERS:
        problem = Problem("", " ".join(gold), kind=kind, metadata={"numbers": [1, 2], "target": 2})
        for text in (" ".join(answer), "".join(answer)):
            stated = extract_answer(text, kind)
            for candidate in (text, stated):
                assert "the grader failed" not in grade(problem, candidate, time_limit_s=2.0).reason


@pytest.mark.parametrize("text", ["0." + "1" * 20_000, "0." + "12" * 10_000, "." + "123456" * 3_000])
def test_endless_digits_are_read_in_linear_time(text: str) -> None:
    began = time.process_time()
    to_latex(text)
    assert time.process_time() - began < 2.0, "12 s and more when every place was tried as the beginning of a period"
