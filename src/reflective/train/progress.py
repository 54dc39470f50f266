"""What all training runs share: lines on stderr, stopping after a whole step, and how a run ended."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

from reflective.errors import TrainingError, first_line

Note = Callable[[str], None]


class RunResult:
    """How a run ended; each kind of training adds its own fields."""

    interrupted: bool

    @property
    def exit_code(self) -> int:
        """For a command line: 130 after Ctrl-C, as shells have it."""
        return 130 if self.interrupted else 0


STOPPING = b"stopping after the step under way; Ctrl-C again stops at once\n"


def leads() -> bool:
    """Whether this is process 0, which prints and writes; by the launcher's variables, before the processes connect."""
    return os.environ.get("RANK", "0") == "0"


def print_note(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def memory_errors(when: Callable[[], str], advice: Callable[[], str]) -> Iterator[None]:
    """Turns an out-of-memory error into one line that says when it came and what to do."""
    from reflective.engines.torch.memory import is_out_of_memory

    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and not is_out_of_memory(error):
            raise
        raise TrainingError(f"out of memory {when()}: {first_line(error)}. {advice()}") from error


@dataclass
class Stop:
    """Set by the first Ctrl-C or SIGTERM; the second one acts as always."""

    requested: bool = False


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Lets a step and a checkpoint be finished before the process ends. Never set outside the main thread."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    known: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # an ignored signal stays ignored
    before = {number: handler for number, handler in known.items() if handler != signal.SIG_IGN}

    def request(number: int, frame: FrameType | None) -> None:
        stop.requested = True
        signal.signal(number, before[number])
        if leads():
            with suppress(OSError):
                os.write(2, STOPPING)  # not print: the signal may have come in the middle of one

    try:
        for number in before:
            signal.signal(number, request)
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
