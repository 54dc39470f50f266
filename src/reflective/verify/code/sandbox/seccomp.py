"""A filter of system calls, as the kernel takes it: classic BPF that refuses what no tested program needs.

Refused are the calls that reach into other processes or change the system (mounts, namespaces, tracing, keys, modules,
clocks, io_uring, bpf): most of what breaks out of sandboxes goes through them. This file uses the standard library
alone and imports nothing of ours, since its text also travels into the sandbox (see `confine.py`).
"""

from __future__ import annotations

import platform
import struct

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
EPERM, ENOSYS = 1, 38
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # BPF_LD|W|ABS, JEQ, JGE, JSET, RET
NUMBER_AT, MACHINE_AT, FIRST_ARGUMENT_AT = 0, 4, 16  # struct seccomp_data
X32 = 0x40000000  # x86_64's second table of calls
NAMESPACES = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET

# call: its number on x86_64, on aarch64 (None: it has none)
REFUSED = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "pidfd_getfd": (438, 438),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "move_mount": (429, 429),
    "open_tree": (428, 428), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fspick": (433, 433), "mount_setattr": (442, 442), "setns": (308, 268), "unshare": (272, 97),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "keyctl": (250, 219),
    "add_key": (248, 217), "request_key": (249, 218), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "kexec_load": (246, 104), "kexec_file_load": (320, 294),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264), "personality": (135, 92),
    "fanotify_init": (300, 262), "swapon": (167, 224), "swapoff": (168, 225), "reboot": (169, 142),
    "syslog": (103, 116), "acct": (163, 89), "quotactl": (179, 60), "settimeofday": (164, 170),
    "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266), "iopl": (172, None),
    "ioperm": (173, None),
    # memory that no limit counts
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "msgget": (68, 186),
}  # fmt: skip
CLONE, CLONE3 = (56, 220), (435, 435)
# without namespaces and Landlock's scopes: no sockets, no signals and no limits for others
SOCKET = (41, 198)
SIGNALS = ((62, 129), (234, 131))  # kill, tgkill: to itself only
OTHER_SIGNALS = ((200, 130), (129, 138), (297, 240), (424, 424))  # tkill, rt_sigqueueinfo, rt_tgsig…, pidfd_send_signal
PRLIMIT = (302, 261)
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}


def supported() -> bool:
    """Whether the numbers of this machine's calls are known here."""
    return platform.machine() in MACHINES


def program(*, network: bool = True, only_signal: int | None = None) -> bytes:
    """The filter for this machine. `network` False refuses sockets; `only_signal` is the one process to signal."""
    column, machine = MACHINES[platform.machine()]
    code = [_op(LOAD, MACHINE_AT), _op(EQUAL, machine, 1, 0), _op(RETURN, KILL), _op(LOAD, NUMBER_AT)]
    if column == 0:
        code += [_op(AT_LEAST, X32, 0, 1), _op(RETURN, ERRNO | ENOSYS)]
    for numbers in [*REFUSED.values(), *(() if network else (SOCKET,))]:
        if (number := numbers[column]) is not None:
            code += [_op(EQUAL, number, 0, 1), _op(RETURN, ERRNO | EPERM)]
    # clone3 hides its flags in memory; without it the C library takes clone
    code += [_op(EQUAL, CLONE3[column], 0, 1), _op(RETURN, ERRNO | ENOSYS)]
    code += _argument(CLONE[column], [_op(ANY_BIT, NAMESPACES, 0, 1), _op(RETURN, ERRNO | EPERM)])
    if only_signal is not None:
        for pair in OTHER_SIGNALS:
            code += [_op(EQUAL, pair[column], 0, 1), _op(RETURN, ERRNO | EPERM)]
        for pair in SIGNALS:
            # its own id, or its own group (0)
            own = [_op(EQUAL, only_signal, 2, 0), _op(EQUAL, 0, 1, 0), _op(RETURN, ERRNO | EPERM)]
            code += _argument(pair[column], own)
        code += _argument(PRLIMIT[column], [_op(EQUAL, 0, 1, 0), _op(RETURN, ERRNO | EPERM)])
    return b"".join([*code, _op(RETURN, ALLOW)])


def _argument(number: int, test: list[bytes]) -> list[bytes]:
    """Look at the first argument of one call; afterwards its number is at hand again."""
    body = [_op(LOAD, FIRST_ARGUMENT_AT), *test, _op(LOAD, NUMBER_AT)]
    return [_op(EQUAL, number, 0, len(body)), *body]


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
