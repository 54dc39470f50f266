"""The final answer in a response: where it is looked for, and what counts."""

from __future__ import annotations

import pytest

from reflective.types import Problem
from reflective.verify import answer_part, extract_answer, grade


@pytest.mark.parametrize(
    ("response", "part"),
    [
        ("<think>2 + 2 is 4</think>The answer is 4.", "The answer is 4."),
        ("2 + 2 is 4\n</think>\n\n4", "4"),
        ("<think>so the answer is \\boxed{4}", None),
        ("The answer is \\boxed{4}", None),
        ("", None),
        ("<think>a</think>", ""),
        ("<think>a</think>4 <think>no, \\boxed{5}", "4"),
        ("<think>a</think>4 <think>or 5</think> it is", "4  it is"),
        ("<think>a</think>4</think>", "4</think>"),
    ],
)
def test_the_answer_part_is_what_stands_behind_finished_thinking(response: str, part: str | None) -> None:
    assert answer_part(response) == part


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        # boxes
        ("so \\boxed{5}", "5"),
        ("$\\boxed{\\frac{1}{2}}$.", "\\frac{1}{2}"),
        ("\\boxed{\\sqrt{\\frac{a}{b}}} done", "\\sqrt{\\frac{a}{b}}"),
        ("first \\boxed{3}, no: it is \\boxed{4}", "4"),
        ("\\fbox{7}", "7"),
        ("\\boxed 5", "5"),
        ("\\boxed 54.", "54"),
        ("\\boxed\\frac{1}{2}", "\\frac{1}{2}"),
        ("\\\\boxed{5}", "5"),
        ("\\boxed{\\boxed{5}}", "5"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("\\boxed{5}. I have put it within \\boxed{}.", "5"),
        ("a typo \\boxed{\\frac{1}{2} and then \\boxed{3}", "3"),
        ("\\boxed{1} and \\boxed{-2}", "1, -2"),
        ("$\\boxed{1}$ or $\\boxed{2}$", "1, 2"),
        ("\\boxed{5} \\boxed{5}", "5"),
        ("\\boxed{5}. The answer is 6.", "5"),
        # a box that the text ends in
        ("The answer is \\boxed{12", None),
        ("\\boxed{5} wait, it is \\boxed{6", None),
        # cues
        ("The final answer is 5.", "5"),
        ("The final answer is $5$. I hope it is correct.", "5"),
        ("The answer is 3.5 because of that.", "3.5"),
        ("Answer: 42", "42"),
        ("**Answer:** $\\frac{1}{2}$", "\\frac{1}{2}"),
        ("**Answer**: 12", "12"),
        ("Answer:\n\n$x^2 + 1$", "x^2 + 1"),
        ("Some steps 1 + 1 = 2.\n#### 1,234", "1,234"),
        ("#### -5", "-5"),
        ("答案是5。", "5"),
        ("所以答案：$\\frac{1}{2}$。", "\\frac{1}{2}"),
        ("最终答案为 12", "12"),
        ("<answer>7</answer>", "7"),
        ("The answer is 3. No, the answer is 4.", "4"),
        ("The answer is 42 apples.", "42 apples"),
        ("The answer is that she has 18 dollars.", "18"),
        ("The answer is Evelyn.", "Evelyn"),
        ("The answer is $5$ million.", "5 million"),
        ("The answer is $1$ or $2$.", "1, 2"),
        ("The answer is $18 per day.", "$18 per day"),
        # without a cue
        ("5", "5"),
        ("5x + 3", "5x + 3"),
        ("x = 5", "x = 5"),
        ("Hence there are 12 ways.", "12"),
        ("We get $x = 3$ and thus\n$$y = \\frac{1}{2}$$", "y = \\frac{1}{2}"),
        ("She pays $18 in all", "$18"),
        ("First 10-5 and then\nthere are 3 or 5", "3, 5"),
        ("The temperature\nis -5", "-5"),
        ("", None),
        ("   \n", None),
        ("I do not know\nwhat to say.", None),
        ("The sea is calm tonight", None),
        ("Roses are red, violets are blue,\nand no one knows what the wind will do.", None),
        ("The three friends went home.", None),
        ("She has three left.", "three"),
        ("The day is Tuesday.", "Tuesday"),
    ],
)
def test_math(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("\\boxed{B}", "B"),
        ("\\boxed{\\text{B}}", "B"),
        ("$\\boxed{\\textbf{(B)}}$", "B"),
        ("\\boxed{B. the third}", "B"),
        ("The answer is B", "B"),
        ("The answer is (C).", "C"),
        ("The correct answer is **D**.", "D"),
        ("the answer is b", "B"),
        ("ANSWER: C", "C"),
        ("Answer: A because the others fail", "A"),
        ("答案：B", "B"),
        ("答案是 C。", "C"),
        ("所以选B。", "B"),
        ("应选（D）", "D"),
        ("正确答案是选项A", "A"),
        ("**B**", "B"),
        ("A is wrong and\nso it is **C. listen to the medium**", "C"),
        ("(A) fails, (B) holds\ntherefore (B)", "B"),
        ("Ｂ", "B"),
        ("B", "B"),
        ("B. 监听介质", "B"),
        ("The answer is A or B", "A, B"),
        ("\\boxed{AC}", "A, C"),
        ("The answer is a hard one to find", None),
        ("The answer is I think unclear", None),
        ("No idea", None),
        ("", None),
    ],
)
def test_choice(text: str, answer: str | None) -> None:
    assert extract_answer(text, "choice") == answer


