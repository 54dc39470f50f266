"""Every benchmark: rows as they exist in the wild become problems with stable ids, prompts and golds that are right."""

# ruff: noqa: E501  (rows)

from __future__ import annotations

import base64
import json
import os
import pickle
import zlib
from pathlib import Path
from typing import Any

import pytest

from reflective.errors import InputError
from reflective.tasks import BENCHMARKS, get_benchmark, load_problems
from reflective.tasks.benchmarks.livecodebench import unpacked
from reflective.tasks.prompts import BOXED, SLOT
from reflective.types import Problem
from reflective.verify import GRADERS, grade, self_check
from reflective.verify.code.packing import unpack_tests

DATA = Path(os.environ.get("REFLECTIVE_DATA") or Path(__file__).parents[4] / "shared" / "data")

ADD = "def add(a, b):\n    return a + b\n"
HUB_TEST = (
    "def assertion(out, exp, atol):\n    assert out == exp\n\ndef check(candidate):\n    inputs = [[1, 2], [0.5, 1]]\n"
    "    results = [3, 1.5]\n    for inp, exp in zip(inputs, results):\n        assertion(candidate(*inp), exp, 0)\n"
)
PRIVATE = base64.b64encode(
    zlib.compress(pickle.dumps(json.dumps([{"input": "4 5", "output": "9", "testtype": "stdin"}])))
).decode()

# benchmark: rows in every form that its reader knows, and what they become (end of the text, answer)
ROWS: dict[str, list[tuple[dict[str, Any], str, str | None]]] = {
    "aime24": [
        ({"problem": "P?", "answer": "025", "id": 60}, "P?", "25"),
        ({"problem": "P?", "solution": "\\boxed{25}"}, "P?", "25"),
        ({"Problem": "P?", "Answer": 25, "Solution": "long"}, "P?", "25"),
        ({"prompt": f"P?\n{BOXED.partition(SLOT)[2].strip()}", "answer": 25}, "P?", "25"),
        ({"prompt": [{"role": "user", "content": "P?"}], "reward_model": {"ground_truth": "25"}}, "P?", "25"),
        ({"prompt": [{"role": "user", "content": "P?"}], "reward_model": {"ground_truth": {"target": "25"}}}, "P?", "25"),
    ],
    "aime25": [({"problem": "P?", "answer": "70"}, "P?", "70"), ({"question": "P?", "answer": "70"}, "P?", "70")],
    "amc23": [({"question": "P?", "answer": "27.0"}, "P?", "27.0"), ({"problem": "P?", "answer": 27.0}, "P?", "27")],
    "math500": [
        ({"problem": "P?", "answer": "\\frac12", "level": 2, "subject": "Algebra"}, "P?", "\\frac12"),
        ({"problem": "P?", "solution": "so \\boxed{\\frac12}.", "level": "Level 2", "type": "Algebra"}, "P?", "\\frac12"),
    ],
    "gsm8k": [({"question": "P?", "answer": "1 + 1 = <<1+1=2>>2\n#### 1,002"}, "P?", "1,002")],
    "olympiadbench": [
        ({"question": "P?", "final_answer": ["$2$"], "modality": "Text-only", "subfield": "Algebra"}, "P?", "2"),
        ({"question": "P?", "final_answer": ["$(1,2)$", "$(2,1)$"], "context": "C."}, "C.\n\nP?", "(1,2), (2,1)"),
    ],
    "minerva_math": [
        ({"question": "P?", "answer": "4.5e33"}, "P?", "4.5e33"),
        ({"problem": "P?", "solution": "\\boxed{4.5e33} erg/s", "type": "Astronomy"}, "P?", "4.5e33"),
    ],
    "ceval": [
        ({"id": 0, "question": "甲____", "A": "一", "B": "二", "C": "三", "D": "四", "answer": "C"}, "D. 四", "C"),
        ({"model_input": "\n题\nA. 一\n", "answer": "A", "sub": "law", "id": 0}, "A. 一", "A"),
    ],
    "humaneval_plus": [
        (
            {"task_id": "HumanEval/0", "prompt": "def add(a, b):\n", "canonical_solution": "    return a + b\n",
             "entry_point": "add", "test": HUB_TEST},
            "def add(a, b):\n```", ADD,
        ),
        (
            {"prompt": "def add(a, b):\n", "canonical_solution": "    return a + b\n", "entry_point": "add",
             "base_input": [[1, 2]], "plus_input": [[[1], [2]], [0.1, 0.2]], "atol": 0},
            "def add(a, b):\n```", ADD,
        ),
    ],
    "mbpp_plus": [
        (
            {"prompt": "Add.", "code": ADD, "test_list": ["assert add(1, 2) == 3"], "test_imports": [],
             "test": HUB_TEST + "check(add)"},
            '"""\nAdd.\nassert add(1, 2) == 3\n"""\n```', ADD,
        ),
        (
            {"text": "Add.", "code": "import math\n" + ADD, "test_list": ["assert math.isclose(add(1, 2), 3)"],
             "test_imports": ["import math"]},
            "isclose(add(1, 2), 3)\n\"\"\"\n```", "import math\n" + ADD,
        ),
    ],
    "livecodebench": [
        (
            {"question_content": "Add.", "contest_date": "2024-08-03T00:00:00", "starter_code": "", "metadata": "{}",
             "difficulty": "easy", "public_test_cases": '[{"input": "1 2", "output": "3", "testtype": "stdin"}]',
             "private_test_cases": PRIVATE},
            "# YOUR CODE HERE\n```\n\n### Answer: (use the provided format with backticks)\n", None,
        ),
        (
            {"question_content": "Add.", "contest_date": "2025-01-03", "starter_code": "class Solution:\n    def add(", "metadata":
             {"func_name": "add"}, "public_test_cases": [{"input": "1\n2", "output": "3"}], "private_test_cases": "[]"},
            "def add(\n```\n\n### Answer: (use the provided format with backticks)\n", None,
        ),
    ],
    "gpqa_diamond": [
        ({"Question": "Q?", "Correct Answer": "right\n", "Incorrect Answer 1": "w1", "Incorrect Answer 2": "w2",
          "Incorrect Answer 3": "w3", "High-level domain": "Physics"}, "", None),
    ],
}  # fmt: skip


