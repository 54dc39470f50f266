"""A program inside the sandbox, seen from outside: started, spoken with, watched, and ended with all that it started.

A `Process` is one run. `communicate` gives it its input and collects its output; `send` and `receive` speak with it in
lines while it runs. Whoever leaves the `with` block leaves no process behind: the end of the first process inside takes
the whole process namespace with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

from reflective.errors import ReflectiveError
from reflective.verify.sandbox import bubblewrap, confine, launcher, seccomp, watch
from reflective.verify.sandbox.limits import Limits

End = Literal["exit", "time", "memory", "output", "processes", "scratch"]

START_LIMIT_S = 30.0  # an interpreter on a busy machine; does not count as the program's time
LOOK_EVERY_S = 0.05  # at memory and processes
CHUNK = 65_536
ERROR_TAIL = 4_000  # bytes of stderr that are kept
MANY_THREADS = 4  # times the limit, where the system itself does not count (root without bubblewrap)


class SandboxError(ReflectiveError):
    """The sandbox could not be set up; nothing is said of the program."""


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


class Process:
    """One run of `source`, a Python program; it finds `payload` under the name PAYLOAD."""

    def __init__(self, source: str, *, payload: Any = None, limits: Limits, bwrap: str | None) -> None:
        self.limits, self._bwrap = limits, bwrap
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._buffer = bytearray()
        self._errors = bytearray()
        self._written = 0
        self._end: End = "exit"
        self._files: list[IO[bytes]] = []
        self._popen: subprocess.Popen[bytes] | None = None
        self.held: Mapping[str, bool] = {}
        try:
            self._start(source, payload)
        except BaseException:
            self.close()
            raise
        self._deadline = time.monotonic() + limits.wall_s
        self._began = self._looked = time.monotonic()

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def communicate(self, data: bytes = b"") -> Outcome:
        """Give it `data` as its input and wait for its end."""
        popen = self._running
        assert popen.stdin is not None and popen.stdout is not None
        waiting = memoryview(data)
        with selectors.DefaultSelector() as selector:
            for pipe in (popen.stdout, popen.stderr):
                selector.register(pipe, selectors.EVENT_READ)  # type: ignore[arg-type]
            if waiting:
                selector.register(popen.stdin, selectors.EVENT_WRITE)
            else:
                popen.stdin.close()
            reading = 2
            while reading and self._end == "exit":
                for key, _ in selector.select(LOOK_EVERY_S):
                    if key.fileobj is popen.stdin:
                        waiting = self._feed(waiting)
                        if not waiting:
                            selector.unregister(popen.stdin)
                            with contextlib.suppress(OSError):
                                popen.stdin.close()
                    elif not self._take(key.fileobj):  # type: ignore[arg-type]
                        selector.unregister(key.fileobj)
                        reading -= 1
                self._look()
        return self._outcome()

    def send(self, line: bytes) -> None:
        """One line for the program. Raises `Ended` where it does not read on or is not there any more."""
        waiting = memoryview(line + b"\n")
        popen = self._running
        assert popen.stdin is not None
        with selectors.DefaultSelector() as selector:
            selector.register(popen.stdin, selectors.EVENT_WRITE)
            while waiting:
                if selector.select(LOOK_EVERY_S):
                    before = len(waiting)
                    waiting = self._feed(waiting)
                    if waiting and len(waiting) == before:
                        raise Ended(self._end)
                self._look()
                if self._end != "exit":
                    raise Ended(self._end)

    def receive(self) -> bytes:
        """The program's next line, without its end. Raises `Ended` where none comes within the limits."""
        popen = self._running
        with selectors.DefaultSelector() as selector:
            for pipe in (popen.stdout, popen.stderr):
                selector.register(pipe, selectors.EVENT_READ)  # type: ignore[arg-type]
            while (at := self._buffer.find(b"\n")) < 0:
                for key, _ in selector.select(LOOK_EVERY_S):
                    if not self._take(key.fileobj):  # type: ignore[arg-type]
                        selector.unregister(key.fileobj)
                        if key.fileobj is popen.stdout:
                            raise Ended(self._end)
                self._look()
                if self._end != "exit":
                    raise Ended(self._end)
        line = bytes(self._buffer[:at])
        del self._buffer[: at + 1]
        return line

    def extend(self, seconds: float) -> None:
        """From now on `seconds` of the clock are left."""
        self._deadline = time.monotonic() + seconds

    @staticmethod
    def clock() -> float:
        """Seconds, of the clock that the limits are measured with."""
        return time.monotonic()

    def close(self) -> None:
        """End everything that runs in the sandbox."""
        popen = self._popen
        if popen is not None:
            self._kill()
            popen.wait()
            for pipe in (popen.stdin, popen.stdout, popen.stderr):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
        for file in self._files:
            file.close()
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None

    @property
    def errors(self) -> str:
        """The end of what the program wrote to stderr."""
        return bytes(self._errors).decode("utf-8", "replace")

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self._popen is not None
        return self._popen

    def _start(self, source: str, payload: Any) -> None:
        job = self._open(json.dumps(self._job(source, payload)).encode())
        heard, status = os.pipe()
        try:
            words = self._command(job, status)
            folder = self._scratch.name if self._scratch else "/"
            self._popen = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**bubblewrap.ENVIRONMENT, "HOME": folder},
                cwd=folder,
                pass_fds=(status, *(file.fileno() for file in self._files)),
                start_new_session=True,
                bufsize=0,
            )
        except OSError as error:
            raise SandboxError(f"the sandbox can't be started: {error}.") from error
        finally:
            os.close(status)
        with os.fdopen(heard, "rb", buffering=0) as pipe:
            self.held = self._wait_for_start(pipe)
        for name in ("stdin", "stdout", "stderr"):
            os.set_blocking(getattr(self._popen, name).fileno(), False)

    def _job(self, source: str, payload: Any) -> dict[str, Any]:
        limits = self.limits
        inside = self._bwrap is None
        return {
            "source": source,
            "payload": payload,
            "paths": bubblewrap.package_paths(),
            "user": 2**30 + random.SystemRandom().getrandbits(28),  # nobody else's, so that its processes are counted
            "limits": {
                "CPU": limits.cpu_seconds,
                "AS": limits.memory_bytes,
                "NPROC": limits.processes,
                "FSIZE": limits.file_bytes,
                "NOFILE": 128,
                "CORE": 0,
            },
            "confine": _text(confine) if inside else None,
            "seccomp": _text(seccomp) if inside else None,
            "readable": [*(p for p in ("/usr", *bubblewrap.SYSTEM_LINKS)), *bubblewrap.readable_paths()],
        }

    def _command(self, job: int, status: int) -> Sequence[str]:
        program = [
            bubblewrap.interpreter(),
            "-I",
            "-S",
            "-B",
            "-X",
            "utf8",
            "-c",
            _text(launcher),
            str(job),
            str(status),
        ]
        if self._bwrap is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="scratch-", ignore_cleanup_errors=True)
            return program
        calls = self._open(seccomp.program()) if seccomp.supported() else None
        options = self._open("\0".join(bubblewrap.options(self.limits, calls)).encode() + b"\0")
        return [self._bwrap, "--args", str(options), "--", *program]

    def _open(self, data: bytes) -> int:
        file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the process)
        file.write(data)
        file.seek(0)
        self._files.append(file)
        return file.fileno()

    def _wait_for_start(self, pipe: Any) -> dict[str, bool]:
        """The line that says what holds."""
        popen, line = self._running, bytearray()
        deadline = time.monotonic() + START_LIMIT_S
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                chunk = pipe.read(CHUNK) if ready else b""
                if not chunk:
                    popen.kill()
                    said = popen.stderr.read(ERROR_TAIL) if popen.stderr and ready else b""
                    lines = said.decode("utf-8", "replace").strip().splitlines() or ["it did not start in time"]
                    raise SandboxError(f"the sandbox can't be set up: {lines[-1]}")
                line += chunk
        held: dict[str, bool] = json.loads(line)
        return held

    def _feed(self, waiting: memoryview) -> memoryview:
        """What is still to be written; nothing where the program does not listen any more."""
        stdin = self._running.stdin
        assert stdin is not None
        try:
            return waiting[os.write(stdin.fileno(), waiting[:CHUNK]) :]
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
        elif pipe is self._running.stdout:
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
            used = watch.usage(self._running.pid)
            if used.memory_bytes > self.limits.memory_bytes:
                self._stop("memory")
            elif used.threads > MANY_THREADS * self.limits.processes:
                self._stop("processes")
            elif self._scratch is not None and watch.folder_bytes(self._scratch.name) > self.limits.scratch_bytes:
                self._stop("scratch")
            self._looked = time.monotonic()

    def _stop(self, how: End) -> None:
        if self._end == "exit":
            self._end = how
        self._kill()

    def _kill(self) -> None:
        popen = self._running
        if self._bwrap is None and popen.poll() is None:
            watch.kill_below(popen.pid, keep=1)  # without a namespace no kernel does it
        popen.kill()

    def _outcome(self) -> Outcome:
        seconds = time.monotonic() - self._began
        popen = self._running
        while popen.poll() is None and self._end == "exit":  # it closed its output and runs on
            time.sleep(LOOK_EVERY_S / 5)
            self._look()
        code = popen.wait()
        # bubblewrap and the launcher tell a signal as 128 + its number
        code = 128 - code if 128 < code <= 128 + signal.SIGRTMAX else code
        end: End = "time" if code == -signal.SIGXCPU and self._end == "exit" else self._end
        return Outcome(bytes(self._buffer), bytes(self._errors), code, end, seconds)


def _text(module: Any) -> str:
    """The source of one of our own modules."""
    return Path(module.__file__).read_text(encoding="utf-8")
