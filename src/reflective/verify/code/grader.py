"""Kind "code": is this program right? Found out by running its tests against it in the sandbox.

What the tests are stands in the problem's `metadata`:

    mode "stdin"  `tests`: [{"input": text, "output": text}, …]; the program reads the input and prints the output
    mode "call"   `entry`: ["f"] or ["Solution.f"] (which may also be a function f); `tests`: the input holds one JSON
                  value a line, the arguments, and the output one JSON value, what the function returns
    mode "check"  `entry`: names of functions; `check`: a test program that calls them and asserts

The first two are LiveCodeBench's, and do as its harness does: its imports stand before the program (`imports.py`), and
one `Solution` answers all calls.

`tests_packed` (see `packing.py`) may stand for `tests`. `time_limit_s` bounds a test (mode "check": all of them), in
seconds of computing; on the clock it may take twice as long and a second. `memory_bytes` bounds each process.

The expected outputs never enter the tested program's sandbox, and no comparison happens in it: outputs are compared
here, and a test program runs in a sandbox of its own (`program.py`). A program that ends early, crashes, or passes its
time, memory or output is wrong. A sandbox that can't be set up and tests that fail by themselves are ungradable.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from typing import Any

from reflective.types import Problem, Verdict
from reflective.verify.code import program
from reflective.verify.code.imports import with_imports
from reflective.verify.code.packing import unpack_tests
from reflective.verify.code.sandbox import Ended, Limits, Sandbox, SandboxError

TIME_LIMIT_S = 6.0  # of a test, LiveCodeBench's; on a machine that is much slower, say more
CHECK_TIME_LIMIT_S = 20.0  # of a test program with up to a thousand calls
CLOCK_PER_LIMIT, CLOCK_MORE_S = 2.0, 1.0  # a program that computes for its time may take this long on a busy machine
TOTAL_LIMIT_S = 300.0  # of all tests of a program
TESTS_LIMITS = Limits(wall_s=120.0, output_bytes=2**30, memory_bytes=4 * 2**30)  # of a test program, which is trusted
MAX_PROGRAM_CHARS = 200_000
LINE_CALLS = 100_000  # of a test program

_WHY: Mapping[str, str] = {
    "exit": "it ended before it answered",
    "time": "time limit",
    "memory": "memory limit",
    "output": "output limit",
    "processes": "process limit",
    "scratch": "scratch limit",
}


class TestsFailed(Exception):
    """The tests themselves can't be read or run."""


def grade_code(problem: Problem, answer: str, *, time_limit_s: float, sandbox: Sandbox | None = None) -> Verdict:
    """Right when every test passes. `time_limit_s` is the grader's, and does not bound a test."""
    if len(answer) > MAX_PROGRAM_CHARS:
        return Verdict("wrong", f"longer than {MAX_PROGRAM_CHARS} characters")
    try:
        sandbox = sandbox or Sandbox.find()
        return _MODES[_mode(problem.metadata)](sandbox, problem.metadata, answer)
    except (SandboxError, TestsFailed) as error:
        return Verdict("ungradable", str(error))


def _mode(metadata: Mapping[str, Any]) -> str:
    mode = metadata.get("mode") or ("check" if "check" in metadata else "call" if "entry" in metadata else "stdin")
    if mode not in _MODES:
        raise TestsFailed(f"unknown mode {mode!r} of tests (known: {', '.join(_MODES)})")
    return str(mode)


def _grade_stdin(sandbox: Sandbox, metadata: Mapping[str, Any], answer: str) -> Verdict:
    """Every test starts the program anew."""
    left = TOTAL_LIMIT_S
    tests = _tests(metadata)
    limits = _limits(metadata, TIME_LIMIT_S)
    for number, test in enumerate(tests, 1):
        if left <= 0:
            return Verdict("wrong", f"test {number} of {len(tests)}: {_WHY['time']} of all tests")
        outcome = sandbox.run(with_imports(answer), stdin=test["input"].encode(), limits=limits)
        left -= outcome.seconds
        where = f"test {number} of {len(tests)}: "
        if outcome.end != "exit":
            return Verdict("wrong", where + _WHY[outcome.end])
        if outcome.code != 0:
            lines = outcome.stderr.decode("utf-8", "replace").strip().splitlines()
            return Verdict("wrong", where + (lines[-1][:120] if lines and outcome.code > 0 else f"code {outcome.code}"))
        if not same_output(test["output"], outcome.stdout.decode("utf-8", "replace")):
            return Verdict("wrong", where + "another output")
    return Verdict("right", f"{len(tests)} tests")