def loaded(folder: Path, name: str, rows: list[dict[str, Any]], **options: Any) -> list[Problem]:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return load_problems(name, file=path, **options)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_rows_of_every_known_form_become_problems(tmp_path: Path, name: str) -> None:
    problems = loaded(tmp_path, name, [row for row, _, _ in ROWS[name]])
    benchmark = BENCHMARKS[name]
    assert benchmark.name == name and benchmark.kind in GRADERS
    assert [p.id for p in problems] == [f"{name}/{benchmark.split}/{i}" for i in range(len(ROWS[name]))]
    for problem, (_, end, answer) in zip(problems, ROWS[name], strict=True):
        assert (problem.family, problem.kind) == (name, benchmark.kind)
        head, tail = benchmark.prompt.split(SLOT)
        assert problem.text.startswith(head)
        if name != "gpqa_diamond":
            assert problem.text.removesuffix(tail).endswith(end.removesuffix(tail)) and problem.answer == answer
            assert problem.text.endswith(tail) and not problem.text.removesuffix(tail).endswith(tail)
        json.dumps(dict(problem.metadata))  # a record holds it


@pytest.mark.usefixtures("sandbox_for_our_programs")
@pytest.mark.parametrize("name", sorted(set(BENCHMARKS) - {"livecodebench"}))
def test_the_golds_of_every_form_are_right_against_themselves(tmp_path: Path, name: str) -> None:
    assert self_check(loaded(tmp_path, name, [row for row, _, _ in ROWS[name]]), time_limit_s=60.0) == []


@pytest.mark.usefixtures("sandbox_for_our_programs")
@pytest.mark.parametrize("name", ["humaneval_plus", "mbpp_plus"])
def test_another_function_is_wrong_in_every_form_of_tests(tmp_path: Path, name: str) -> None:
    for problem in loaded(tmp_path, name, [row for row, _, _ in ROWS[name]]):
        assert grade(problem, "def add(a, b):\n    return a - b\n").kind == "wrong", problem.metadata


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_row_of_something_else_is_refused_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"row 1 is no row of {name}: "):
        loaded(tmp_path, name, [{"something": "else", "question": ""}])


