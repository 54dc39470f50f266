"""LiveCodeBench: contest problems by date, so that what a model may have seen can be left out by a window of dates.

The hidden tests of a row are text, or text that is packed: base64 of zlib of a pickled string. Nothing is unpickled:
the string is read out of the pickle's opcodes, and a pickle that is anything but one string is refused. In a problem
they stay packed (`tests_packed`), so that records stay small; see `reflective.verify.code.grader`.
"""

from __future__ import annotations

import base64
import binascii
import json
import pickletools
import zlib
from datetime import date
from typing import Any

from reflective.tasks.benchmarks.base import Benchmark, Options, Question, first
from reflective.tasks.files.hub import HubSource
from reflective.tasks.files.rows import Row
from reflective.tasks.prompts import SLOT
from reflective.verify.code.packing import pack_tests

MAX_TESTS_BYTES = 512 * 2**20  # of one problem, unpacked

EXPERT = (
    "You are an expert Python programmer. You will be given a question (problem specification) and will generate a "
    "correct Python program that matches the specification and passes all tests."
)
WITH_STARTER = (
    "### Format: You will use the following starter code to write the solution to the problem and enclose your code "
    "within delimiters.\n```python\n{starter}\n```\n\n"
)
WITHOUT_STARTER = (
    "### Format: Read the inputs from stdin solve the problem and write the answer to stdout (do not directly test on "
    "the sample inputs). Enclose your code within delimiters as follows. Ensure that when the python program runs, it "
    "reads the inputs, runs the algorithm and writes output to STDOUT.\n```python\n# YOUR CODE HERE\n```\n\n"
)
PROMPT = f"{EXPERT}\n\n{SLOT}### Answer: (use the provided format with backticks)\n"

_STRING_OPCODES = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"}
_EMPTY_OPCODES = {"PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT", "STOP"}


def read(row: Row, index: int, options: Options) -> Question | None:
    """`question_content`, `starter_code`, `contest_date`, `difficulty`, `public_test_cases`, `private_test_cases`."""
    day = date.fromisoformat(str(first(row, "contest_date"))[:10])
    if not options.in_window(day):
        return None
    tests = [*_tests(row.get("public_test_cases")), *_tests(row.get("private_test_cases"))]
    if not tests:
        raise ValueError("no tests")
    details = row.get("metadata") or {}
    details = json.loads(details) if isinstance(details, str) else details
    starter = str(row.get("starter_code") or "").strip()
    entry = details.get("func_name")
    metadata: dict[str, Any] = {
        "mode": "call" if entry else "stdin",
        **({"entry": [f"Solution.{entry}"]} if entry else {}),
        "tests_packed": pack_tests(tests),
        "date": day.isoformat(),
        "difficulty": str(row.get("difficulty") or ""),
        "platform": str(row.get("platform") or ""),
    }
    form = WITH_STARTER.replace("{starter}", starter) if starter else WITHOUT_STARTER
    return Question(f"### Question:\n{str(first(row, 'question_content')).strip()}\n\n{form}", None, metadata)


def _tests(value: Any) -> list[dict[str, str]]:
    if value in (None, "", []):
        return []
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = json.loads(unpacked(value))
    return [{"input": str(test["input"]), "output": str(test["output"])} for test in value]


def unpacked(text: str) -> str:
    """The string in base64 of zlib of a pickle. Raises `ValueError` where it is anything else."""
    try:
        inflate = zlib.decompressobj()
        data = inflate.decompress(base64.b64decode(text, validate=True), MAX_TESTS_BYTES)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"the hidden tests can't be unpacked: {error}") from error
    if inflate.unconsumed_tail:
        raise ValueError(f"the hidden tests are larger than {MAX_TESTS_BYTES} bytes")
    strings = []
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in _STRING_OPCODES:
            strings.append(argument)
        elif opcode.name not in _EMPTY_OPCODES:
            raise ValueError(f"the hidden tests are not one pickled string (opcode {opcode.name})")
    if len(strings) != 1 or not isinstance(strings[0], str):
        raise ValueError("the hidden tests are not one pickled string")
    return strings[0]


LIVECODEBENCH = Benchmark(
    name="livecodebench",
    description="contest programming problems of May 2023 to April 2025, by date",
    kind="code",
    split="test",
    source=HubSource(
        "livecodebench/code_generation_lite",
        ("test.jsonl", "test2.jsonl", "test3.jsonl", "test4.jsonl", "test5.jsonl", "test6.jsonl"),
        "0fe84c3912ea0c4d4a78037083943e8f0c4dd505",
    ),
    read=read,
    prompt=PROMPT,
    prompt_source="LiveCodeBench",
    options=("since", "until"),
)