def _grade_call(sandbox: Sandbox, metadata: Mapping[str, Any], answer: str) -> Verdict:
    """One process answers the calls in turn; what it returns is compared here."""
    tests, entry = _tests(metadata), _entries(metadata)[0]
    limits = _limits(metadata, TIME_LIMIT_S)
    with _Tested(sandbox, with_imports(answer), limits) as tested:
        for number, test in enumerate(tests, 1):
            where = f"test {number} of {len(tests)}: "
            if tested.seconds > TOTAL_LIMIT_S:
                return Verdict("wrong", where + _WHY["time"])
            try:
                arguments = [json.loads(line) for line in test["input"].split("\n") if line.strip()]
                expected = json.loads(test["output"])
            except (ValueError, RecursionError) as error:
                raise TestsFailed(f"{where}no JSON: {error}") from error
            request = {"name": entry, "args": _encoded(arguments), "kwargs": {"d": []}}
            reply = tested.ask(json.dumps(request).encode(), limits.wall_s)
            if isinstance(reply, str):
                return Verdict("wrong", where + reply)
            if "value" not in reply:
                return Verdict("wrong", f"{where}{reply.get('raised')}: {str(reply.get('text'))[:100]}")
            if not same_value(expected, reply["value"]):
                return Verdict("wrong", where + "another value")
    return Verdict("right", f"{len(tests)} tests")


def _grade_check(sandbox: Sandbox, metadata: Mapping[str, Any], answer: str) -> Verdict:
    """The test program asks, the tested one answers, in two sandboxes; this passes the lines on."""
    source = str(metadata.get("check") or "")
    if not source.strip():
        raise TestsFailed("there is no test program")
    payload = {"source": source, "entries": _entries(metadata)}
    limits = _limits(metadata, CHECK_TIME_LIMIT_S)
    left = limits.wall_s
    with _Tested(sandbox, answer, limits) as tested:
        if tested.broken:
            return Verdict("wrong", tested.broken)
        with sandbox.start(program.TESTS, payload=payload, limits=TESTS_LIMITS) as tests:
            try:
                for _ in range(LINE_CALLS):
                    line = json.loads(tests.receive())
                    if "name" not in line:
                        return _verdict_of_tests(line)
                    before = tested.seconds
                    reply = tested.ask(json.dumps(line).encode(), left)
                    if isinstance(reply, str):
                        return Verdict("wrong", reply)
                    left -= tested.seconds - before
                    tests.send(json.dumps(reply).encode())
            except Ended as error:
                raise TestsFailed(f"the tests: {_WHY[error.how]}") from error
    raise TestsFailed(f"the tests make more than {LINE_CALLS} calls")


def _verdict_of_tests(line: Mapping[str, Any]) -> Verdict:
    if "failed" in line:
        raise TestsFailed(f"the tests failed: {line['failed']}")
    return Verdict("right", "all tests") if line.get("right") is True else Verdict("wrong", str(line.get("wrong")))


class _Tested:
    """The tested program, loaded in its sandbox and asked for calls. `broken` says why it could not be loaded."""

    def __init__(self, sandbox: Sandbox, source: str, limits: Limits) -> None:
        self._process = sandbox.start(
            program.TESTED, payload={"source": source}, limits=replace(limits, cpu_s=TOTAL_LIMIT_S)
        )
        self.seconds = 0.0
        loaded = self._receive(limits.wall_s)
        self.broken = loaded if isinstance(loaded, str) else str(loaded.get("broken") or "")

    def __enter__(self) -> _Tested:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.close()

    def ask(self, request: bytes, seconds: float) -> dict[str, Any] | str:
        """The reply to a call, or why there is none."""
        if self.broken:
            return self.broken
        try:
            self._process.extend(max(seconds, 0.05))
            self._process.send(request)
        except Ended as error:
            return _WHY[error.how]
        return self._receive(seconds)

    def _receive(self, seconds: float) -> dict[str, Any] | str:
        began = self._process.clock()
        self._process.extend(max(seconds, 0.05))
        try:
            reply = json.loads(self._process.receive())
        except Ended as error:
            return _WHY[error.how]
        except (ValueError, RecursionError):
            return "no reply that can be read"
        finally:
            self.seconds += self._process.clock() - began
        return reply if isinstance(reply, dict) else "no reply that can be read"