def test_files_of_other_benchmarks_can_still_be_read_as_own_files() -> None:
    for name, file, kind, count in (
        ("aime24", "aime24.jsonl", "math", 30),
        ("aime24", "aime24_verl.parquet", "math", 30),
        ("math500", "math500.jsonl", "math", 500),
        ("gsm8k", "gsm8k_test.jsonl", "math", 1319),
        ("ceval", "ceval_sample.json", "choice", 208),
    ):
        if not (DATA / file).exists():
            pytest.skip(f"no {file} in {DATA}")
        own, known = load_problems(str(DATA / file), kind=kind), load_problems(name, file=DATA / file)
        assert len(own) == len(known) == count == len({p.id for p in known}) == len({p.id for p in own})
        spelled = str if name != "aime24" else int  # 025 and 25
        assert [spelled(p.answer or "") for p in own] == [spelled(p.answer or "") for p in known]


def test_both_files_of_aime_hold_the_same_problems() -> None:
    if not (DATA / "aime24.jsonl").exists():
        pytest.skip(f"no data in {DATA}")
    pytest.importorskip("pyarrow")
    files = [load_problems("AIME 2024", file=DATA / file) for file in ("aime24.jsonl", "aime24_verl.parquet")]
    answers = [sorted(p.answer or "" for p in problems) for problems in files]
    assert answers[0] == answers[1]
    assert all(p.text.count("\\boxed{}") == 1 for problems in files for p in problems)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("aime24", "aime24.jsonl"),
        ("aime24", "aime24_verl.parquet"),
        ("math500", "math500.jsonl"),
        ("gsm8k", "gsm8k_test.jsonl"),
        ("ceval", "ceval_sample.json"),
    ],
)
def test_every_gold_of_the_real_files_is_right_against_itself(name: str, file: str) -> None:
    if not (DATA / file).exists():
        pytest.skip(f"no {file} in {DATA}")
    assert self_check(load_problems(name, file=DATA / file), time_limit_s=60.0) == []


def test_gpqa_shuffles_by_seed_and_question_alone(tmp_path: Path) -> None:
    row = ROWS["gpqa_diamond"][0][0]
    rows = [{**row, "Question": f"Q{i}?"} for i in range(40)]
    zero, again, one = (loaded(tmp_path, "gpqa", rows, seed=seed) for seed in (0, 0, 1))
    assert zero == again and zero != one
    assert {p.answer for p in zero} == set("ABCD")
    for problem in zero:
        assert f"{problem.answer}) right" in problem.text.splitlines()
    assert loaded(tmp_path, "gpqa", rows[5:])[0].answer == zero[5].answer


def test_livecodebench_keeps_the_window_and_the_ids_of_the_file(tmp_path: Path) -> None:
    rows = [row for row, _, _ in ROWS["livecodebench"]]
    (later,) = loaded(tmp_path, "livecodebench", rows, since="2025-01-03")
    assert later.id == "livecodebench/test/1" and later.metadata["entry"] == ["Solution.add"]
    (earlier,) = loaded(tmp_path, "livecodebench", rows, until="2024-08-03")
    assert unpack_tests(earlier.metadata["tests_packed"]) == [
        {"input": "1 2", "output": "3"},
        {"input": "4 5", "output": "9"},
    ]
    with pytest.raises(InputError, match="no problem of livecodebench is in the selection"):
        loaded(tmp_path, "livecodebench", rows, since="2025-02-01")
    with pytest.raises(InputError, match="'August' is no day"):
        loaded(tmp_path, "livecodebench", rows, since="August")


@pytest.mark.usefixtures("sandbox_for_our_programs")
def test_livecodebench_problems_are_graded_by_their_tests(tmp_path: Path) -> None:
    stdin, call = loaded(tmp_path, "livecodebench", [row for row, _, _ in ROWS["livecodebench"]])
    assert grade(stdin, "print(sum(map(int, input().split())))").reason == "2 tests"
    assert grade(stdin, "print(3)").kind == "wrong"
    assert grade(call, "class Solution:\n    def add(self, a, b):\n        return a + b").kind == "right"
    assert self_check([stdin, call]) == []  # nothing to check


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("evil",)


