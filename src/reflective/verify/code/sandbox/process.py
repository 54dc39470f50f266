"""A program inside the sandbox, seen from outside: started, spoken with, watched, and ended with all that it started.

A `Process` is one run. `communicate` gives it its input and collects its output; `send` and `receive` speak with it in
lines while it runs. Whoever leaves the `with` block leaves no process behind: the end of the first process inside takes
the whole process namespace with it.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import time
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import IO, Any, Literal

from reflective.verify.code.sandbox import watch
from reflective.verify.code.sandbox.limits import Limits
from reflective.verify.code.sandbox.start import Started

End = Literal["exit", "time", "memory", "output", "processes", "scratch"]

LOOK_EVERY_S = 0.05  # at memory and processes
CHUNK = 65_536
ERROR_TAIL = 4_000  # bytes of stderr that are kept
MANY_THREADS = 4  # times the limit, where the system itself does not count (root without bubblewrap)


class Ended(Exception):
    """The program ended, or was ended, before it gave a line. `how` says which."""

    def __init__(self, how: End) -> None:
        super().__init__(how)
        self.how = how


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run left: its output, the end of its stderr, its exit code (negative: a signal), and what ended it."""

    stdout: bytes
    stderr: bytes
    code: int
    end: End
    seconds: float


class Process(Started):
    """One run of `source`, a Python program; it finds `payload` under the name PAYLOAD."""

    def __init__(self, source: str, *, payload: Any = None, limits: Limits, bwrap: str | None) -> None:
        self._buffer = bytearray()
        self._errors = bytearray()
        self._written = 0
        self._end: End = "exit"
        super().__init__(source, payload, limits, bwrap)
        self._deadline = time.monotonic() + limits.wall_s
        self._began = self._looked = time.monotonic()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def communicate(self, data: bytes = b"") -> Outcome:
        """Give it `data` as its input and wait for its end."""
        self._exchange(data, lambda waiting, pipes: not pipes, close=True)
        return self._outcome()

    def send(self, line: bytes) -> None:
        """One line for the program. Raises `Ended` where it passes a limit before it has read the line."""
        self._exchange(line + b"\n", lambda waiting, pipes: not waiting)
        if self._end != "exit":
            raise Ended(self._end)

    def receive(self) -> bytes:
        """The program's next line, without its end. Raises `Ended` where none comes within the limits."""
        self._exchange(b"", lambda waiting, pipes: b"\n" in self._buffer or self.popen.stdout not in pipes)
        line, end, rest = self._buffer.partition(b"\n")
        if not end or self._end != "exit":
            raise Ended(self._end)
        self._buffer = rest
        return bytes(line)

    def extend(self, seconds: float) -> None:
        """From now on `seconds` of the clock are left."""
        self._deadline = time.monotonic() + seconds

    @staticmethod
    def clock() -> float:
        """Seconds, of the clock that the limits are measured with."""
        return time.monotonic()

    def _exchange(
        self, data: bytes, done: Callable[[memoryview, Container[object]], bool], *, close: bool = False
    ) -> None:
        """Write `data` and read what comes, until a limit is passed or `done` says so of what is still to be written
        and of the pipes that are still open."""
        popen, waiting = self.popen, memoryview(data)
        assert popen.stdin is not None
        pipes: set[Any] = {popen.stdout, popen.stderr}
        with selectors.DefaultSelector() as selector:
            for pipe in pipes:
                selector.register(pipe, selectors.EVENT_READ)
            if waiting:
                selector.register(popen.stdin, selectors.EVENT_WRITE)
            elif close:
                popen.stdin.close()
            while self._end == "exit" and not done(waiting, pipes):
                for key, _ in selector.select(LOOK_EVERY_S):
                    if key.fileobj is not popen.stdin:
                        if not self._take(key.fileobj):  # type: ignore[arg-type]
                            selector.unregister(key.fileobj)
                            pipes.discard(key.fileobj)
                        continue
                    waiting = self._feed(waiting)
                    if not waiting:
                        selector.unregister(popen.stdin)
                        if close:
                            with contextlib.suppress(OSError):
                                popen.stdin.close()
                self._look()

    def _feed(self, waiting: memoryview) -> memoryview:
        """What is still to be written; nothing where the program does not listen any more."""
        assert self.popen.stdin is not None
        try:
            return waiting[os.write(self.popen.stdin.fileno(), waiting[:CHUNK]) :]
        except BlockingIOError:
            return waiting
        except OSError:
            return waiting[:0]

    def _take(self, pipe: IO[bytes]) -> bool:
        """Whether the pipe is still open; what it holds goes to the buffers."""
        try:
            chunk = os.read(pipe.fileno(), CHUNK)
        except BlockingIOError:
            return True
        if not chunk:
            return False
        self._written += len(chunk)
        if self._written > self.limits.output_bytes:
            self._stop("output")
        elif pipe is self.popen.stdout:
            self._buffer += chunk
        else:
            self._errors = (self._errors + chunk)[-ERROR_TAIL:]
        return True

    def _look(self) -> None:
        """End what has used too much."""
        now = time.monotonic()
        if now >= self._deadline:
            self._stop("time")
        elif now - self._looked >= LOOK_EVERY_S and self._end == "exit":
            used = watch.usage(self.popen.pid)
            if used.memory_bytes > self.limits.memory_bytes:
                self._stop("memory")
            elif used.threads > MANY_THREADS * self.limits.processes:
                self._stop("processes")
            elif (folder := self.scratch) and watch.folder_bytes(folder) > self.limits.scratch_bytes:
                self._stop("scratch")
            self._looked = time.monotonic()

    def _stop(self, how: End) -> None:
        if self._end == "exit":
            self._end = how
        self.kill()

    def _outcome(self) -> Outcome:
        seconds = time.monotonic() - self._began
        while self.popen.poll() is None and self._end == "exit":  # it closed its output and runs on
            time.sleep(LOOK_EVERY_S / 5)
            self._look()
        code = self.popen.wait()
        # bubblewrap and the launcher tell a signal as 128 + its number
        code = 128 - code if 128 < code <= 128 + signal.SIGRTMAX else code
        end: End = "time" if code == -signal.SIGXCPU and self._end == "exit" else self._end
        return Outcome(bytes(self._buffer), bytes(self._errors), code, end, seconds)
