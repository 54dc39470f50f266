"""Work that may hang, in helper processes that are killed when their time is over.

A helper is a fresh interpreter that runs this file's `serve` loop: one JSON line in, one JSON line out. It is started
at the first call and kept. Unlike signal.alarm this limits time in any thread; unlike multiprocessing it never
imports the caller's main module and never forks the caller's threads. A helper has a memory limit, kills itself
if its caller disappears, and ends when its input is closed.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from reflective.types import Verdict

FUNCTIONS = {  # what a helper may be asked for
    "compare": "reflective.verify.math.comparison",
    "antiderivatives": "reflective.verify.math.integral",
    "draw": "reflective.verify.gym.scorers",
    "score": "reflective.verify.gym.scorers",
}
MEMORY_LIMIT_BYTES = 3 * 2**30
START_LIMIT_S = 60.0  # importing SymPy on a busy machine; does not count as the call's time
GRACE_S = 2.0  # a helper whose caller is gone ends this long after its time limit

_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from reflective.verify import processes as p; p.serve()"
)


class HelperTimeout(Exception):
    """The time limit passed; the helper was killed."""


class HelperFailure(Exception):
    """The function raised, ran out of memory or took its process down."""


class Helpers:
    """A few helper processes, shared by all threads."""

    def __init__(self, helpers: int | None = None) -> None:
        self.helpers = helpers or max(1, min(4, os.cpu_count() or 1))
        self._reset()

    def _reset(self) -> None:
        self._idle: list[_Helper] = []  # one operation on it at a time is safe in threads
        self._free = threading.BoundedSemaphore(self.helpers)

    def call(self, function: str, *arguments: Any, time_limit_s: float, prepare: Sequence[str] = ()) -> Any:
        """The function's result; waiting for a free helper does not count as its time.

        `prepare` is a function with its arguments that the same helper is asked for before, in a time of its own.
        """
        with self._free:
            helper = self._take()
            try:
                if prepare:
                    helper.call(prepare[0], tuple(prepare[1:]), START_LIMIT_S)
                return helper.call(function, arguments, time_limit_s)
            except HelperFailure:
                raise
            except BaseException:
                helper.kill()
                raise
            finally:
                self._idle.append(helper)

    def _take(self) -> _Helper:
        """One that is idle and alive, or a new one."""
        with contextlib.suppress(IndexError):
            while True:
                helper = self._idle.pop()
                if helper.alive:
                    return helper
                helper.kill()
        return _Helper()

    def verdict(self, function: str, *arguments: Any, time_limit_s: float, prepare: Sequence[str] = ()) -> Verdict:
        """The verdict of a function that returns (kind, reason); ungradable where it fails or takes too long."""
        try:
            kind, reason = self.call(function, *arguments, time_limit_s=time_limit_s, prepare=prepare)
        except HelperTimeout as error:
            return Verdict("ungradable", str(error))
        except HelperFailure as error:
            return Verdict("ungradable", f"the grader failed: {error}")
        return Verdict(kind, reason)

    def close(self) -> None:
        """End the idle helpers; a later call starts new ones."""
        while self._idle:
            self._idle.pop().kill()

    def after_fork(self) -> None:
        """In a forked child: leave the parent's helpers to the parent."""
        for helper in self._idle:
            helper.disown()
        self._reset()


class _Helper:
    """One helper process."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-W", "ignore", "-c", _BOOT, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self.ready = False

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def call(self, function: str, arguments: tuple[Any, ...], time_limit_s: float) -> Any:
        if not self.ready:
            self._exchange(b"", START_LIMIT_S)
            self.ready = True
        request = {"function": function, "arguments": arguments, "time_limit_s": time_limit_s}
        answer = self._exchange(json.dumps(request).encode() + b"\n", time_limit_s)
        if "error" in answer:
            raise HelperFailure(answer["error"])
        return answer["result"]

    def _exchange(self, request: bytes, time_limit_s: float) -> dict[str, Any]:
        """Send a line, wait for a line. The timer kills the process, which ends the wait."""
        assert self.process.stdin is not None and self.process.stdout is not None
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            self.process.kill()

        timer = threading.Timer(time_limit_s, expire)
        timer.daemon = True
        timer.start()
        try:
            self.process.stdin.write(request)
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except OSError:
            line = b""
        finally:
            timer.cancel()
        if expired.is_set():
            raise HelperTimeout(f"no result within {time_limit_s:g} s")
        if not line.endswith(b"\n"):
            raise HelperFailure("the helper process died")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._close_pipes()

    def disown(self) -> None:
        self._close_pipes()
        self.process.returncode = 0  # not our child: nothing to wait for

    def _close_pipes(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def serve() -> None:
    """The helper's side: answer requests until the input ends."""
    output = os.fdopen(os.dup(1), "w", encoding="ascii")
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (what libraries print must not reach the pipe)
    limit_resources()
    for module in set(FUNCTIONS.values()):
        importlib.import_module(module)
    importlib.import_module("math_verify")
    print(json.dumps({"result": None}), file=output, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        _alarm(request["time_limit_s"] + GRACE_S)
        print(json.dumps(_answer(request)), file=output, flush=True)
        _alarm(0)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    try:
        name = request["function"]
        function: Callable[..., Any] = getattr(importlib.import_module(FUNCTIONS[name]), name)
        return {"result": function(*request["arguments"])}
    except MemoryError:
        return {"error": "out of memory"}
    except Exception as error:  # whatever a library raises is the answer "it failed"
        return {"error": f"{type(error).__name__}: {error}"[:200].encode("ascii", "replace").decode()}


def limit_resources() -> None:
    """Memory, core dumps and Ctrl-C (which is the caller's business)."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource
        import signal

        signal.signal(signal.SIGINT, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))


def _alarm(seconds: float) -> None:
    """Without a handler the alarm ends the process, even inside a long computation in C."""
    with contextlib.suppress(ImportError, AttributeError):
        import signal

        signal.setitimer(signal.ITIMER_REAL, seconds)


SHARED = Helpers()
atexit.register(SHARED.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=SHARED.after_fork)
