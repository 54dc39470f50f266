"""The sandbox: an untrusted Python program, run so that it can do nothing but compute and write what it found.

    Sandbox.find().run("print(int(input()) + 1)", stdin=b"6\\n").stdout == b"7\\n"

What it promises with bubblewrap (`apt install bubblewrap`), on Linux:

 * no network, not even to this machine;
 * nothing readable but /usr, the interpreter and its packages: no home folder, no /etc, no other file of yours, no
   environment variable, no open file; nothing writable but an empty scratch folder in memory, which is gone afterwards;
 * no other process is seen, signalled or traced; when the run ends, whatever it started has ended;
 * limits on time of the clock and of computing, memory, processes, files, scratch and output (`Limits`): a program
   that passes one is ended, and the outcome says by which;
 * no new privileges, no capabilities, and none of the system calls that reach into kernel or neighbours.

Without bubblewrap the same is attempted by the kernel's own means (namespaces, Landlock, seccomp, limits): see
`Sandbox.weakness`. Untrusted code is refused there unless the caller insists.

What it does not promise: that the kernel has no fault that a program could use (for hostile code of people, take a
virtual machine); that a program can't find out where it runs, how fast, on what hardware, or what packages there are;
that total memory stays below the limit between two looks, 50 ms apart (each process is held below it at once); a share
of the processor, which needs control groups; secrecy of what you installed under /usr or among the interpreter's
packages; the same result twice, since a slow machine can make a program pass its time.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from reflective.verify.code.sandbox import bubblewrap
from reflective.verify.code.sandbox.limits import Limits
from reflective.verify.code.sandbox.process import Ended, Outcome, Process
from reflective.verify.code.sandbox.start import SandboxError

__all__ = ["INSIST", "Ended", "Limits", "Outcome", "Process", "Sandbox", "SandboxError"]

INSIST = "REFLECTIVE_WEAK_SANDBOX"  # this variable set to 1: untrusted code runs without bubblewrap, too
_NEEDED = ("files", "network", "signals", "calls", "processes")


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A way to run untrusted programs. `bwrap` is bubblewrap's path, None where the kernel's own means must do.

    `weakness` says what does not hold compared with the promises; empty with bubblewrap.
    """

    bwrap: str | None
    weakness: str = ""

    @classmethod
    def find(cls, *, insist: bool | None = None) -> Sandbox:
        """The strongest sandbox of this machine, tried once a process.

        Raises `SandboxError` where there is only a weak one, unless `insist` (None: the variable
        REFLECTIVE_WEAK_SANDBOX is 1) allows that, with a warning; and where there is none at all.
        """
        best = _best()
        insist = os.environ.get(INSIST) == "1" if insist is None else insist
        if best.weakness and not insist:
            raise SandboxError(
                f"no sandbox that is safe for untrusted code: {best.weakness}. Install bubblewrap (apt install "
                f"bubblewrap), or set {INSIST}=1 to run it all the same."
            )
        if best.weakness:
            warnings.warn(f"untrusted programs run in a weak sandbox: {best.weakness}", RuntimeWarning, stacklevel=2)
        return best

    def start(self, source: str, *, payload: Any = None, limits: Limits | None = None) -> Process:
        """Start a Python program; it finds `payload` (what JSON can hold) under the name PAYLOAD."""
        return Process(source, payload=payload, limits=limits or Limits(), bwrap=self.bwrap)

    def run(self, source: str, *, stdin: bytes = b"", payload: Any = None, limits: Limits | None = None) -> Outcome:
        """Run a Python program to its end. Raises `SandboxError` where the sandbox fails, never for what it does."""
        with self.start(source, payload=payload, limits=limits) as process:
            return process.communicate(stdin)


@lru_cache(maxsize=1)
def _best() -> Sandbox:
    if not sys.platform.startswith("linux"):
        raise SandboxError(f"programs can't be run safely on {sys.platform}: the sandbox needs Linux.")
    why = "bubblewrap is not installed"
    if bwrap := bubblewrap.executable():
        try:
            with Process("", limits=Limits(), bwrap=bwrap) as process:
                process.communicate()
            return Sandbox(bwrap)
        except SandboxError as error:
            why = f"bubblewrap does not work here ({str(error)[:160]})"
    with Process("", limits=Limits(), bwrap=None) as process:
        held = process.held
    missing = [name for name in _NEEDED if not held.get(name)]
    if missing:
        why += f"; nothing else holds for {', '.join(missing)}"
    return Sandbox(None, why)


with contextlib.suppress(AttributeError):
    os.register_at_fork(after_in_child=_best.cache_clear)
