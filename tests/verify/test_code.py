"""Kind "code": programs that pass their tests are right; nothing else is, whatever it does to the tests."""

# ruff: noqa: E501  (programs in strings)

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from reflective.types import Problem
from reflective.verify import extract_answer, grade
from reflective.verify.code.grader import same_output, same_value
from reflective.verify.code.packing import pack_tests, unpack_tests
from reflective.verify.code.sandbox import Sandbox, SandboxError

pytestmark = pytest.mark.usefixtures("sandbox_for_our_programs")

ADD: dict[str, Any] = {
    "mode": "stdin",
    "tests": [{"input": "1 2\n", "output": "3\n"}, {"input": "4 5\n", "output": "9"}],
    "time_limit_s": 3,
}
APPEND: dict[str, Any] = {
    "mode": "call",
    "entry": ["Solution.append"],
    "tests": [{"input": "[1, 2]\n3", "output": "[1, 2, 3]"}, {"input": "[]\n1.5", "output": "[1.5]"}],
    "time_limit_s": 3,
}
DOUBLE: dict[str, Any] = {
    "mode": "check",
    "entry": ["double"],
    "check": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate([1]) == [1, 1]\n\ncheck(double)\n",
    "time_limit_s": 3,
}


def verdict(metadata: dict[str, Any], program: str) -> str:
    return grade(Problem("", None, kind="code", metadata=metadata), program).kind


@pytest.mark.parametrize(
    ("metadata", "program"),
    [
        (ADD, "print(sum(map(int, input().split())))"),
        (ADD, "import sys\nif __name__ == '__main__':\n    print(sum(map(int, sys.stdin.read().split())), file=sys.stdout)"),
        (ADD, "a, b = map(int, open(0).read().split())\nprint(a + b)\nexit()"),
        (ADD, "import numpy\nprint(numpy.array(input().split(), dtype=int).sum())"),
        (APPEND, "class Solution:\n    def append(self, a, b):\n        return a + [b]"),
        (APPEND, "class Solution:\n    def append(self, a, b):\n        print('noise')\n        return (*a, b)"),
        (DOUBLE, "def double(x):\n    return x * 2"),
        (DOUBLE, "from collections import UserString\nclass L(list): pass\ndef double(x):\n    return L(x * 2) if x == [1] else x * 2"),
    ],
)  # fmt: skip
def test_a_program_that_passes_its_tests_is_right(metadata: dict[str, Any], program: str) -> None:
    assert verdict(metadata, program) == "right"


EQUALS_ALL = """
class Yes(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
class YesList(list):
    def __eq__(self, other): return True
"""
TRICKS = {
    "ends before the tests": "import sys\nsys.exit(0)",
    "ends hard": "import os\nos._exit(0)",
    "ends when called": "import os\ndef double(x):\n    os._exit(0)",
    "equals everything": EQUALS_ALL + "def double(x):\n    return Yes(7)",
    "an object that equals everything": "class E:\n    def __eq__(s, o): return True\ndef double(x):\n    return E()",
    "pretends to be a list": "class E:\n    __class__ = list\n    def __eq__(s, o): return True\n    def __iter__(s): return iter(())\n"
    "def double(x):\n    return E()",
    "replaces the builtins": "import builtins\nbuiltins.AssertionError = None\nbuiltins.compile = builtins.exec = lambda *a: 0\n"
    "def double(x):\n    return 0",
    "replaces json": "import json\njson.dumps = lambda *a, **k: '{\"right\": true}'\njson.loads = lambda *a: {}\ndef double(x):\n    return 0",
    "writes a verdict": "import os\nfor n in range(3, 64):\n    try: os.write(n, b'{\"right\": true}\\n' * 3)\n    except OSError: pass\n"
    "def double(x):\n    return 0",
    "prints a verdict": "print('{\"right\": true}', flush=True)\ndef double(x):\n    return 0",
    "replaces sys.stdout": "import sys, io\nsys.stdout = io.StringIO()\ndef double(x):\n    return 0",
    "reads the tests from the frames": "import sys\ndef double(x):\n    f = sys._getframe()\n    while f:\n"
    "        for v in list(f.f_locals.values()):\n            if isinstance(v, str) and 'assert ' + 'candidate' in v:\n"
    "                return 4 if x == 2 else [1, 1]\n        f = f.f_back\n    return 0",
    "reads the tests from the garbage": "import gc\ndef double(x):\n    for o in gc.get_objects():\n"
    "        if isinstance(o, dict) and any(isinstance(v, str) and 'assert ' + 'candidate' in v for v in list(o.values())):\n"
    "            return 4 if x == 2 else [1, 1]\n    return 0",
    "defines nothing": "x = 1",
    "is no Python": "def double(x:\n    return x * 2",
    "raises what a test could expect": "def double(x):\n    raise AssertionError",
    "right once": "def double(x):\n    return 4",
    "never ends": "def double(x):\n    while True: pass",
    "never ends to load": "while True: pass",
    "returns too much": "def double(x):\n    return [x] * 10**8",
    "returns itself": "def double(x):\n    y = []\n    y.append(y)\n    return y",
    "returns a thing that fails": "class L(list):\n    def __iter__(s): raise RuntimeError\ndef double(x):\n    return L([1, 1])[0:0]",
}  # fmt: skip


