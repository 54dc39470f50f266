"""One run a folder: what trains there holds it, so that a second start is refused and nothing is written twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from reflective.records import hold

LOCK = ".lock"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made, until the end of the block or of the process, however that comes.

    Raises `InputError` where another process holds it. File systems that know no locks let everybody pass.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a", encoding="utf-8") as file:
        with suppress(OSError):
            hold(file, folder)
        yield
