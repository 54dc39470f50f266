"""One run a folder: what trains there holds it, so that a second start is refused and nothing is written twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reflective.errors import InputError

LOCK = ".lock"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made, until the end of the block or of the process, however that comes.

    Raises `InputError` where another process holds it. File systems that know no locks let everybody pass.
    """
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"'{folder}' is being written by another process. Wait for it, or name another output."
            ) from error
        except OSError:
            pass
        yield