@pytest.mark.parametrize("thing", [Evil(), ["a", "b"], 7, {"a": "b"}, b"x"])
def test_hidden_tests_are_never_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, thing: object) -> None:
    monkeypatch.chdir(tmp_path)
    packed = base64.b64encode(zlib.compress(pickle.dumps(thing))).decode()
    with pytest.raises(ValueError, match="not one pickled string"):
        unpacked(packed)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickled_string_is_read_in_every_protocol(protocol: int) -> None:
    for text in ("[]", "é\n" * 1000):
        assert unpacked(base64.b64encode(zlib.compress(pickle.dumps(text, protocol))).decode()) == text


def test_subjects_and_modalities_select(tmp_path: Path) -> None:
    rows = [{"problem": f"P{i}?", "answer": "1", "subject": s, "level": 1} for i, s in enumerate(["A", "B", "A"])]
    assert [p.id for p in loaded(tmp_path, "math500", rows, subjects=["A"])] == ["math500/test/0", "math500/test/2"]
    rows = [{"question": "P?", "final_answer": ["1"], "modality": m} for m in ("Multimodal", "Text-only")]
    assert [p.id for p in loaded(tmp_path, "olympiadbench", rows)] == ["olympiadbench/test/1"]


@pytest.mark.parametrize(
    ("error", "answer_type", "near", "far"),
    [
        ("0.1", "Numerical", "2.4", "2.42"),  # the judge of the benchmark gives 1 % more
        (None, "Numerical", "2.3", "2.4"),
        ("", "Numerical", "2.3", "2.4"),
        ("0.1", "Tuple", "2.3", "2.4"),
    ],
)
def test_the_error_of_olympiadbench_is_its_tolerance(
    tmp_path: Path, error: str | None, answer_type: str, near: str, far: str
) -> None:
    row = {"question": "P?", "final_answer": ["$2.3$"], "error": error, "answer_type": answer_type}
    (problem,) = loaded(tmp_path, "olympiadbench", [row])
    assert grade(problem, near).kind == "right" and grade(problem, far).kind == "wrong"


def test_the_errors_of_several_answers_are_one_each(tmp_path: Path) -> None:
    row = {"question": "P?", "final_answer": ["$1$, $2$"], "error": ",0.5", "answer_type": "Numerical"}
    (problem,) = loaded(tmp_path, "olympiadbench", [row])
    assert grade(problem, "1, 2.4").kind == "right" and grade(problem, "1.4, 2").kind == "wrong"
    with pytest.raises(InputError, match="row 1 is no row of olympiadbench"):
        loaded(tmp_path, "olympiadbench", [{**row, "error": "a bit"}])


@pytest.mark.parametrize(
    ("written", "name"),
    [("MATH-500", "math500"), ("AIME 2024", "aime24"), ("HumanEval+", "humaneval_plus"), ("gpqa-diamond", "gpqa_diamond")],
)  # fmt: skip
def test_names_are_found_however_they_are_written(written: str, name: str) -> None:
    assert get_benchmark(written) is BENCHMARKS[name]


def test_an_unknown_benchmark_names_the_nearest() -> None:
    with pytest.raises(InputError, match="unknown benchmark 'mat500'. Did you mean 'math500'"):
        get_benchmark("mat500")


def test_a_prompt_of_ones_own_replaces_the_benchmarks(tmp_path: Path) -> None:
    (problem,) = loaded(tmp_path, "gsm8k", [ROWS["gsm8k"][0][0]], prompt="Solve: {problem}")
    assert problem.text == "Solve: P?"


def test_families_load_with_the_same_call() -> None:
    pytest.importorskip("reasoning_gym")
    problems = load_problems("gcd", limit=5, levels=(1,))
    assert len(problems) == 5 and problems[0].id == "gcd/test/1/000000"
    assert load_problems("gcd", limit=1, levels=(1,), prompt="<{problem}>")[0].text == f"<{problems[0].text}>"
    assert {p.family for p in load_problems("mixture", limit=20)} >= {"gcd", "lcm"}
    with pytest.raises(InputError, match="unknown split 'dev'"):
        load_problems("gcd", split="dev")
