"""Our verdicts on programs beside those of the benchmarks' own harnesses, restated here from what theirs do.

LiveCodeBench (lcb_runner/evaluation/testing_util.py): a fixed block of imports; a program that reads its input becomes
the body of a function, its own imports outside; `SystemExit` ends it and is no fault. EvalPlus 0.3.1 (evalplus/eval): exact
equality, or `allclose` where the row has a tolerance or the expected value is a float or only floats; of a few functions
it knows that several outputs are right.
The rows have the benchmarks' shapes; the problems and programs were written for this test. `OTHERWISE` are the
programs on which we differ, each with its reason; docs/grading.md names the kinds.
"""

# ruff: noqa: E501  (programs in strings)

from __future__ import annotations

import ast
import base64
import contextlib
import copy
import io
import json
import math
import pickle
import zlib
from decimal import Decimal, InvalidOperation
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy
import pytest

from reflective.tasks.benchmarks import evalplus, livecodebench
from reflective.tasks.benchmarks.base import Options, Question
from reflective.types import Problem
from reflective.verify import grade

pytestmark = pytest.mark.usefixtures("sandbox_for_our_programs")

STAR = (
    "string re datetime collections heapq bisect copy math random statistics itertools functools operator io sys json"
)
IMPORTS = "".join(f"from {name} import *\n" for name in (*STAR.split(), "builtins", "typing")) + "".join(
    f"import {name}\n" for name in STAR.split()
)


def ours(question: Question | None, program: str) -> bool:
    assert question is not None
    verdict = grade(Problem("", None, kind="code", metadata=question.metadata), program)
    assert verdict.kind != "ungradable", verdict.reason
    return verdict.right


# LiveCodeBench


def contest_row(tests: list[tuple[str, str]], function: str | None = None) -> dict[str, Any]:
    """A row of code_generation_lite: the first test is public, the others are hidden, packed and pickled."""
    rows = [
        {"input": given, "output": wanted, "testtype": "functional" if function else "stdin"} for given, wanted in tests
    ]
    hidden = base64.b64encode(zlib.compress(pickle.dumps(json.dumps(rows[1:])))).decode()
    return {
        "question_content": "Do it.",
        "contest_date": "2024-05-01T00:00:00",
        "starter_code": f"class Solution:\n    def {function}(self, xs: List[int]) -> int:\n        "
        if function
        else "",
        "public_test_cases": json.dumps(rows[:1]),
        "private_test_cases": hidden,
        "metadata": json.dumps({"func_name": function} if function else {}),
    }


def calls_pass(program: str, function: str, tests: list[tuple[str, str]]) -> bool:
    module = ModuleType("tmp_sol")
    try:
        run(IMPORTS + "\n\n" + program, module.__dict__)
        holder = module.__dict__["Solution"]() if "class Solution" in program else module
        for given, wanted in tests:
            found = getattr(holder, function)(*map(json.loads, given.split("\n")))
            if (list(found) if isinstance(found, tuple) else found) != json.loads(wanted):
                return False
    except Exception:
        return False
    return True


def prints_pass(program: str, tests: list[tuple[str, str]]) -> bool:
    try:
        body = ast.parse(program).body
        if isinstance(body[-1], ast.If) and ast.unparse(body[-1].test) == "__name__ == '__main__'":
            body = [*body[:-1], *body[-1].body]
        outside = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
        inside = [node for node in body if node not in outside]
        wrapped = "def wrapped():\n" + "\n".join(
            "    " + line for node in inside for line in ast.unparse(node).splitlines()
        )
        module = ModuleType("tmp_sol")
        run(f"{IMPORTS}\n{ast.unparse(ast.Module(outside, []))}\n{wrapped}", module.__dict__)
        for given, wanted in tests:
            ended = contextlib.suppress(SystemExit)
            with patch("sys.stdin", io.StringIO(given)), patch("sys.stdout", io.StringIO()) as output, ended:
                module.__dict__["wrapped"]()
            if not lines_agree(output.getvalue(), wanted):
                return False
    except Exception:
        return False
    return True


def lines_agree(printed: str, wanted: str) -> bool:
    found, golds = ([line.strip() for line in text.strip().split("\n")] for text in (printed, wanted))
    if len(found) != len(golds):
        return False
    for one, gold in zip(found, golds, strict=True):
        try:
            if one != gold and [*map(Decimal, one.split())] != [*map(Decimal, gold.split())]:
                return False
        except InvalidOperation:
            return False
    return True


