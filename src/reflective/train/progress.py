"""What a run tells while it goes: one report per logged step, to stderr and, where it is installed, to TensorBoard."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any


@dataclass(frozen=True, slots=True)
class StepReport:
    """Where the run stands after `step` steps; `validation` holds losses by family where they were just taken."""

    step: int
    tokens: int
    loss: float
    lr: float  # of AdamW
    tokens_per_s: float
    eta_s: float
    grad_norm: float
    validation: Mapping[str, float] = field(default_factory=dict)


Report = Callable[[StepReport], None]
Note = Callable[[str], None]

STOPPING = b"stopping after the step under way; Ctrl-C again stops at once\n"


def leads() -> bool:
    """Whether this process tells and writes, by the variables of the launcher: known before the processes meet."""
    return os.environ.get("RANK", "0") == "0"


def print_note(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr, flush=True)


def print_report(report: StepReport) -> None:
    """A report as a line on stderr."""
    line = (
        f"step {report.step:>6}  loss {report.loss:.4f}  lr {report.lr:.2e}  {report.tokens / 1e6:8.2f}M tokens  "
        f"{report.tokens_per_s:,.0f} tokens/s  {clock(report.eta_s)} left"
    )
    if report.validation:
        losses = "  ".join(f"{name} {loss:.4f}" for name, loss in report.validation.items())
        line += f"\n       validation  {losses}"
    print_note(line)


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class TensorBoardLog:
    """Curves for TensorBoard. Without the package the run goes on and says once that there are none."""

    def __init__(self, folder: Path, note: Note) -> None:
        self._writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            note('no curves: TensorBoard is not installed. For curves: pip install "reflective[train]"')
        else:
            self._writer = SummaryWriter(str(folder))

    def write(self, report: StepReport) -> None:
        if self._writer is None:
            return
        values = {"loss": report.loss, "lr": report.lr, "tokens_per_s": report.tokens_per_s, "grad": report.grad_norm}
        for name, value in values.items():
            self._writer.add_scalar(f"train/{name}", value, report.tokens)
        for name, value in report.validation.items():
            self._writer.add_scalar(f"validation/{name}", value, report.tokens)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


@dataclass
class Stop:
    """Set by the first Ctrl-C or SIGTERM; the second one acts as always."""

    requested: bool = False


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Lets a step and a checkpoint be finished before the process ends. Outside the main thread: never set."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    known: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in known.items() if handler != signal.SIG_IGN}  # ignored: stays so

    def request(number: int, frame: FrameType | None) -> None:
        stop.requested = True
        signal.signal(number, before[number])
        if leads():
            with suppress(OSError):
                os.write(2, STOPPING)  # a handler may have come in the middle of a print

    try:
        for number in before:
            signal.signal(number, request)
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
