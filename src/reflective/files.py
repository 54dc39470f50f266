"""Files and folders that are whole or not there, locks, and what the disk says, in one line.

What is written goes to a hidden sibling (`.name.xxxxxxxx.tmp`), is flushed to the disk, and takes its name in one
rename. Whenever the process is killed, the old one or the new one has the name, never half of one; at most the sibling
is left behind (`remove_leftovers`). Records, which are appended to, keep their own promise (`reflective.records`).
"""

from __future__ import annotations

import ctypes
import errno
import fnmatch
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

from reflective.errors import CheckpointError, InputError, ReflectiveError, first_line

LOCK: Final = ".lock"
CACHE_VARIABLE: Final = "REFLECTIVE_CACHE"
SAMPLES, SAMPLE_BYTES = 64, 2**16  # of a large file that stand for the whole in its digest
# what torch says in a RuntimeError when a file can't be written
TORCH_WRITE_ERRORS: Final = ("PytorchStreamWriter", "file write failed", "inline_container")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A name to write to, which becomes `path` when the block ends without an error.

    A pipe or a device is written to directly.
    """
    path = path.resolve()  # a link stays a link
    if path.exists() and not path.is_file() and not path.is_dir():
        yield path
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _sibling(path)
    try:
        yield temporary
        publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path, replaces: Sequence[str] = ("*",)) -> Iterator[Path]:
    """A new empty folder, which becomes `path` when the block ends without an error.

    Entries of the old folder stay where they match none of the patterns in `replaces` and were not written anew.
    """
    path = path.resolve()
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "it is a file, and a folder is needed")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _sibling(path)
    temporary.mkdir()
    try:
        yield temporary
        if path.is_dir():
            _keep_others(path, temporary, replaces)
        publish(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # half of the new, or the whole of the old


def write_text(path: Path, text: str) -> None:
    """A text file, whole or not there. Half surrogates are escaped."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def publish(new: Path, path: Path) -> None:
    """Let a finished file or folder take the name `path`, with all its bytes on the disk. An old folder of that name
    is called `new` afterwards."""
    for directory, _, names in os.walk(new):
        for name in names:
            _flush(Path(directory, name))
        _flush(Path(directory))
    if new.is_dir():
        _swap(new, path)
    else:
        _flush(new)
        os.replace(new, path)
    _flush(path.parent)


def remove_leftovers(path: Path) -> None:
    """Remove what killed processes left of a file or folder while they wrote it. Nobody else may be writing it."""
    for left in path.parent.glob(f".{path.name}.*.tmp"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def cache_folder() -> Path:
    """Where what can be made again is kept: `$REFLECTIVE_CACHE`, or `reflective` in the user's cache folder."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "reflective"


def sampled_digest(path: Path, prefix: str = "") -> str:
    """A digest of a large file by its size and samples from all over it, and of what stands before them."""
    size = path.stat().st_size
    digest = hashlib.sha256(f"{prefix}{size}".encode())
    with path.open("rb") as file:
        for i in range(SAMPLES):
            file.seek(i * size // SAMPLES)
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()[:12]


@contextmanager
def disk_errors(path: Path, kind: type[ReflectiveError] = CheckpointError) -> Iterator[None]:
    """Turns what the disk says while `path` is written into one line, an error of that kind."""
    try:
        yield
    except Exception as error:
        reason = _disk_reason(error)
        if reason is None:
            raise
        raise kind(
            f"'{path}' was not saved: {reason}. What was there before is untouched; make room or name another place."
        ) from error


def lock(file: int | IO[str], name: Path) -> None:
    """Lock an open file until it is closed; the system lets go of it when the process dies. Raises `InputError`, with
    `name` in it, where another process holds it, and `OSError` on a file system without locks."""
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(f"'{name}' is being written by another process. Wait for it, or name another.") from error


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Lock a folder, which is made, until the end of the block or of the process: one run per folder.

    Raises `InputError` where another process holds it. File systems that know no locks let everybody pass.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a", encoding="utf-8") as file:
        with suppress(OSError):
            lock(file, folder)
        yield


def _sibling(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")


def _flush(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk."""
    if path.is_symlink():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _swap(new: Path, old: Path) -> None:
    """Let the folder `new` take the name of `old`. Afterwards `new` is gone or is the old folder."""
    if not old.exists():
        os.rename(new, old)
    elif not _exchange(new, old):
        # no atomic exchange on this system: for a moment nothing has the name, and both are there beside it
        aside = new.with_suffix(".old.tmp")
        os.rename(old, aside)
        os.rename(new, old)
        os.rename(aside, new)


def _exchange(a: Path, b: Path) -> bool:
    """Swap two names in one step, where the kernel and the file system can (Linux)."""
    at_fdcwd, rename_exchange = -100, 2
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    if renameat2(at_fdcwd, os.fsencode(a), at_fdcwd, os.fsencode(b), rename_exchange) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EBUSY, errno.EXDEV):
        raise OSError(code, os.strerror(code), str(b))
    return False


def _keep_others(old: Path, new: Path, replaces: Sequence[str]) -> None:
    for entry in old.iterdir():
        if (new / entry.name).exists() or any(fnmatch.fnmatch(entry.name, pattern) for pattern in replaces):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, new / entry.name, symlinks=True, copy_function=_link)
        else:
            _link(str(entry), str(new / entry.name))


def _link(source: str, target: str) -> None:
    """A second name for the file, so that it costs no space and a process that appends to it goes on doing so."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target, follow_symlinks=False)


def _disk_reason(error: Exception) -> str | None:
    """What went wrong on the disk; None where the error is of another kind."""
    if isinstance(error, OSError):
        if error.errno in (errno.EBUSY, errno.EXDEV):
            return "it is a mount point, which can't be replaced; name a place inside it"
        if error.errno in (errno.EEXIST, errno.ENOTDIR) and error.filename:
            return f"'{error.filename}' is a file, and a folder is needed"
        return first_line(error)
    if type(error).__name__ == "SafetensorError":
        full = "space" in str(error) or "os error 28" in str(error)
        return os.strerror(errno.ENOSPC) if full else first_line(error)
    if isinstance(error, RuntimeError) and any(text in str(error) for text in TORCH_WRITE_ERRORS):
        return os.strerror(errno.ENOSPC)
    return None