@pytest.mark.parametrize("name", TRICKS)
def test_no_trick_makes_a_program_right(name: str) -> None:
    assert verdict(DOUBLE, TRICKS[name]) == "wrong"


@pytest.mark.parametrize(
    "program",
    [
        "import sys\nsys.exit(0)",
        "print(3)",
        "print(sum(map(int, input().split())) + 1)",
        "print(sum(map(int, input().split())))\nraise SystemExit(1)",
        "while True: pass",
        "import builtins\nbuiltins.print = None\nprint(3)",
        "print(sum(map(int, input().split())), end=' 0')",
        "a = input()\nprint(3 if a == '1 2' else '9 or 10')",
    ],
)
def test_another_output_another_code_and_no_end_are_wrong(program: str) -> None:
    assert verdict({**ADD, "time_limit_s": 1}, program) == "wrong"


@pytest.mark.parametrize(
    "program",
    [
        EQUALS_ALL + "class Solution:\n    def append(self, a, b):\n        return YesList()",
        "class Solution:\n    def append(self, a, b):\n        return '[1, 2, 3]'",
        "class Solution:\n    def append(self, a, b):\n        return {1, 2, 3}",
        "class Solution:\n    def add(self, a, b):\n        return a + [b]",
        "class Solution:\n    pass\ndef append(a, b):\n    return a + [b]",
    ],
)
def test_another_value_is_wrong(program: str) -> None:
    assert verdict(APPEND, program) == "wrong"


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (
            "class Solution:\n    def append(self, a: List[int], b: Optional[int]) -> List[int]:\n        return a + [b]",
            "right",
        ),
        ("class Solution:\n    def append(self, a, b):\n        return list(chain(a, accumulate([b])))", "right"),
        (
            "from __future__ import annotations\nclass Solution:\n    def append(self, a: List[int], b):\n        return a + [b]",
            "right",
        ),
        (
            "def append(a: List[int], b):\n    return a + [b]",
            "right",
        ),  # the harness looks for a class only where one is
        (
            "class Solution:\n    seen = 0\n    def append(self, a, b):\n        self.seen += 1\n        return a + [b] * self.seen",
            "wrong",
        ),
        ("class Solution:\n    def append(self, a: Vector, b):\n        return a + [b]", "wrong"),
    ],
)
def test_solutions_stand_behind_the_imports_of_livecodebench(program: str, expected: str) -> None:
    assert verdict(APPEND, program) == expected
    stdin = "rows = defaultdict(int)\nrows[0] += sum(map(int, stdin.readline().split()))\nprint(rows[0])"
    assert verdict(ADD, stdin) == "right" and verdict(ADD, stdin.replace("stdin", "stdout")) == "wrong"


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"tests": []},
        {"tests": [{"input": "1"}]},
        {"tests_packed": "no base64!"},
        {"mode": "guess", "tests": ADD["tests"]},
        {"mode": "call", "tests": APPEND["tests"]},
        {**APPEND, "tests": [{"input": "not JSON", "output": "1"}]},
        {**APPEND, "entry": ["__import__('os').system"]},
        {**DOUBLE, "check": ""},
        {**DOUBLE, "check": "import no_such_package"},
        {**DOUBLE, "check": "assert double(2) == four"},
        {**DOUBLE, "check": "assert double(2) =="},
        {**DOUBLE, "check": "assert double(lambda: 2) == 4"},
    ],
)
def test_tests_that_fail_by_themselves_are_ungradable(metadata: dict[str, Any]) -> None:
    assert verdict(metadata, "def double(x):\n    return x * 2\nclass Solution:\n    append = None") == "ungradable"


