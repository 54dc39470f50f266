"""Ctrl-C that waits for the end of an engine's step, so that the engine stays whole and nothing written is lost."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class Interrupts:
    """While open, the first Ctrl-C only sets `pressed`; a second one raises KeyboardInterrupt as usual.

    Only the main thread gets signals; opened elsewhere it does nothing.
    """

    def __init__(self) -> None:
        self.pressed = False
        self._previous: object = None
        self._open = False

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.getsignal(signal.SIGINT)
            if callable(self._previous):  # an ignored SIGINT (a job in the background) stays ignored
                signal.signal(signal.SIGINT, self._note)
                self._open = True
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.pressed = True
        self._restore()

    def _restore(self) -> None:
        if self._open:
            signal.signal(signal.SIGINT, self._previous)  # type: ignore[arg-type]
            self._open = False