@pytest.mark.parametrize(
    ("text", "kind", "answer"),
    [
        ("\\boxed{(8-2) \\times 4}", "expression", "(8-2) \\times 4"),
        ("The answer is (8 - 2) * 4 = 24.", "expression", "(8 - 2) * 4 = 24"),
        ("We use all numbers:\n(8 - 2) * 4\nThat is it", "expression", "(8 - 2) * 4"),
        ("Solution: (8-2)*4", "expression", "(8-2)*4"),
        ("nothing works", "expression", None),
        ("2 × 2 × 5", "factors", "2 × 2 × 5"),
        ("The answer is 2 × 2 × 5.", "factors", "2 × 2 × 5"),
        ("olleh", "exact", "olleh"),
        ("The answer is: olleh", "exact", "olleh"),
        ("two lines\nof prose", "exact", None),
        ("something", "a kind of a user's own", "something"),
    ],
)
def test_other_kinds(text: str, kind: str, answer: str | None) -> None:
    assert extract_answer(text, kind) == answer


def test_two_boxed_answers_do_not_hedge() -> None:
    problem = Problem("", "5")
    assert grade(problem, extract_answer("It is \\boxed{3} or \\boxed{5}")).kind == "wrong"


def test_numbers_in_unfinished_thinking_are_never_an_answer() -> None:
    for response in ("<think>\\boxed{5}", "the answer is 5", "<think>#### 5\n"):
        assert answer_part(response) is None


@pytest.mark.parametrize(
    ("text", "kind", "answer"),
    [
        ("So:\n<answer>1 2\n3 4</answer>", "exact", "1 2\n3 4"),
        ("<answer>\n2 < 3 > 1\n</answer>", "gym", "2 < 3 > 1"),
        ("<answer>a, which is for me. Or not</answer>", "gym", "a, which is for me. Or not"),
        ("<answer>1</answer> no, <answer>2</answer>", "gym", "2"),
        ("<answer>1</answer> no, <answer></answer>", "gym", "1"),
        ("<answer>1 <answer>2</answer>", "list", "2"),
        ('\\boxed{[{"A": "move"}]}', "gym", '[{"A": "move"}]'),
        ("Two lines:\n```\n1 2\n3 4\n```\nThat is it.", "gym", "1 2\n3 4"),
        ("1 2\n3 4\n", "gym", "1 2\n3 4"),
        ("<answer>The answer is 5.</answer>", "math", "5"),
        ("<answer>" + "a<b" * 200_000, "gym", None),
    ],
)
def test_tags_and_fences_hold_answers_of_many_lines(text: str, kind: str, answer: str | None) -> None:
    assert extract_answer(text, kind) == answer
