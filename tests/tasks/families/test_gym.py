"""Every family of the installed reasoning_gym: its golds are right, other answers are not, or it is refused by name."""

from __future__ import annotations

import json
import re
from collections import deque
from dataclasses import replace
from typing import Any

import pytest

from reflective.errors import InputError
from reflective.tasks import load_problems
from reflective.tasks.families.gym import PROMPT, gym_families
from reflective.types import Problem, Verdict
from reflective.verify import extract_answer, gym, self_check
from reflective.verify import grade as grade_in_5_s
from reflective.verify.gym.families import FAMILIES

factory = pytest.importorskip("reasoning_gym.factory")

REFUSED = {name for name, family in FAMILIES.items() if family.refused}


def grade(problem: Problem, answer: str | None) -> Verdict:
    return grade_in_5_s(problem, answer, time_limit_s=60.0)  # nothing here is about time, and CI may be slow


def problems(name: str, count: int = 1) -> list[Problem]:
    return load_problems(f"reasoning_gym:{name}", limit=count)


def item_of(problem: Problem) -> dict[str, Any]:
    """The package's item that a problem of kind "gym" was made from."""
    meta = problem.metadata
    item: dict[str, Any] = factory.create_dataset(meta["gym"], seed=meta["seed"])[meta["index"]]
    return item


def test_every_family_of_the_package_is_in_the_table_and_no_other() -> None:
    assert set(factory.DATASETS) == set(FAMILIES)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_has_no_grader_is_refused_by_name_with_the_reason(name: str) -> None:
    with pytest.raises(InputError, match=f"reasoning_gym:{name} can't be graded: {FAMILIES[name].refused[:20]}"):
        problems(name)


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - REFUSED))
def test_golds_are_right_and_other_answers_are_not(name: str) -> None:
    one, other = problems(name, 2)
    gold = solution_of(one)
    assert grade(one, gold).kind == "right"
    assert one.text.endswith(PROMPT.partition("{problem}")[2]) and one.family == f"reasoning_gym:{name}"
    # the gold comes back out of what a model would write, whatever signs and lines it has
    written = f"First 7, then B.\n\n<answer>{gold}</answer>"
    assert grade(one, extract_answer(written, one.kind)).kind == "right"
    assert self_check([one]) == []
    wrongs = ["unknown", "nan", "0.5771", "-987654321", "[]", "{}", f"{gold} and 7 more"]
    if name != "knights_knaves":  # whose answers are sentences: words beside them are let through
        wrongs.append(f"{gold}, {gold}, zz")
    for wrong in wrongs:
        assert grade(one, wrong).kind == "wrong", wrong
    if other.answer not in (None, one.answer):
        assert grade(one, other.answer).kind == "wrong"


def solution_of(problem: Problem) -> str:
    """The gold answer, or a solution of a family that states none."""
    if problem.answer is not None:
        return problem.answer
    item = item_of(problem)
    meta = item["metadata"]
    return {
        "boxnet": lambda: moves_of_boxes(meta["initial_state"]),
        "graph_color": lambda: json.dumps(meta["possible_answer"]),
        "propositional_logic": lambda: str(meta["example_answer"]),
        "rubiks_cube": lambda: str(meta["example_correct_answer"]).strip(),
        "rush_hour": lambda: way_out(meta["board_config"]),
    }[problem.metadata["gym"]]()


def moves_of_boxes(state: dict[str, list[str]]) -> str:
    """Every box to its target, a square at a time."""
    place = {thing: [float(x) for x in key.split("_")] for key, things in state.items() for thing in things}
    moves = []
    for box in sorted(thing for thing in place if thing.startswith("box_")):
        here, there = place[box], place[box.replace("box_", "target_")]
        for axis in (0, 1):
            while here[axis] != there[axis]:
                agent = f"Agent[{here[0]}, {here[1]}]"
                here[axis] += 1.0 if here[axis] < there[axis] else -1.0
                moves.append({agent: f"move({box}, square[{here[0]}, {here[1]}])"})
        moves.append({f"Agent[{here[0]}, {here[1]}]": f"move({box}, {box.replace('box_', 'target_')})"})
    return json.dumps(moves)


def way_out(board: str) -> str:
    """The shortest way for the car A to the right edge, a step at a time, breadth first."""
    cells = {c: [i for i, at in enumerate(board) if at == c] for c in sorted(set(board) - set("ox"))}
    walls = {i for i, at in enumerate(board) if at == "x"}
    stride = {car: where[1] - where[0] for car, where in cells.items()}
    start = tuple(where[0] for where in cells.values())
    # the package renames cars in the order of their letters
    names = {car: chr(ord("A") + i) for i, car in enumerate(cells)}
    came: dict[tuple[int, ...], tuple[tuple[int, ...], str]] = {start: (start, "")}
    queue = deque([start])
    while queue:
        state = queue.popleft()
        spans = [[at + j * stride[car] for j in range(len(cells[car]))] for car, at in zip(cells, state)]
        if spans[0][-1] % 6 == 5:
            way = []
            while came[state][1]:
                state, move = came[state]
                way.append(move)
            return " ".join(reversed(way))
        taken = walls | {i for span in spans for i in span}
        for n, (car, span) in enumerate(zip(cells, spans)):
            for sign, end in ((1, span[-1]), (-1, span[0])):
                to = end + sign * stride[car]
                same_row = stride[car] == 6 or to // 6 == end // 6
                if 0 <= to < 36 and same_row and to not in taken:
                    moved = (*state[:n], state[n] + sign * stride[car], *state[n + 1 :])
                    if moved not in came:
                        came[moved] = (state, f"{names[car]}{'+' if sign > 0 else '-'}1")
                        queue.append(moved)
    raise AssertionError("no way out")