LONGEST = ("longest", [("[1, 2, 2, 3]", "2"), ("[]", "0"), ("[5, 5, 5, 1]", "3")])
PAIRS = ("pairs", [('["b", "a"]\n2', '[["a", 0], ["b", 1]]'), ('["z"]\n1', '[["z", 0]]')])
HALF = ("half", [("7", "3.5"), ("4", "2"), ("0", "0.0")])
CALLED = [
    (LONGEST, "class Solution:\n    def longest(self, xs: List[int]) -> int:\n        return max(Counter(xs).values(), default=0)"),
    (LONGEST, "class Solution:\n    def longest(self, xs):\n        return max((len(list(g)) for _, g in groupby(sorted(xs))), default=0)"),
    (LONGEST, "class Solution:\n    def longest(self, xs: Optional[List[int]]) -> int:\n        return max(map(xs.count, xs)) if xs else 0"),
    (LONGEST, "def longest(xs: List[int]) -> int:\n    return max(map(xs.count, xs), default=0)"),
    (LONGEST, "import numpy as np\nclass Solution:\n    def longest(self, xs):\n        return np.int64(max(map(xs.count, xs), default=0))"),
    (LONGEST, "class Solution:\n    def longest(self, xs):\n        return float(max(map(xs.count, xs), default=0))"),
    (LONGEST, "class Solution:\n    def longest(self, xs):\n        return max(map(xs.count, xs))"),
    (LONGEST, "class Solution:\n    def longest(self, xs):\n        return str(max(map(xs.count, xs), default=0))"),
    (LONGEST, "class Solution:\n    def longest(self, xs):\n        return len(set(xs))"),
    (LONGEST, "class Solution:\n    def longest(self, xs):\n        print(max(map(xs.count, xs), default=0))"),
    (LONGEST, "class Solution:\n    def longest_run(self, xs):\n        return max(map(xs.count, xs), default=0)"),
    (LONGEST, "class Solution:\n    best = 0\n    def longest(self, xs):\n        self.best = max([self.best, *map(xs.count, xs)])\n        return self.best"),
    (LONGEST, "class Solution:\n    def longest(self, xs: Array[int]):\n        return max(map(xs.count, xs), default=0)"),
    (LONGEST, "class Solution:\n    def longest(self, xs, more):\n        return 2"),
    (LONGEST, "class Solution:\n    def longest(self, xs)\n        return 2"),
    (PAIRS, "class Solution:\n    def pairs(self, names, n):\n        return [[name, i] for i, name in enumerate(sorted(names))]"),
    (PAIRS, "class Solution:\n    def pairs(self, names, n):\n        return tuple([name, i] for i, name in enumerate(sorted(names)))"),
    (PAIRS, "class Solution:\n    def pairs(self, names, n):\n        return {name: i for i, name in enumerate(sorted(names))}"),
    (PAIRS, "class Solution:\n    def pairs(self, names, n):\n        return ([name, i] for i, name in enumerate(sorted(names)))"),
    (HALF, "class Solution:\n    def half(self, x):\n        return x / 2"),
    (HALF, "class Solution:\n    def half(self, x):\n        return x // 2"),
    (HALF, "class Solution:\n    def half(self, x):\n        return Decimal(x) / 2"),
]  # fmt: skip

