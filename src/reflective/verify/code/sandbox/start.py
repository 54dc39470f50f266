"""How a sandbox is started: the job that the launcher reads, the command line, and the line that says that it holds."""

from __future__ import annotations

import contextlib
import json
import os
import random
import selectors
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from reflective.errors import ReflectiveError
from reflective.verify.code.sandbox import bubblewrap, confine, launcher, seccomp, watch
from reflective.verify.code.sandbox.limits import Limits

START_LIMIT_S = 30.0  # an interpreter on a busy machine; does not count as the program's time
OPEN_FILES = 128
FIRST_USER, USER_BITS = 2**30, 28  # numbers of users that nobody is, so that one run's processes are counted alone
CHUNK = 65_536
ERROR_TAIL = 4_000  # bytes of what bubblewrap says where it fails


class SandboxError(ReflectiveError):
    """The sandbox could not be set up; nothing is said of the program."""


class Started:
    """A program that has been started in a sandbox that holds, and what belongs to it.

    `scratch` is its folder on this side, "" where it is in memory; `held` says what holds without bubblewrap.
    """

    popen: subprocess.Popen[bytes]

    def __init__(self, source: str, payload: Any, limits: Limits, bwrap: str | None) -> None:
        self._bwrap, self.limits = bwrap, limits
        self._files: list[IO[bytes]] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.held: Mapping[str, bool] = {}
        try:
            self._start(source, payload)
        except BaseException:
            self.close()
            raise

    @property
    def scratch(self) -> str:
        return self._folder.name if self._folder else ""

    def kill(self) -> None:
        """End everything that runs in the sandbox."""
        if self._bwrap is None and self.popen.poll() is None:
            watch.kill_below(self.popen.pid, keep=1)  # where there is no namespace, no kernel does it
        self.popen.kill()

    def close(self) -> None:
        """End everything, and leave neither process nor file nor folder behind."""
        if hasattr(self, "popen"):
            self.kill()
            self.popen.wait()
            for pipe in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
        for file in self._files:
            file.close()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _start(self, source: str, payload: Any) -> None:
        job = self._open(json.dumps(self._job(source, payload)).encode())
        heard, status = os.pipe()
        try:
            words = self._command(job, status)
            folder = self.scratch or "/"
            self.popen = subprocess.Popen(
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
            os.close(heard)
            raise SandboxError(f"the sandbox can't be started: {error}.") from error
        finally:
            os.close(status)
        with os.fdopen(heard, "rb", buffering=0) as pipe:
            self.held = self._wait(pipe)
        for name in ("stdin", "stdout", "stderr"):
            os.set_blocking(getattr(self.popen, name).fileno(), False)

    def _job(self, source: str, payload: Any) -> dict[str, Any]:
        limits, alone = self.limits, self._bwrap is None
        return {
            "source": source,
            "payload": payload,
            "paths": bubblewrap.package_paths(),
            "user": FIRST_USER + random.SystemRandom().getrandbits(USER_BITS),
            "limits": {
                "CPU": limits.cpu_seconds,
                "AS": limits.memory_bytes,
                "NPROC": limits.processes,
                "FSIZE": limits.file_bytes,
                "NOFILE": OPEN_FILES,
                "CORE": 0,
            },
            "confine": _text(confine) if alone else None,
            "seccomp": _text(seccomp) if alone else None,
            "readable": ["/usr", *bubblewrap.SYSTEM_LINKS, *bubblewrap.readable_paths()],
        }

    def _command(self, job: int, status: int) -> Sequence[str]:
        program = [bubblewrap.interpreter(), *"-I -S -B -X utf8 -c".split(), _text(launcher), str(job), str(status)]
        if self._bwrap is None:
            self._folder = tempfile.TemporaryDirectory(prefix="scratch-", ignore_cleanup_errors=True)
            return program
        calls = self._open(seccomp.program()) if seccomp.supported() else None
        options = self._open("\0".join(bubblewrap.options(self.limits, calls)).encode() + b"\0")
        return [self._bwrap, "--args", str(options), "--", *program]

    def _open(self, data: bytes) -> int:
        """The number of an open file that holds `data`."""
        file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the rest)
        self._files.append(file)
        file.write(data)
        file.seek(0)
        return file.fileno()

    def _wait(self, pipe: Any) -> dict[str, bool]:
        """The line that says what holds."""
        line, deadline = bytearray(), time.monotonic() + START_LIMIT_S
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                chunk = pipe.read(CHUNK) if ready else b""
                if not chunk:
                    self.popen.kill()
                    said = self.popen.stderr.read(ERROR_TAIL) if self.popen.stderr and ready else b""
                    lines = said.decode("utf-8", "replace").strip().splitlines() or ["it did not start in time"]
                    raise SandboxError(f"the sandbox can't be set up: {lines[-1]}")
                line += chunk
        held: dict[str, bool] = json.loads(line)
        return held


def _text(module: Any) -> str:
    """The source of one of our own modules."""
    return Path(module.__file__).read_text(encoding="utf-8")
