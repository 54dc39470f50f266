"""HumanEval+ and MBPP+: functions to be written, with EvalPlus's many more tests; graded by running them.

Three forms of their files are read: the hub's rows (a `test` program that calls the function), EvalPlus's own releases
(inputs, whose right outputs are those of the canonical solution) and the original ones (a list of assertions). A test
program runs beside the tested one, never with it: see `reflective.verify.code.grader`.
"""

from __future__ import annotations

import ast
import json
from typing import Any

from reflective.tasks.benchmarks.base import Benchmark, Options, Question, first
from reflective.tasks.files.hub import HubSource
from reflective.tasks.files.rows import Row
from reflective.tasks.prompts import SLOT

PROMPT = (
    "Please provide a self-contained Python script that solves the following problem in a markdown code block:\n"
    f"```python\n{SLOT}\n```"
)
TOLERANCE = 1e-6  # EvalPlus: of outputs that are floats and have no tolerance of their own

_COMPARE = """
def _floats(value):
    return isinstance(value, float) or (isinstance(value, (list, tuple)) and bool(value)
                                        and all(isinstance(item, float) for item in value))

def _close(one, other, tolerance):
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(_close(a, b, tolerance) for a, b in zip(one, other))
    number = (int, float)
    return one == other or (isinstance(one, number) and isinstance(other, number)
                            and abs(one - other) <= tolerance + 1e-7 * abs(other))

def _same(one, other, tolerance):
    if one == other:
        return True
    tolerance = tolerance or (1e-6 if _floats(other) else 0)
    return bool(tolerance) and type(one) is type(other) and _close(one, other, tolerance)

# functions of which several outputs are right (evalplus 0.3.1, eval/_special_oracle.py and eval/__init__.py)
_AS_SETS = set("similar_elements find_char_long common_in_nested_lists extract_singly larg_nnum intersection_array "
               "find_dissimilar Diff".split())
_NOT_NONE = {"check_str", "text_match_three", "text_starta_endb"}

def _another(entry, given):  # Mbpp/295, /581 and /558, whose texts can be read in two ways
    if entry == "sum_div":
        return 0
    if entry == "surface_Area":
        return round(given[0] ** 2 + 2 * given[0] * math.sqrt((given[0] / 2) ** 2 + given[1] ** 2))
    if entry == "digit_distance_nums":
        long, short = sorted(map(str, given), key=len, reverse=True)
        return sum(abs(int(a) - int(b)) for a, b in zip(long, short.zfill(len(long))))
    return None

def _right(entry, given, one, other, tolerance):
    if entry == "are_equivalent":
        return True
    if entry == "find_zero":
        return abs(sum(factor * math.pow(one, i) for i, factor in enumerate(given[0]))) <= tolerance
    if entry in _AS_SETS:
        return set(one) == set(other)
    if entry in _NOT_NONE:
        one, other = (value if isinstance(value, bool) else value is not None for value in (one, other))
    if _same(one, other, tolerance):
        return True
    another = _another(entry, given)
    return another is not None and one == another
"""


def read_humaneval(row: Row, index: int, options: Options) -> Question:
    """`prompt` (the head of the function), `entry_point`, `canonical_solution`, and the tests."""
    entry, prompt = str(first(row, "entry_point")), str(first(row, "prompt"))
    canonical = row.get("canonical_solution")
    solution = None if canonical is None else prompt + str(canonical)
    if "test" in row:
        check = f"{_helpers(prompt, entry)}{row['test']}\n\ncheck({entry})\n"
    else:
        check = _against_reference(row, entry, solution)
    return Question(prompt.strip(), solution, {"mode": "check", "entry": [entry], "check": check, "prompt": prompt})


def read_mbpp(row: Row, index: int, options: Options) -> Question:
    """`prompt` or `text`, `code`, and `test`, inputs or `test_list`; the function's name is that of the solution."""
    told = str(first(row, "prompt", "text")).strip()
    solution = str(first(row, "code", "canonical_solution"))
    assertions = _list(row.get("test_list"))
    entry = str(row.get("entry_point") or _called(assertions, solution))
    shown = told if told.startswith('"""') else '"""\n' + "\n".join([told, *assertions[:1]]) + '\n"""'
    imports = "\n".join(_list(row.get("test_imports")))
    if "test" in row:
        check = str(row["test"])
    elif "base_input" in row:
        solution = solution if f"def {entry}" in solution else told + "\n" + solution
        check = _against_reference(row, entry, solution)
    else:
        check = "\n".join(assertions)
    return Question(shown, solution, {"mode": "check", "entry": [entry], "check": f"{imports}\n{check}"})


def _helpers(prompt: str, entry: str) -> str:
    """The functions of a prompt beside the one to be written: OpenAI's tests call them."""
    for head in (prompt, f"{prompt}    pass\n"):
        try:
            nodes = [node for node in ast.parse(head).body if getattr(node, "name", "") != entry]
        except SyntaxError:
            continue
        return "".join(f"{ast.unparse(node)}\n" for node in nodes)
    return ""


def _against_reference(row: Row, entry: str, solution: str | None) -> str:
    """A test program for inputs whose outputs are those of the solution. `{` opens nothing in it: all is data."""
    if solution is None:
        raise ValueError("inputs without a canonical solution")
    inputs = [*first(row, "base_input"), *(row.get("plus_input") or [])]
    parts = {"solution": solution, "entry": entry, "inputs": inputs, "tolerance": float(row.get("atol") or 0)}
    return (
        f"import copy, json, math\n{_COMPARE}\n_told = json.loads({json.dumps(json.dumps(parts))})\n"
        "_reference = {}\nexec(_told['solution'], _reference)\n"
        "for _input in _told['inputs']:\n"
        "    _expected = _reference[_told['entry']](*copy.deepcopy(_input))\n"
        f"    assert _right(_told['entry'], _input, {entry}(*_input), _expected, _told['tolerance'])\n"
    )


def _called(assertions: list[str], solution: str) -> str:
    """The function of the solution that the assertions call; of one solution's only function, its name."""
    try:
        defined = [node.name for node in ast.parse(solution).body if isinstance(node, ast.FunctionDef)]
        calls = [
            node.func.id
            for assertion in assertions
            for node in ast.walk(ast.parse(assertion))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        ]
    except SyntaxError as error:
        raise ValueError(f"the solution or an assertion is no Python: {error}") from error
    name = next((name for name in calls if name in defined), defined[-1] if defined else None)
    if name is None:
        raise ValueError("the solution defines no function")
    return name


def _list(value: Any) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else [str(item) for item in value]


HUMANEVAL_PLUS = Benchmark(
    name="humaneval_plus",
    description="164 Python functions, with EvalPlus's tests",
    kind="code",
    split="test",
    source=HubSource("evalplus/humanevalplus", ("data/test*.parquet", "test*.parquet", "test.jsonl")),
    read=read_humaneval,
    prompt=PROMPT,
    prompt_source="EvalPlus",
    size=164,
)

MBPP_PLUS = Benchmark(
    name="mbpp_plus",
    description="378 small Python functions, with EvalPlus's tests",
    kind="code",
    split="test",
    source=HubSource("evalplus/mbppplus", ("data/test*.parquet", "test*.parquet", "test.jsonl")),
    read=read_mbpp,
    prompt=PROMPT,
    prompt_source="EvalPlus",
    size=378,
)
