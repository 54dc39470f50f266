"""The helpers: time limits in any thread, failures that stay inside, helpers that do not outlive their use."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reflective.types import Problem
from reflective.verify import grade
from reflective.verify.processes import HelperFailure, Helpers, HelperTimeout

INTEGRAL = "\\int_0^1 x \\, dx"
ENDLESS = "\\sum_{k=1}^{10^{9}} k^{k}"


@pytest.fixture(scope="module")
def helpers() -> Iterator[Helpers]:
    made = Helpers(helpers=2)
    yield made
    made.close()


def test_a_call_returns_the_functions_result(helpers: Helpers) -> None:
    assert helpers.call("compare", "\\frac12", INTEGRAL, [], time_limit_s=30.0)[0] == "right"
    assert helpers.call("compare", "\\frac13", INTEGRAL, [], time_limit_s=30.0)[0] == "wrong"
    assert "brace" in helpers.call("compare", "\\frac{", "1", [], time_limit_s=30.0)[1]


def test_the_time_limit_holds_in_a_thread_and_the_next_call_works(helpers: Helpers) -> None:
    helpers.call("compare", "1", "1", [], time_limit_s=30.0)  # started: what follows is the limit alone
    seen: list[object] = []

    def call() -> None:
        start = time.monotonic()
        try:
            helpers.call("compare", "5", ENDLESS, [], time_limit_s=0.5)
        except HelperTimeout:
            seen.append(time.monotonic() - start)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join(60.0)
    assert len(seen) == 1 and isinstance(seen[0], float) and 0.4 < seen[0] < 10.0
    assert helpers.call("compare", "\\frac12", INTEGRAL, [], time_limit_s=30.0)[0] == "right"


def test_an_exception_is_reported_and_the_helper_is_kept(helpers: Helpers) -> None:
    with pytest.raises(HelperFailure, match="KeyError"):
        helpers.call("system", "exit 1", time_limit_s=30.0)
    helper = helpers._idle[-1]
    assert helper.alive
    helpers.call("compare", "1", "1", [], time_limit_s=30.0)
    assert helpers._idle[-1] is helper


def test_a_helper_that_dies_is_replaced(helpers: Helpers) -> None:
    helpers.call("compare", "1", "1", [], time_limit_s=30.0)
    for helper in helpers._idle:
        helper.process.kill()
        helper.process.wait()
    assert helpers.call("compare", "1", "1", [], time_limit_s=30.0)[0] == "right"


def test_many_threads_share_the_helpers(helpers: Helpers) -> None:
    pairs = [("\\frac12", "right"), ("\\frac13", "wrong")] * 20
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(helpers.call, "compare", gold, INTEGRAL, [], time_limit_s=60.0) for gold, _ in pairs]
        assert [call.result()[0] for call in calls] == [expected for _, expected in pairs]
    assert 1 <= len(helpers._idle) <= 2


@pytest.mark.slow
def test_grading_in_threads_gives_the_verdicts_of_one_thread() -> None:
    cases = [
        ("\\frac12", INTEGRAL, "right"),
        ("5", "6", "wrong"),
        ("\\sqrt{2}", "2^{1/2}", "right"),
        ("5", ENDLESS, "ungradable"),
    ]
    with ThreadPoolExecutor(4) as pool:
        verdicts = list(pool.map(lambda case: grade(Problem("", case[0]), case[1], time_limit_s=3.0), cases * 2))
    assert [verdict.kind for verdict in verdicts] == [expected for _, _, expected in cases] * 2


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_its_own_helpers() -> None:
    code = f"""
import os, sys
from reflective.types import Problem
from reflective.verify import grade
right = lambda: grade(Problem("", "\\\\frac12"), {INTEGRAL!r}, time_limit_s=30.0).kind == "right"
assert right()
child = os.fork()
if child == 0:
    os._exit(0 if right() else 1)
assert right()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert right()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="needs /proc")
def test_no_helper_outlives_its_caller() -> None:
    code = """
import os
from reflective.verify.processes import SHARED
SHARED.call("compare", "1", "1", [], time_limit_s=30.0)
print(SHARED._idle[0].process.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    caller = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    helper = int(caller.stdout)
    deadline = time.monotonic() + 20.0
    while os.path.exists(f"/proc/{helper}") and time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):
            if "\nState:\tZ" in Path(f"/proc/{helper}/status").read_text():
                return  # ended, and not yet collected
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{helper}")


def test_a_script_without_a_main_guard_can_grade(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from reflective.types import Problem\nfrom reflective.verify import grade\n"
        f"assert grade(Problem('', '\\\\frac12'), {INTEGRAL!r}, time_limit_s=30.0).right\n"
    )
    subprocess.run([sys.executable, script], check=True, timeout=120)
