"""What a process can take away from itself without root and without bubblewrap, for this process and its children.

Namespaces where the system lets users have them; a Landlock ruleset, which leaves the interpreter readable and the
scratch folder writable and nothing else; no capabilities, no new privileges, and the filter of system calls. Each is
tried, and what holds is reported. The text of this file travels into the process that confines itself, so it uses the
standard library alone; `seccomp` is the module of that name.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections.abc import Sequence
from typing import Any

NEWNS_USER_PID_NET_IPC_UTS = 0x00020000 | 0x10000000 | 0x20000000 | 0x40000000 | 0x08000000 | 0x04000000
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, PR_SET_CHILD_SUBREAPER = 1, 22, 38, 36
SECCOMP_MODE_FILTER = 2
SIGKILL = 9
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446  # the same on every machine
LANDLOCK_VERSION, PATH_BENEATH = 1, 1
CAPSET = {"x86_64": 126, "aarch64": 91}
CAPABILITY_VERSION = 0x20080522

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | 1 << 14 | 1 << 15
ALL_BY_VERSION = ((1, (1 << 13) - 1), (2, 1 << 13), (3, 1 << 14), (5, 1 << 15))  # since version: rights
BIND_AND_CONNECT_TCP = 0b11  # since version 4
ABSTRACT_SOCKETS_AND_SIGNALS = 0b11  # scopes, since version 6


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> None:
    """The kernel kills this process when its parent ends."""
    _libc().prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)


def adopt_orphans() -> None:
    """Children whose parents have ended become this process's own."""
    _libc().prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def new_namespaces() -> bool:
    """Whether this process got namespaces of its own (network, processes, …); its next child is the first in them."""
    user, group = os.geteuid(), os.getegid()
    if _libc().unshare(NEWNS_USER_PID_NET_IPC_UTS) != 0:
        return False
    with contextlib.suppress(OSError):
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    return True


def drop_capabilities(machine: str) -> None:
    """Root without its powers."""
    header, nothing = struct.pack("=Ii", CAPABILITY_VERSION, 0), struct.pack("=6I", 0, 0, 0, 0, 0, 0)
    if machine in CAPSET:
        _libc().syscall(CAPSET[machine], header, nothing)


def no_new_privileges() -> bool:
    """No set-user-id program gives back what was dropped."""
    return bool(_libc().prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0)


def landlock(readable: Sequence[str], writable: Sequence[str], devices: Sequence[str]) -> int:
    """The version of Landlock that holds from now on; 0 where the kernel has none."""
    libc = _libc()
    version = int(libc.syscall(LANDLOCK_CREATE_RULESET, None, 0, LANDLOCK_VERSION))
    if version < 1:
        return 0
    every = sum(rights for since, rights in ALL_BY_VERSION if version >= since)
    words = [every, BIND_AND_CONNECT_TCP if version >= 4 else 0, ABSTRACT_SOCKETS_AND_SIGNALS if version >= 6 else 0]
    known = 3 if version >= 6 else 2 if version >= 4 else 1  # fields of the structure
    attributes = struct.pack(f"={known}Q", *words[:known])
    ruleset = int(libc.syscall(LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0))
    if ruleset < 0:
        return 0
    rules = [(path, EXECUTE | READ_FILE | READ_DIR) for path in readable]
    rules += [(path, every & ~(1 << 6 | 1 << 11 | 1 << 15)) for path in writable]  # no devices made, no device driven
    rules += [(path, READ_FILE | WRITE_FILE) for path in devices]
    for path, rights in rules:
        with contextlib.suppress(OSError):
            folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
            allowed = rights & every & (-1 if os.path.isdir(path) else OF_FILES)
            libc.syscall(LANDLOCK_ADD_RULE, ruleset, PATH_BENEATH, struct.pack("=Qi", allowed, folder), 0)
            os.close(folder)
    held = libc.syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0) == 0
    os.close(ruleset)
    return version if held else 0


def filter_calls(program: bytes) -> bool:
    """The kernel applies the filter from now on."""
    code = ctypes.create_string_buffer(program, len(program))
    words = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    return bool(_libc().prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, words, 0, 0) == 0)


def confine(
    *, own_namespaces: bool, readable: Sequence[str], scratch: str, machine: str, seccomp: Any
) -> dict[str, bool]:
    """Take everything away that can be. What holds of: files, network, signals, calls."""
    drop_capabilities(machine)
    private = no_new_privileges()
    version = landlock(readable, [scratch], ["/dev/null", "/dev/zero", "/dev/urandom"]) if private else 0
    alone = own_namespaces or version >= 6
    known = private and seccomp.supported()
    # no socket at all, also with a network of its own: one in the file system (a daemon's) is in no such namespace
    calls = known and filter_calls(seccomp.program(network=False, only_signal=None if alone else os.getpid()))
    return {
        "files": version > 0,
        "network": calls,
        "signals": alone or calls,
        "calls": calls,
    }