# what has the package's full score and is wrong
FOOLS = [
    ("coin_flip", "0"),
    ("complex_arithmetic", "nan"),
    ("game_of_life_halting", "maybe"),
    ("gsm_symbolic", "{gold}0 pigs, no, {gold} or 3"),
    ("letter_jumble", "{gold} and more"),
    ("word_sorting", "{gold}, zebra"),
    ("polynomial_equations", "{gold}, whatever"),
]


@pytest.mark.parametrize(("name", "answer"), FOOLS)
def test_what_fools_the_packages_scorer_is_wrong_here(name: str, answer: str) -> None:
    (problem,) = problems(name)
    text = answer.format(gold=problem.answer)
    if problem.kind != "gym":
        assert grade(problem, text).kind == "wrong"
        return
    item = item_of(problem)
    assert factory.create_dataset(name).score_answer(text, item) == 1.0
    assert grade(problem, text).kind == "wrong"


def test_part_of_an_answer_is_wrong() -> None:
    (problem,) = problems("tower_of_hanoi")
    moves = (problem.answer or "").splitlines()
    disk, source, target = re.findall(r"\d+", moves[0])
    detour = [moves[0], f"Move disk {disk} from Peg {target} to Peg {source}", *moves]
    verdict = grade(problem, "\n".join(detour))
    assert verdict.kind == "wrong" and verdict.reason.startswith("score 0.")
    assert grade(problem, "\n".join(moves[:-1])).kind == "wrong"


def test_a_target_may_not_be_moved_to_its_box() -> None:
    (problem,) = problems("boxnet")
    cheat = [{"Agent[0.5, 0.5]": "move(target_red, square[0.5, 1.5])"}, *json.loads(solution_of(problem))]
    assert "is not allowed" in grade(problem, json.dumps(cheat)).reason


@pytest.mark.parametrize("name", ["rush_hour", "rubiks_cube"])
def test_huge_repetitions_are_wrong_at_once(name: str) -> None:
    (problem,) = problems(name)
    assert grade(problem, "A+999999999999 U999999999999").kind == "wrong"


def test_an_answer_is_never_evaluated(tmp_path: Any) -> None:
    hit = tmp_path / "hit"
    code = f"__import__('pathlib').Path({str(hit)!r}).touch()"
    for name in FAMILIES:
        if FAMILIES[name].why.startswith("hands"):
            (problem,) = problems(name)
            assert grade(problem, code).kind == "wrong", name
    assert not hit.exists()


def test_a_record_decides_nothing_but_which_problem_it_was() -> None:
    (problem,) = problems("cryptarithm")
    changed = replace(problem, metadata={**problem.metadata, "index": problem.metadata["index"] + 1})
    verdict = grade(changed, problem.answer)
    assert verdict.kind == "ungradable" and "another problem" in verdict.reason
    other_family = replace(problem, metadata={**problem.metadata, "gym": "countdown"})
    assert grade(other_family, problem.answer).kind == "ungradable"
    assert grade(replace(problem, metadata={"gym": "cryptarithm"}), problem.answer).kind == "ungradable"


def test_scorers_of_another_version_are_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    (problem,) = problems("cryptarithm")
    monkeypatch.setattr(gym, "installed_version", lambda: "9.9")
    verdict = grade(problem, problem.answer)
    assert verdict.kind == "ungradable" and "9.9 have not been read" in verdict.reason
    monkeypatch.setattr("reflective.tasks.families.gym.installed_version", lambda: "9.9")
    with pytest.raises(InputError, match="9.9 have not been read"):
        problems("cryptarithm")
    assert problems("gcd")  # graded by ours, whatever the version


def test_problems_are_a_function_of_family_split_seed_and_index() -> None:
    def ids_and_texts(**options: Any) -> list[tuple[str, str]]:
        return [(p.id, p.text) for p in load_problems("reasoning_gym:ab,gcd", limit=6, **options)]

    assert ids_and_texts() == ids_and_texts()
    assert [id for id, _ in ids_and_texts()][:3] == [
        "reasoning_gym/ab/test/000000",
        "reasoning_gym/gcd/test/000000",
        "reasoning_gym/ab/test/000001",
    ]
    texts = {text for options in ({}, {"seed": 1}, {"split": "train"}) for _, text in ids_and_texts(**options)}
    assert len(texts) == 18


def test_problems_are_distinct_and_a_small_family_says_how_many_it_has() -> None:
    drawn = problems("coin_flip", 60)
    assert len({p.text for p in drawn}) == 60
    with pytest.raises(InputError, match=r"no more than \d+ distinct problems"):
        problems("coin_flip", 5000)


def test_names() -> None:
    assert gym_families("countdown") is None
    every = gym_families("reasoning_gym")
    assert every is not None and set(every) == set(FAMILIES) - REFUSED
    with pytest.raises(InputError, match="Did you mean 'sudoku'"):
        load_problems("reasoning_gym:sudoko")
    (bare,) = load_problems("reasoning_gym:gcd", limit=1, prompt="{problem}")
    assert "<answer>" not in bare.text


def test_what_a_family_prints_does_not_reach_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    problems("bf", 3)
    assert capsys.readouterr().out == ""
