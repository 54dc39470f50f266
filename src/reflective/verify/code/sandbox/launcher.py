"""What runs first inside the sandbox: it sets the limits, gives up what is left of root, and becomes the program.

Started as `python -I -S -c <this text> <job> <status>`, two numbers of open files. The job is JSON, made by
`process.py`. When everything holds, one JSON line goes to the status file, which is closed before the program starts;
so the caller can tell a sandbox that failed from a program that did. Standard library alone, nothing of ours.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import signal
import sys
import types
from collections.abc import Callable
from typing import Any

NOBODY = 65534


def main() -> None:
    with os.fdopen(int(sys.argv[1]), encoding="utf-8") as file:
        job = json.load(file)
    status = int(sys.argv[2])
    held = _prepare(job)
    os.write(status, json.dumps(held).encode() + b"\n")
    os.close(status)
    _become(job)


def _prepare(job: dict[str, Any]) -> dict[str, bool]:
    if job["confine"] is None:
        _limit(job["limits"])
        if os.getuid() == 0:
            _leave_root(job["user"])
        return {}
    confine, seccomp = _module("confine", job["confine"]), _module("seccomp", job["seccomp"])
    confine.die_with_parent()
    apart = confine.new_namespaces()
    _as_child()  # the first process of its namespace, where there is one: when it ends, all others do
    confine.die_with_parent()
    confine.adopt_orphans()
    _as_child(before_end=None if apart else _kill_the_rest)
    confine.die_with_parent()
    os.setsid()
    _limit(job["limits"])
    held: dict[str, bool] = confine.confine(
        own_namespaces=apart, readable=job["readable"], scratch=os.getcwd(), machine=platform.machine(), seccomp=seccomp
    )
    return {**held, "processes": apart}


def _limit(limits: dict[str, int]) -> None:
    """Bounds of the process and of each of its children; nobody inside can raise them."""
    for name, value in limits.items():
        number = getattr(resource, f"RLIMIT_{name}")
        _, most = resource.getrlimit(number)
        value = value if most == resource.RLIM_INFINITY else min(value, most)
        # the kernel's warning (SIGXCPU) comes at the first number, its end (SIGKILL) at the second
        resource.setrlimit(number, (value, value + 1 if name == "CPU" and most == resource.RLIM_INFINITY else value))


def _leave_root(user: int) -> None:
    os.setgroups([])
    for candidate in (user, NOBODY):
        try:
            os.setresgid(candidate, candidate, candidate)
            os.setresuid(candidate, candidate, candidate)
            return
        except OSError:
            continue
    raise PermissionError("root can't be given up")


def _as_child(before_end: Callable[[], None] | None = None) -> None:
    """Go on in a child; this process waits for it and ends as it did."""
    child = os.fork()
    if child == 0:
        return
    for number in (0, 1, 2):
        os.close(number)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while True:
        ended, how = os.wait()
        if ended == child:
            break
    if before_end is not None:
        before_end()
    code = os.waitstatus_to_exitcode(how)
    os._exit(code if code >= 0 else 128 - code)


def _kill_the_rest() -> None:
    """Every descendant, until there is none: a killed one leaves its children to this process, which adopts them."""
    while True:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            children = [int(word) for word in file.read().split()]
        for child in children:
            os.kill(child, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _module(name: str, source: str) -> Any:
    module = types.ModuleType(name)
    exec(compile(source, name, "exec"), module.__dict__)
    return module


def _become(job: dict[str, Any]) -> None:
    """Run the program as `__main__`, as if it had been started by itself."""
    import builtins
    from _sitebuiltins import Quitter

    for name in ("exit", "quit"):
        setattr(builtins, name, Quitter(name, "Ctrl-D (i.e. EOF)"))
    program = types.ModuleType("__main__")
    program.__dict__["PAYLOAD"] = job["payload"]
    sys.modules["__main__"] = program
    sys.path[:] = [*job["paths"], *sys.path]
    sys.argv = ["program.py"]
    source = job["source"]
    del job
    exec(compile(source, "program.py", "exec", dont_inherit=True), program.__dict__)


if __name__ == "__main__":
    main()
