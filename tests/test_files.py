"""Files and folders are whole or not there, whenever the process dies; locks; disk errors in one line."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from reflective import files
from reflective.errors import CheckpointError, InputError
from reflective.files import (
    disk_errors,
    folder_lock,
    lock,
    publish,
    remove_leftovers,
    whole_file,
    whole_folder,
    write_text,
)

OLD, NEW = {"a": "old", "b": "old", "kept/c": "old"}, {"a": "new", "d/e": "new"}


def fill(folder: Path, contents: dict[str, str]) -> None:
    for name, text in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def contents(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def unflushed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process loses nothing that it wrote, so what waits for the disk can be left out."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def killed_at_line(number: int, work: Callable[[], None]) -> bool:
    """Run `work` in a process of its own that is killed when it comes to that line of it; whether it was.

    Counted are the lines of this file and of the modules that change names on the disk.
    """
    child = os.fork()
    if child == 0:
        seen = 0

        def trace(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal seen
            if frame.f_code.co_filename not in (__file__, files.__file__, shutil.__file__):
                return None
            seen += event == "line"
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        try:
            work()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def kill_everywhere(work: Callable[[], None], prepare: Callable[[], None], check: Callable[[], str]) -> list[str]:
    """What `check` says after `work` was killed at its first line, at its second, and so on until it is done."""
    found = []
    for number in range(1, 5000):
        prepare()
        killed = killed_at_line(number, work)
        found.append(check())
        if not killed:
            return found
    raise AssertionError("the work never ends")


def test_a_process_killed_at_any_line_leaves_the_old_or_the_new_file(tmp_path: Path, unflushed: None) -> None:
    path = tmp_path / "file"

    def prepare() -> None:
        remove_leftovers(path)
        path.write_text("old")

    new = "new" * 1000
    names = {"old": "old", new: "new"}
    found = kill_everywhere(lambda: write_text(path, new), prepare, lambda: names[path.read_text()])
    assert found == sorted(found, reverse=True) and set(found) == {"old", "new"}
    remove_leftovers(path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
def test_a_process_killed_at_any_line_leaves_the_old_or_the_new_folder(tmp_path: Path, unflushed: None) -> None:
    path = tmp_path / "folder"

    def work() -> None:
        with whole_folder(path, ["a", "b", "d"]) as temporary:
            fill(temporary, NEW)

    def prepare() -> None:
        remove_leftovers(path)
        with whole_folder(path) as temporary:
            fill(temporary, OLD)

    def check() -> str:
        there = contents(path)
        assert there in (OLD, {**NEW, "kept/c": "old"})
        return "old" if there == OLD else "new"

    found = kill_everywhere(work, prepare, check)
    assert found == sorted(found, reverse=True) and set(found) == {"old", "new"}


def test_an_error_leaves_what_was_there_and_nothing_beside_it(tmp_path: Path) -> None:
    fill(tmp_path / "folder", OLD)
    (tmp_path / "file").write_text("old")
    for write in (whole_folder, whole_file):
        path = tmp_path / write.__name__.removeprefix("whole_")
        with pytest.raises((FileNotFoundError, NotADirectoryError)), write(path) as temporary:
            (temporary / "no" / "folder").write_text("new")
    assert contents(tmp_path) == {"file": "old", **{f"folder/{name}": text for name, text in OLD.items()}}


def test_a_folder_replaces_what_its_patterns_name_and_what_it_holds_anew(tmp_path: Path) -> None:
    fill(tmp_path / "folder", {**OLD, "d/f": "old"})
    with whole_folder(tmp_path / "folder", ["b"]) as temporary:
        fill(temporary, NEW)
    assert contents(tmp_path / "folder") == {**NEW, "kept/c": "old"}
    with whole_folder(tmp_path / "folder") as temporary:
        fill(temporary, {"x": "1"})
    assert contents(tmp_path) == {"folder/x": "1"}


def test_parents_are_made_and_links_stay_links(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b", "text")
    (tmp_path / "link").symlink_to(tmp_path / "a" / "b")
    write_text(tmp_path / "link", "other \ud800")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "a" / "b").read_text() == "other \\ud800"


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_text(tmp_path / "pipe", "text")
    assert os.read(reader, 100) == b"text" and stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    os.close(reader)


def test_everything_is_flushed_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        flushed.append(f"{Path(name).relative_to(tmp_path)}, {(tmp_path / 'folder').exists()}")
        real(descriptor)

    fill(tmp_path / "new", {"a": "1", "b/c": "2"})
    monkeypatch.setattr(os, "fsync", fsync)
    publish(tmp_path / "new", tmp_path / "folder")
    assert set(flushed[:-1]) == {"new/a, False", "new/b, False", "new/b/c, False", "new, False"}
    assert flushed[-1] == "., True"


def test_leftovers_are_those_of_one_name(tmp_path: Path) -> None:
    fill(tmp_path, {".a.12345678.tmp/x": "1", ".a.12345678.old.tmp/x": "1", ".b.12345678.tmp": "1", "a": "1"})
    remove_leftovers(tmp_path / "a")
    assert contents(tmp_path) == {".b.12345678.tmp": "1", "a": "1"}


class SafetensorError(Exception):
    """Stands for that of safetensors, which is told by its name."""


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "x"), "No space left on device"),
        (OSError(errno.EBUSY, "Device or resource busy"), "it is a mount point"),
        (OSError("of a library\nand more"), "of a library"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "No space left on device"),
        (SafetensorError("invalid header"), "invalid header"),
        (RuntimeError("[enforce fail at inline_container.cc:603] . unexpected pos 64"), "No space left on device"),
    ],
)
def test_disk_errors_are_one_line(error: Exception, reason: str) -> None:
    told = rf"^'place' was not saved: {reason}.*\. What was there"
    with pytest.raises(CheckpointError, match=told) as caught, disk_errors(Path("place")):
        raise error
    assert "\n" not in str(caught.value) and caught.value.__cause__ is error
    with pytest.raises(InputError, match=reason), disk_errors(Path("place"), InputError):
        raise error


@pytest.mark.parametrize("error", [RuntimeError("other"), ValueError("space"), InputError("mine"), KeyboardInterrupt()])
def test_other_errors_pass(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, disk_errors(Path("place")):
        raise error
    assert caught.value is error


def test_a_file_for_a_folder_and_a_folder_for_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    with pytest.raises(NotADirectoryError, match="a folder is needed"), whole_folder(tmp_path / "file"):
        pass
    with pytest.raises(IsADirectoryError):
        write_text(tmp_path / "folder", "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_without_an_atomic_exchange_the_result_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_exchange", lambda a, b: False)
    fill(tmp_path / "folder", OLD)
    with whole_folder(tmp_path / "folder") as temporary:
        fill(temporary, NEW)
    assert contents(tmp_path) == {f"folder/{name}": text for name, text in NEW.items()}


def test_a_locked_folder_is_refused_until_its_holder_is_gone(tmp_path: Path) -> None:
    refused = pytest.raises(InputError, match=r"run' is being written by another process")
    with folder_lock(tmp_path / "run"), refused, folder_lock(tmp_path / "run"):
        pass
    with folder_lock(tmp_path / "run"):
        pass


def hold_until_killed(folder: str, ready: Any) -> None:
    with folder_lock(Path(folder)):
        ready.set()
        signal.pause()


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    holder = context.Process(target=hold_until_killed, args=(str(tmp_path), ready))
    holder.start()
    assert ready.wait(10)
    with pytest.raises(InputError, match="another process"), folder_lock(tmp_path):
        pass
    holder.kill()
    holder.join()
    with folder_lock(tmp_path):
        pass


def test_a_file_system_without_locks_lets_everybody_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with folder_lock(tmp_path), folder_lock(tmp_path):
        pass
    with (tmp_path / "file").open("w") as file, pytest.raises(OSError, match="No locks"):
        lock(file, tmp_path)