SUMS = [("3\n1 2 3\n", "6\n"), ("1\n-5\n", "-5\n"), ("2\n0 0", "0")]
MEAN = [("2\n1 2\n", "1.5"), ("1\n3\n", "3.0"), ("4\n1 1 1 2", "1.25")]
TABLE = [("2\n", "1 2\n2 4\n"), ("1\n", "1\n")]
PRINTED = [
    (SUMS, "n = int(input())\nprint(sum(map(int, input().split())))"),
    (SUMS, "import sys\ndef main():\n    n, *xs = map(int, sys.stdin.read().split())\n    print(sum(xs))\nif __name__ == '__main__':\n    main()"),
    (SUMS, "rows = sys.stdin.readlines()\nprint(reduce(add, map(int, rows[1].split())))"),
    (SUMS, "input()\nprint(*accumulate(map(int, input().split())))"),
    (SUMS, "input()\nprint(sum(map(int, input().split())))\nsys.exit()"),
    (SUMS, "input()\nprint(sum(map(int, input().split())))\nraise ValueError('late')"),
    (SUMS, "input()\nprint(sum(map(int, input().split())), end='')"),
    (SUMS, "input()\nprint('sum:', sum(map(int, input().split())))"),
    (SUMS, "input()\nprint(sum(map(int, input().split())))\nprint(input())"),
    (SUMS, "input()\nprint(float(sum(map(int, input().split()))))"),
    (SUMS, "n = int(input())\nxs = [int(input()) for _ in range(n)]\nprint(sum(xs))"),
    (SUMS, "@cache\ndef total(xs):\n    return sum(xs)\ninput()\nprint(total(tuple(map(int, input().split()))))"),
    (SUMS, "print(6 if input() == '3' else 0)"),
    (SUMS, "print('NaN')"),
    (MEAN, "n = int(input())\nprint(mean(map(int, input().split())))"),
    (MEAN, "n = int(input())\nprint(f'{sum(map(int, input().split())) / n:.6f}')"),
    (MEAN, "n = int(input())\nprint(sum(map(int, input().split())) // n)"),
    (MEAN, "n = int(input())\nprint(round(sum(map(int, input().split())) / n, 1))"),
    (TABLE, "n = int(input())\nfor i in range(1, n + 1):\n    print(*(i * j for j in range(1, n + 1)))"),
    (TABLE, "n = int(input())\nfor i in range(1, n + 1):\n    print('  '.join(str(i * j) for j in range(1, n + 1)), ' ')"),
    (TABLE, "n = int(input())\nfor i in range(1, n + 1):\n    print(*(i * j for j in range(1, n + 1)))\n    print()"),
    (TABLE, "n = int(input())\nprint(*(i * j for i in range(1, n + 1) for j in range(1, n + 1)))"),
]  # fmt: skip


@pytest.mark.parametrize(("task", "program"), CALLED)
def test_functions_get_livecodebenchs_verdict(task: tuple[str, list[tuple[str, str]]], program: str) -> None:
    name, tests = task
    question = livecodebench.read(contest_row(tests, name), 0, Options())
    assert ours(question, program) is calls_pass(program, name, tests)


@pytest.mark.parametrize(("tests", "program"), PRINTED)
def test_programs_that_print_get_livecodebenchs_verdict(tests: list[tuple[str, str]], program: str) -> None:
    assert ours(livecodebench.read(contest_row(tests), 0, Options()), program) is prints_pass(program, tests)


OTHERWISE = [
    # tuples inside a value count as lists; what a program reads by `buffer` is there; `global` finds what it names
    (PAIRS, "class Solution:\n    def pairs(self, names, n):\n        return [(x, i) for i, x in enumerate(sorted(names))]", True),
    (SUMS, "data = sys.stdin.buffer.read().split()\nprint(sum(map(int, data[1:])))", True),
    (SUMS, "total = 0\ndef add_all(xs):\n    global total\n    total += sum(xs)\ninput()\nadd_all(map(int, input().split()))\nprint(total)", True),
    # a program that says that it failed has failed
    (SUMS, "input()\nprint(sum(map(int, input().split())))\nsys.exit(1)", False),
]  # fmt: skip


@pytest.mark.parametrize(("task", "program", "right"), OTHERWISE)
def test_where_we_differ_from_livecodebench_the_difference_is_the_documented_one(
    task: Any, program: str, right: bool
) -> None:
    name, tests = task if isinstance(task, tuple) else (None, task)
    theirs = calls_pass(program, name, tests) if name else prints_pass(program, tests)
    assert ours(livecodebench.read(contest_row(tests, name), 0, Options()), program) is right is not theirs


# EvalPlus


def only_floats(value: Any) -> bool:
    if isinstance(value, list | tuple) and value:
        return all(isinstance(item, float) for item in value)
    return isinstance(value, float)


