"""What a run uses, seen from outside: the resident memory and the number of all its processes, from /proc."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass

PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes of resident memory, what processes share counted for each, and threads."""

    memory_bytes: int
    threads: int


def descendants(root: int) -> list[int]:
    """The children of process `root`, their children and so on, parents first; none where there is no /proc."""
    children: dict[int, list[int]] = {}
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc"):
            if name.isdecimal() and (parent := _parent(int(name))) is not None:
                children.setdefault(parent, []).append(int(name))
    found = list(children.get(root, ()))
    for process in found:
        found += children.get(process, ())
    return found


def kill_below(root: int, keep: int, patience_s: float = 5.0) -> None:
    """Kill the descendants of `root` but the first `keep`, again and again until there are no others.

    Those first ones adopt what a killed process leaves behind, so that nothing gets out of sight.
    """
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline and (others := descendants(root)[keep:]):
        for process in others:
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.002)


def usage(root: int) -> Usage:
    """What the descendants of process `root` use. Takes a few milliseconds."""
    memory = threads = 0
    for process in descendants(root):
        with contextlib.suppress(OSError, IndexError, ValueError):
            with open(f"/proc/{process}/statm") as file:
                memory += int(file.read().split()[1]) * PAGE
            threads += len(os.listdir(f"/proc/{process}/task"))
    return Usage(memory, threads)


def _parent(process: int) -> int | None:
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])  # a process may have any name, brackets too
    except (OSError, IndexError, ValueError):
        return None


def folder_bytes(folder: str) -> int:
    """Bytes of the files below a folder; links are not followed."""
    total = 0
    waiting = [folder]
    while waiting:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
    return total
