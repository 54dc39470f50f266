"""Reports of a supervised run: one for each logged step, to stderr and, where it is installed, to TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reflective.train.progress import Note, clock, print_note


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


class TensorBoardLog:
    """Curves for TensorBoard. Without the package the run goes on and says once that there are none."""

    def __init__(self, folder: Path, note: Note) -> None:
        self._writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            note('no curves: TensorBoard is not installed. For curves, in the checkout: pip install ".[train]"')
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