def evalplus_passes(row: dict[str, Any], solution: str, program: str) -> bool:
    reference: dict[str, Any] = {}
    run(solution, reference)
    name, tolerance = row["entry_point"], row["atol"]
    try:
        tested: dict[str, Any] = {}
        run(program, tested)
        for given in [*row["base_input"], *row["plus_input"]]:
            expected = reference[name](*copy.deepcopy(given))
            found = tested[name](*copy.deepcopy(given))
            if name == "find_zero":
                assert abs(sum(factor * math.pow(found, i) for i, factor in enumerate(given[0]))) <= tolerance
                continue
            exact = set(found) == set(expected) if name == "similar_elements" else found == expected
            exact = exact or (name == "sum_div" and found == 0)
            if tolerance == 0 and only_floats(expected):
                tolerance = 1e-6
            if not exact and tolerance != 0:
                assert type(found) is type(expected)
                assert not isinstance(expected, list | tuple) or len(found) == len(expected)
                assert numpy.allclose(found, expected, rtol=1e-7, atol=tolerance)
            else:
                assert exact
    except BaseException:
        return False
    return True


def run(source: str, scope: dict[str, Any]) -> None:
    """As if the program stood alone: without this file's `from __future__ import annotations`."""
    exec(compile(source, "program.py", "exec", dont_inherit=True), scope)


HEAD = 'from typing import List\n\n\ndef spread(xs: List[float]) -> float:\n    """ Largest minus smallest; 0.0 for none. """\n'
SPREAD = {
    "task_id": "HumanEval/900",
    "prompt": HEAD,
    "entry_point": "spread",
    "canonical_solution": "    return max(xs) - min(xs) if xs else 0.0\n",
    "base_input": [[[1.5, 2.0, 4.25]], [[]]],
    "plus_input": [[[1e9, 0.5]], [[-3.0]], [[0.1, 0.3, 0.2]]],
    "atol": 0,
}
UNIQUE = {
    "task_id": "Mbpp/900",
    "prompt": '"""\nWrite a function to remove what is there twice.\nassert unique([1, 1, 2]) == [1, 2]\n"""\n',
    "entry_point": "unique",
    "canonical_solution": "def unique(xs):\n    return list(dict.fromkeys(xs))\n",
    "base_input": [[[1, 1, 2]], [[]]],
    "plus_input": [[["a", "b", "a"]], [[[1, 2][0], 2.0, 1.0]]],
    "atol": 0,
}
ZERO = {
    "task_id": "HumanEval/32",
    "prompt": "def find_zero(xs: list):\n",
    "entry_point": "find_zero",
    "canonical_solution": "    return 1.0\n",
    "base_input": [[[-6, 11, -6, 1]]],
    "plus_input": [[[1, -1]], [[2, -3, 1]]],
    "atol": 1e-4,
}
SIMILAR = {
    "task_id": "Mbpp/2",
    "prompt": '"""\nWrite a function to find what both hold.\nassert set(similar_elements((3, 4), (5, 4))) == {4}\n"""\n',
    "entry_point": "similar_elements",
    "canonical_solution": "def similar_elements(a, b):\n    return tuple(set(a) & set(b))\n",
    "base_input": [[[3, 4, 5, 6], [5, 7, 4, 10]]],
    "plus_input": [[[], [1]], [[1, 2], [2, 1]]],
    "atol": 0,
}
DIVISORS = {
    "task_id": "Mbpp/295",
    "prompt": '"""\nWrite a function that adds the divisors of a number.\nassert sum_div(8) == 7\n"""\n',
    "entry_point": "sum_div",
    "canonical_solution": "def sum_div(n):\n    return sum(d for d in range(1, n) if n % d == 0)\n",
    "base_input": [[8], [12]],
    "plus_input": [[1], [7]],
    "atol": 0,
}
SEVERAL = [  # of which more than one output is right
    (ZERO, "def find_zero(xs):\n    return {-6: 3, 1: 1, 2: 2}[xs[0]]"),
    (ZERO, "def find_zero(xs):\n    return {-6: 2.5, 1: 1, 2: 2}[xs[0]]"),
    (SIMILAR, "def similar_elements(a, b):\n    return [x for x in sorted(a, reverse=True) if x in b]"),
    (SIMILAR, "def similar_elements(a, b):\n    return tuple(a)"),
    (DIVISORS, "def sum_div(n):\n    return sum(d for d in range(1, n) if n % d == 0)"),
    (DIVISORS, "def sum_div(n):\n    return 0"),
    (DIVISORS, "def sum_div(n):\n    return sum(d for d in range(1, n + 1) if n % d == 0)"),
]  # fmt: skip
WRITTEN = [
    (SPREAD, HEAD + "    return max(xs) - min(xs) if xs else 0.0"),
    (SPREAD, HEAD + "    ys = sorted(xs)\n    return ys[-1] - ys[0] if ys else 0.0"),
    (SPREAD, HEAD + "    return max(xs) - min(xs) if xs else 0"),
    (SPREAD, HEAD + "    return (max(xs) - min(xs)) * (1 + 1e-9) if xs else 0.0"),
    (SPREAD, HEAD + "    return max(xs) - min(xs) + 1e-3 if xs else 0.0"),
    (SPREAD, HEAD + "    return max(xs) - min(xs)"),
    (SPREAD, HEAD + "    return [max(xs) - min(xs)] if xs else [0.0]"),
    (SPREAD, HEAD + "    return abs(xs[-1] - xs[0]) if xs else 0.0"),
    (SPREAD, HEAD + "    return str(max(xs) - min(xs) if xs else 0.0)"),
    (SPREAD, "def spread(xs: List[float]):\n    return max(xs) - min(xs) if xs else 0.0"),
    (SPREAD, HEAD.replace("spread", "range_of") + "    return max(xs) - min(xs) if xs else 0.0"),
    (UNIQUE, "def unique(xs):\n    out = []\n    for x in xs:\n        if x not in out:\n            out.append(x)\n    return out"),
    (UNIQUE, "def unique(xs):\n    return list(set(xs)) if len(set(map(type, xs))) < 2 and 'a' not in xs else list(dict.fromkeys(xs))"),
    (UNIQUE, "def unique(xs):\n    return tuple(dict.fromkeys(xs))"),
    (UNIQUE, "def unique(xs):\n    return dict.fromkeys(xs)"),
    (UNIQUE, "def unique(xs):\n    return xs"),
    (UNIQUE, "def unique(xs):\n    xs.clear()\n    return xs"),
    (UNIQUE, "def unique(xs):\n    return sorted(set(xs))"),
    (UNIQUE, "from collections import UserList\ndef unique(xs):\n    return list(UserList(dict.fromkeys(xs)))"),
    (UNIQUE, "import sys\ndef unique(xs):\n    sys.exit(0)"),
    (UNIQUE, "def unique(xs):\n    return np.unique(xs).tolist()"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "program"), SEVERAL)