def same_output(expected: str, printed: str) -> bool:
    """Line by line without surrounding spaces, as LiveCodeBench does: the same text, or exactly the same numbers."""
    wanted, got = ([line.strip() for line in text.strip().split("\n")] for text in (expected, printed))
    return len(wanted) == len(got) and all(one == other or _same_numbers(one, other) for one, other in zip(wanted, got))


def _same_numbers(one: str, other: str) -> bool:
    if one.split() == other.split():
        return True
    try:
        a, b = ([Decimal(word) for word in line.split()] for line in (one, other))
    except (InvalidOperation, ValueError):
        return False
    return all(map(Decimal.is_finite, a)) and a == b


def same_value(expected: Any, sent: Any) -> bool:
    """Whether what a program sent (see `program.py`) is the expected JSON value; a tuple counts as a list.

    1, 1.0 and True differ from each other as little as Python says, but a number never equals a text.
    """
    if isinstance(sent, dict):
        ((tag, inside),) = sent.items() if len(sent) == 1 else (("?", None),)
        if tag in ("i", "f"):
            return _is_number(expected) and expected == _number(tag, inside)
        if tag == "t":
            return same_value(expected, inside)
        if tag == "d" and isinstance(expected, dict) and isinstance(inside, list) and len(inside) == len(expected):
            pairs = [pair for pair in inside if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)]
            told = {pair[0]: pair[1] for pair in pairs}
            return told.keys() == expected.keys() and all(same_value(expected[key], told[key]) for key in told)
        return False
    if isinstance(expected, list):
        return isinstance(sent, list) and len(sent) == len(expected) and all(map(same_value, expected, sent))
    if _is_number(expected):
        return _is_number(sent) and bool(expected == sent)
    return type(expected) is type(sent) and bool(expected == sent)


def _is_number(value: Any) -> bool:
    return isinstance(value, bool | int | float)


def _number(tag: str, text: Any) -> int | float:
    try:
        return int(text, 16) if tag == "i" else float.fromhex(text)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _encoded(value: Any) -> Any:
    """JSON data in the form that travels (`program.CODEC`)."""
    if isinstance(value, dict):
        return {"d": [[key, _encoded(item)] for key, item in value.items()]}
    return [_encoded(item) for item in value] if isinstance(value, list) else value


def _tests(metadata: Mapping[str, Any]) -> Sequence[Mapping[str, str]]:
    try:
        found = unpack_tests(metadata["tests_packed"]) if "tests_packed" in metadata else metadata["tests"]
        tests = [{"input": _text(test["input"]), "output": _text(test["output"])} for test in found]
    except (KeyError, TypeError, ValueError) as error:
        raise TestsFailed(f"the tests can't be read: {type(error).__name__}: {str(error)[:100]}") from error
    if not tests:
        raise TestsFailed("there are no tests")
    return tests


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _entries(metadata: Mapping[str, Any]) -> list[str]:
    value = metadata.get("entry") or metadata.get("entry_point")
    names = [value] if isinstance(value, str) else list(value or ())
    if not names or not all(isinstance(name, str) and all(map(str.isidentifier, name.split("."))) for name in names):
        raise TestsFailed(f"the tested function's name is missing or no name: {value!r}")
    return names


def _limits(metadata: Mapping[str, Any], seconds: float) -> Limits:
    seconds = float(metadata.get("time_limit_s") or seconds)
    limits = Limits(wall_s=CLOCK_PER_LIMIT * seconds + CLOCK_MORE_S, cpu_s=seconds)
    memory = metadata.get("memory_bytes")
    return limits if memory is None else replace(limits, memory_bytes=int(memory))


_MODES = {"stdin": _grade_stdin, "call": _grade_call, "check": _grade_check}
