"""Fixtures that every test may use; the makers behind them are in `tiny.py`."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

# a shell starts what runs in its background with Ctrl-C ignored, and the processes of the tests would inherit that
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_checkpoint_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A saved tiny checkpoint of a family, made once. Copy it before you change anything in it."""
    from tiny import tiny_folder

    made: dict[str, Path] = {}

    def folder(family: str = "qwen2") -> Path:
        if family not in made:
            made[family] = tiny_folder(tmp_path_factory.mktemp("checkpoints") / family, family)
        return made[family]

    return folder


@pytest.fixture
def sandbox_for_our_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that a test brings along are safe, so they are graded in the weaker sandbox where there is no other."""
    from reflective.verify.code.sandbox import INSIST, Sandbox, SandboxError

    monkeypatch.setenv(INSIST, "1")
    try:
        Sandbox.find()
    except SandboxError as error:
        pytest.skip(str(error))