def test_functions_with_several_right_outputs_get_evalpluss_verdict(row: dict[str, Any], program: str) -> None:
    humaneval = row["task_id"].startswith("HumanEval")
    read = evalplus.read_humaneval if humaneval else evalplus.read_mbpp
    solution = (row["prompt"] if humaneval else "") + row["canonical_solution"]
    assert ours(read(row, 0, Options()), program) is evalplus_passes(row, solution, program)


@pytest.mark.parametrize(("row", "program"), WRITTEN)
def test_functions_get_evalpluss_verdict(row: dict[str, Any], program: str) -> None:
    humaneval = row["task_id"].startswith("HumanEval")
    read = evalplus.read_humaneval if humaneval else evalplus.read_mbpp
    solution = (row["prompt"] if humaneval else "") + row["canonical_solution"]
    assert ours(read(row, 0, Options()), program) is evalplus_passes(row, solution, program)
    # the hub's rows hold the same inputs and outputs in a test program
    results: dict[str, Any] = {}
    run(solution, results)
    inputs = [*row["base_input"], *row["plus_input"]]
    outputs = [results[row["entry_point"]](*copy.deepcopy(given)) for given in inputs]
    loop = f"for given, wanted in zip({inputs!r}, {outputs!r}):\n    numpy.testing.assert_allclose(F(*given), wanted, atol=1e-6)" if humaneval else (
        f"for given, wanted in zip({inputs!r}, {outputs!r}):\n    assert F(*given) == wanted"
    )  # fmt: skip
    body = "\n".join("    " + line for line in loop.replace("F(", "candidate(").splitlines())
    test = f"import numpy\n\ndef check(candidate):\n{body}\n" if humaneval else loop.replace("F(", "unique(")
    hub = {**row, "test": test, "code": solution, "test_imports": [], "test_list": []}
    assert ours(read(hub, 0, Options()), program) is passes_test(test, row["entry_point"], humaneval, program)


def passes_test(test: str, entry: str, humaneval: bool, program: str) -> bool:
    scope: dict[str, Any] = {}
    try:
        run(f"{program}\n\n{test}\n" + (f"check({entry})" if humaneval else ""), scope)
    except BaseException:
        return False
    return True
