"""Fixtures that every test may use; the makers behind them are in `tiny.py`."""

from __future__ import annotations

import contextlib
import signal
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from hypothesis import settings

# a shell starts what runs in its background with Ctrl-C ignored, and the processes of the tests would inherit that
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGINT, signal.default_int_handler)

# the property tests of `make test-long`: as in `ci`, the examples follow from the code alone, and there are many
MANY = "long"
settings.register_profile(MANY, parent=settings.get_profile("ci"), max_examples=3000)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A long test is slow, too, and so is a property with many examples; files with many slow tests come first.

    So the last file that a worker takes is a short one, and the workers end at about the same time. What takes far
    longer than others is marked `long(minutes=…)` and comes before them, where long tests are run at all.
    """
    many = config.getoption("--hypothesis-profile") == MANY
    slow: Counter[Path] = Counter()
    for item in items:
        if many and getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            item.add_marker("long")
        if long := item.get_closest_marker("long"):
            item.add_marker("slow")
            slow[item.path] += many * 1000 * long.kwargs.get("minutes", 0)
        elif item.get_closest_marker("slow"):
            slow[item.path] += 1
    items.sort(key=lambda item: -slow[item.path])


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None, None, None]:
    """Say above pytest's own last line what was skipped and why, grouped by the reason."""
    yield
    skipped = [report.longrepr for report in terminalreporter.stats.get("skipped", [])]
    reasons = Counter(where[2].removeprefix("Skipped: ") for where in skipped if isinstance(where, tuple))
    told = "; ".join(f"{count} × {reason}" for reason, count in reasons.most_common())
    terminalreporter.write_line(f"skipped: {told or 'nothing'}")


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