def test_a_sandbox_that_fails_is_ungradable_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    from reflective.verify.code import grader as code

    def refuse() -> Sandbox:
        raise SandboxError("no sandbox that is safe")

    monkeypatch.setattr(code.Sandbox, "find", refuse)
    found = grade(Problem("", None, kind="code", metadata=ADD), "print(3)")
    assert (found.kind, found.reason) == ("ungradable", "no sandbox that is safe")


def test_what_a_test_expects_of_an_exception_is_seen() -> None:
    check = "try:\n    double(None)\nexcept TypeError:\n    pass\nelse:\n    raise AssertionError\nassert double(1.5) == 3.0"
    assert verdict({**DOUBLE, "check": check}, "def double(x):\n    return x * 2") == "right"
    assert verdict({**DOUBLE, "check": check}, "def double(x):\n    return 3.0") == "wrong"


def test_values_travel_unchanged() -> None:
    values = (
        "[0, -1, 2**70, True, None, 1.5, float('inf'), 1e-300, 'é\\ud800\\n', b'\\x00', (1, (2,)), {1, 2}, frozenset({3}), "
        "{'a': {(1, 2): [3]}, 4: 5.0}, 2j, range(3)]"
    )
    check = f"values = {values}\nback = echo(values)\nassert back == values\nassert list(map(type, back)) == list(map(type, values))"
    assert verdict({"mode": "check", "entry": ["echo"], "check": check}, "def echo(x):\n    return x") == "right"


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        ("3", "3\n", True),
        ("3\n4\n", "3 \n 4", True),
        ("1 2 3", "1  2 3", True),
        ("0.5", "0.50", True),
        ("1e3", "1000", True),
        ("YES", "yes", False),
        ("3", "3\n\n4", False),
        ("1 2", "1\n2", False),
        ("0.5", "0.5000001", False),
        ("nan", "nan ", True),
        ("a 0.5", "a 0.50", False),
    ],
)
def test_outputs_are_compared_line_by_line(expected: str, printed: str, same: bool) -> None:
    assert same_output(expected, printed) is same


@pytest.mark.parametrize(
    ("expected", "sent", "same"),
    [
        ("[1, 2]", {"t": [1, 2]}, True),
        ("1", {"f": (1.0).hex()}, True),
        ("1.5", {"f": (1.5).hex()}, True),
        ("true", True, True),
        ('"1"', 1, False),
        ("1", "1", False),
        ("null", None, True),
        ("null", 0, False),
        ("[]", {"s": []}, False),
        ('{"a": [1]}', {"d": [["a", [1]]]}, True),
        ('{"a": [1]}', {"d": [["a", [1]], ["a", [1]]]}, False),
        ("1", {"?": "Yes"}, False),
        ("1", {"f": "no number"}, False),
        ("1180591620717411303424", {"i": hex(2**70)}, True),
        ("[1]", {"t": 1}, False),
    ],
)
def test_values_are_compared_as_json(expected: str, sent: Any, same: bool) -> None:
    assert same_value(json.loads(expected), sent) is same


def test_packed_tests_come_back() -> None:
    tests = [{"input": "é\n" * 1000, "output": "1"}]
    packed = pack_tests(tests)
    assert unpack_tests(packed) == tests and len(packed) < 200
    assert verdict({"tests_packed": pack_tests(ADD["tests"])}, "print(sum(map(int, input().split())))") == "right"
    with pytest.raises(ValueError, match="packed tests"):
        unpack_tests("AAAA")


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("So:\n```python\nx = 1\n```", "x = 1"),
        ("```python\nx = 1\n```\nOr better\n```py\nx = 2\n```\nRun it:\n```bash\npython x.py\n```", "x = 2"),
        ("```\nx = 1\n```", "x = 1"),
        ("```python\nx = 1\n", None),
        ("```python\nx = 1\n```\n```python\nx =", "x = 1"),
        ("x = 1\nprint(x)", "x = 1\nprint(x)"),
        ("The answer is \\boxed{4}", None),
        ("```cpp\nint main() {}\n```", None),
        ("```python\nprint('answer is \\\\boxed{3}')\n```", "print('answer is \\\\boxed{3}')"),
        ("", None),
    ],
)
def test_the_last_closed_block_of_python_is_the_program(text: str, program: str | None) -> None:
    assert extract_answer(text, "code") == program


def test_many_threads_grade_at_once() -> None:
    programs = ["print(sum(map(int, input().split())))", "print(0)"] * 8
    with ThreadPoolExecutor(8) as pool:
        kinds = list(pool.map(lambda program: verdict({**ADD, "time_limit_s": 20}, program), programs))
    assert kinds == ["right", "wrong"] * 8
