"""The command line of bubblewrap: an empty root with the system's programs and the interpreter, read-only.

Inside there are /usr, the interpreter with its packages, a /proc and a /dev of its own, and an empty scratch folder in
memory; no /etc, no /home, no network, no other process. As root bubblewrap makes no user namespace (root inside it
would be root outside, and its number of processes unlimited): there the launcher becomes a user that nobody else is.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import PurePosixPath

from reflective.verify.code.sandbox.limits import Limits

SCRATCH = "/scratch"
SYSTEM_LINKS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
SYSTEM_FOLDERS = ("/usr", "/nix/store", "/gnu/store")
SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/alternatives")  # where the linker finds libraries; nothing of a user
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": SCRATCH,
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


def executable() -> str | None:
    """bubblewrap's path; None where it is not installed."""
    return shutil.which("bwrap")


def interpreter() -> str:
    """The real interpreter, behind virtual environments and links."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def package_paths() -> list[str]:
    """The folders of installed packages."""
    paths = sysconfig.get_paths()
    return [path for path in dict.fromkeys((paths["purelib"], paths["platlib"])) if os.path.isdir(path)]


def readable_paths() -> list[str]:
    """What an interpreter needs to read: never a whole prefix, which may be somebody's home folder."""
    inside = [
        os.path.join(prefix, part) for prefix in {sys.base_prefix, sys.base_exec_prefix} for part in ("bin", "lib")
    ]
    inside += [os.path.join(sys.base_prefix, "lib64"), interpreter(), *package_paths()]
    libraries = sysconfig.get_config_var("LIBDIR")
    if sysconfig.get_config_var("Py_ENABLE_SHARED") and libraries:
        inside.append(libraries)
    return [path for path in dict.fromkeys(inside) if os.path.exists(path) and not path.startswith("/usr/")]


def options(limits: Limits, seccomp: int | None) -> list[str]:
    """bubblewrap's options; `seccomp` is the number of an open file that holds the filter.

    They go through a file (`--args`), since a program can read the command line of what started it.
    """
    words = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    words += ["--hostname", "sandbox", "--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"]
    if os.geteuid() == 0:
        words += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        words += ["--unshare-user"]
    for name, value in ENVIRONMENT.items():
        words += ["--setenv", name, value]
    for path in SYSTEM_LINKS:
        if os.path.islink(path):
            words += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            words += ["--ro-bind", path, path]
    shown = [path for path in (*SYSTEM_FOLDERS, *SYSTEM_FILES, *readable_paths()) if os.path.exists(path)]
    for folder in _parents(shown):
        words += ["--perms", "0755", "--dir", folder]  # left to itself, bubblewrap lets root alone pass
    for path in shown:
        words += ["--ro-bind", path, path]
    words += ["--proc", "/proc", "--dev", "/dev"]
    words += ["--perms", "1777", "--size", str(limits.scratch_bytes), "--tmpfs", SCRATCH, "--chdir", SCRATCH]
    words += ["--remount-ro", "/", "--remount-ro", "/dev"]  # both are in memory, and else without a limit
    if seccomp is not None:
        words += ["--seccomp", str(seccomp)]
    return words


def _parents(paths: Sequence[str]) -> list[str]:
    """The folders on the way to `paths`, outer ones first."""
    ways = {str(parent) for path in paths for parent in PurePosixPath(path).parents}
    return sorted(ways - {"/"} - set(paths))
