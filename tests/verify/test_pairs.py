"""10,100 pairs of answers with their verdicts, and 190 texts with the answers that they state.

The pairs are from the tests of other graders and from real golds, respelled and corrupted; each was judged by eye, by
the rules of `verify/math/grader.py`. Half of the first 1,580 was split off, by a hash, before the graders were changed
for the other half; 847 more were split off before they were graded for the first time. The 1,699 of heldout.jsonl were
written and judged before any of them was graded, and so were the 1,711 of fourth.jsonl and the 827 and 412 of
fifth.jsonl and sixth.jsonl, where an answer may be a whole text: `first_look` is what the grader said then, where it
erred. The 804 of seventh.jsonl are whole texts; its second split was written when the faults of the first were mended.
The 2,051 of eighth.jsonl are bare answers and texts in four splits, written in the same way.
docs/grading.md says what was measured at that first time, and names what is left.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reflective.types import Problem
from reflective.verify import extract_answer, grade

CASES = Path(__file__).parent / "cases"
MAX_SHARE = 0.005  # of each kind of error on the half that was split off


def rows(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (CASES / name).read_text(encoding="utf-8").splitlines()]


def faults(pairs: list[dict[str, str]]) -> list[tuple[str, str, str]]:
    """(verdict that was expected, gold, answer) of the pairs that are graded otherwise."""

    def kind(pair: dict[str, str]) -> str:
        problem = Problem("", pair["gold"], kind=pair.get("problem", "math"))
        answer = extract_answer(pair["answer"], problem.kind) if pair.get("text") else pair["answer"]
        return grade(problem, answer, time_limit_s=60.0).kind

    with ThreadPoolExecutor(2) as pool:
        graded = zip(pairs, pool.map(kind, pairs), strict=True)
        return [(pair["verdict"], pair["gold"], pair["answer"]) for pair, got in graded if got != pair["verdict"]]


def test_the_table_is_large_and_half_of_its_first_part_was_held_out() -> None:
    pairs = rows("pairs.jsonl")
    held_out = [pair for pair in pairs if pair["split"] == "held-out"]
    assert len(pairs) >= 2600 and 0.2 < len(held_out) / len(pairs) < 0.6
    assert len({(pair["gold"], pair["answer"]) for pair in pairs}) == len(pairs)
    assert all(pair["verdict"] in ("right", "wrong") for pair in pairs)


def test_the_half_that_was_looked_at_is_graded_as_people_judge() -> None:
    assert faults([pair for pair in rows("pairs.jsonl") if pair["split"] == "dev"]) == []


@pytest.mark.parametrize("split", ["held-out", "second held-out"])
def test_what_was_split_off_has_at_most_five_errors_in_a_thousand_of_each_kind(split: str) -> None:
    held_out = [pair for pair in rows("pairs.jsonl") if pair["split"] == split]
    found = faults(held_out)
    for verdict in ("right", "wrong"):
        of_these = [fault for fault in found if fault[0] == verdict]
        assert len(of_these) <= MAX_SHARE * sum(pair["verdict"] == verdict for pair in held_out), of_these


@pytest.mark.parametrize(
    ("name", "earlier", "counts", "first", "left"),
    [
        ("heldout.jsonl", ["pairs.jsonl"], (917, 782), (28, 1), (2, 0)),
        ("fourth.jsonl", ["pairs.jsonl", "heldout.jsonl"], (874, 837), (69, 4), (3, 0)),
        ("fifth.jsonl", ["pairs.jsonl", "heldout.jsonl", "fourth.jsonl"], (613, 214), (78, 8), (1, 0)),
        ("sixth.jsonl", ["pairs.jsonl", "heldout.jsonl", "fourth.jsonl", "fifth.jsonl"], (305, 107), (16, 0), (2, 0)),
        (
            "seventh.jsonl",
            ["pairs.jsonl", "heldout.jsonl", "fourth.jsonl", "fifth.jsonl", "sixth.jsonl"],
            (692, 112),
            (179, 19),
            (25, 3),
        ),
        (
            "eighth.jsonl",
            ["pairs.jsonl", "heldout.jsonl", "fourth.jsonl", "fifth.jsonl", "sixth.jsonl", "seventh.jsonl"],
            (1368, 683),
            (164, 18),
            (12, 1),
        ),
    ],
)
def test_the_later_sets_keep_what_was_wrong_at_first_and_have_few_errors_left(
    name: str, earlier: list[str], counts: tuple[int, int], first: tuple[int, int], left: tuple[int, int]
) -> None:
    pairs = rows(name)
    of = {verdict: [pair for pair in pairs if pair["verdict"] == verdict] for verdict in ("right", "wrong")}
    assert tuple(len(of[verdict]) for verdict in of) == counts
    assert tuple(sum("first_look" in pair for pair in of[verdict]) for verdict in of) == first
    seen = {(pair["gold"], pair["answer"]) for file in earlier for pair in rows(file)}
    assert not seen & {(pair["gold"], pair["answer"]) for pair in pairs}
    found = faults(pairs)
    for verdict, most in zip(of, left, strict=True):
        of_these = [fault for fault in found if fault[0] == verdict]
        assert len(of_these) <= most, of_these


@pytest.mark.parametrize("kind", ["math", "choice"])
def test_answers_are_found_in_the_languages_and_the_markdown_that_models_write(kind: str) -> None:
    texts = [row for row in rows("extraction.jsonl") if row["kind"] == kind]
    found = [(row["text"], row["answer"], extract_answer(row["text"], kind)) for row in texts]
    assert [case for case in found if case[1] != case[2]] == []


UNITS = "m cm km kg g ml l L s h min mph km/h m² cm³ ft mi kg. m, °C 元 个 只 米 厘米 人 рублей".split()


@pytest.mark.parametrize("number", ["15", "2.5", "1,250", "0.75", "120"])
def test_a_number_ends_where_its_digits_end_whatever_unit_is_glued_to_it(number: str) -> None:
    for unit in UNITS:
        for sentence in ("The result is {} long.", "We find {}", "一共是{}。", "So it weighs {} in all."):
            stated = extract_answer(sentence.format(number + unit)) or ""
            assert grade(Problem("", number), stated).kind == "right", (sentence, unit, stated)
            assert grade(Problem("", number[0]), stated).kind == "wrong" or (number == "2.5" and stated[0] == "2.")


@pytest.mark.parametrize(
    "joined", [" and ", " or ", ", ", " ", "\\quad\\text{or}\\quad ", "、", " 和 ", "; ", "$ and $"]
)
def test_boxes_that_are_only_joined_are_one_list(joined: str) -> None:
    text = f"$\\boxed{{3}}{joined}\\boxed{{5}}$"
    assert extract_answer(text) == "3, 5" and extract_answer(f"So {text}.") == "3, 5"
    assert extract_answer(text.replace(joined, " is less than ")) == "5"


def test_all_letters_of_a_choice_are_wanted_and_no_others() -> None:
    for gold in ("A C", "AC", "A, C", "CA", "A and C"):
        for answer in ("A C", "AC", "C, A", "(A)(C)", "A and C", "**A, C**", "A、C", "both A and C"):
            assert grade(Problem("", gold, kind="choice"), answer).kind == "right", (gold, answer)
        for answer in ("A", "C", "ABC", "A B C D", "AD"):
            assert grade(Problem("", gold, kind="choice"), answer).kind == "wrong", (gold, answer)
    assert grade(Problem("", "A", kind="choice"), "A B C D").kind == "wrong"


def test_a_second_closing_mark_ends_no_answer() -> None:
    assert extract_answer("The answer is 4.</think>") == "4"
    assert extract_answer("I said 3.</think>The answer is 4.") == "4"
    assert extract_answer("\\boxed{3}</think>\\boxed{4}") == "4"
