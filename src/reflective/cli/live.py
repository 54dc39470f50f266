"""Live rows in a terminal: one per trajectory, with its steps as coloured blocks, score, tokens and state."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text as Styled

from reflective.cli import option_names
from reflective.render import cost, number, percent, score_block, score_color, shown_answer, state
from reflective.search.events import Answering, Finished, Forked, SearchEvent, Solved, Started, StepScored, Text
from reflective.types import Solution

REFRESH_S = 0.12
ROW_WIDTH = 31  # of a row without its blocks
ORIGIN_WIDTH = 5  # of what says where a fork comes from, where there are forks
MIN_BLOCKS = 6
HEADER_LINES = 4


@dataclass(slots=True)
class _Row:
    """What is known of a trajectory while it is written."""

    scores: list[float] = field(default_factory=list)
    tokens: int = 0
    score: float | None = None
    state: str = "waiting"
    ended: bool = False
    parent: int | None = None  # of a fork

    @property
    def running_score(self) -> float | None:
        """The final score, or the geometric mean so far."""
        if self.score is not None or not self.scores:
            return self.score
        return math.exp(sum(math.log(max(s, 1e-12)) for s in self.scores) / len(self.scores))


class LiveRows:
    """A context manager; call it with each event of a search."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, vertical_overflow="crop")
        self._rows: dict[int, _Row] = {}
        self._title = ""
        self._selected: int | None = None
        self._shown_at = -math.inf
        self._began = time.monotonic()

    def __enter__(self) -> LiveRows:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def __call__(self, event: SearchEvent) -> None:
        self._take(event)
        if isinstance(event, Solved) or time.monotonic() - self._shown_at > REFRESH_S:
            self._live.update(self._draw(), refresh=True)
            self._shown_at = time.monotonic()

    def _take(self, event: SearchEvent) -> None:
        if isinstance(event, Started):
            self._rows = {index: _Row() for index in range(event.k)}
            self._title = " ".join(event.problem.text.split())
        elif isinstance(event, Solved):
            self._selected = event.solution.selected
        else:
            self._take_one(self._rows.setdefault(event.id, _Row()), event)

    def _take_one(self, row: _Row, event: Text | StepScored | Finished | Forked | Answering) -> None:
        if isinstance(event, Answering):
            row.state, row.ended = "answering", False
            self._selected = event.id
        elif isinstance(event, Forked):
            row.parent = event.parent
        elif isinstance(event, StepScored):
            if row.parent is not None and len(row.scores) < event.index:  # the steps that it shares
                row.scores = self._rows[row.parent].scores[: event.index]
            row.scores.append(event.score)
        elif isinstance(event, Finished):
            row.score, row.tokens = event.trajectory.score, event.trajectory.tokens
            row.state, row.ended = state(event.trajectory), True
        if row.state == "waiting":
            row.state = "writing"

    @property
    def _forked(self) -> bool:
        return any(row.parent is not None for row in self._rows.values())

    def _draw(self) -> Group:
        width, height = self._console.size
        columns = max(1, math.ceil(len(self._rows) / max(1, height - HEADER_LINES)))
        row_width = ROW_WIDTH + ORIGIN_WIDTH * self._forked
        columns = min(columns, max(1, width // (row_width + MIN_BLOCKS)))
        blocks = max(MIN_BLOCKS, width // columns - row_width - 1)
        per_column = math.ceil(len(self._rows) / columns) if self._rows else 0
        grid = Table.grid(padding=(0, 1, 0, 0))
        cells = [self._row(index, row, blocks) for index, row in sorted(self._rows.items())]
        for line in range(per_column):
            grid.add_row(*(cells[i] for i in range(line, len(cells), per_column)))
        title = Styled(self._title, style="bold", overflow="ellipsis", no_wrap=True)
        ended = sum(row.ended for row in self._rows.values())
        status = f"{ended}/{len(self._rows)} · {time.monotonic() - self._began:.1f} s"
        return Group(title, grid, Styled(status, style="dim"))

    def _row(self, index: int, row: _Row, blocks: int) -> Styled:
        chosen = index == self._selected
        line = Styled(no_wrap=True, overflow="crop")
        line.append("▶" if chosen else " ", style="bold green")
        line.append(f"{index:>3} ", style="bold" if chosen else "dim")
        if self._forked:
            line.append(f"{'' if row.parent is None else f'←{row.parent}':<{ORIGIN_WIDTH}}", style="dim")
        shown = row.scores[-blocks:]
        for step in shown:
            red, green, blue = score_color(step)
            line.append(score_block(step), style=f"rgb({red},{green},{blue})")
        line.append(" " * (blocks - len(shown) + 1))
        line.append(f"{number(row.running_score):>5}", style="bold" if row.ended else "")
        line.append(f" {row.tokens:>5}" if row.tokens else " " * 6, style="dim")
        line.append(f" {row.state[:13]:<13}", style="green" if chosen else "dim")
        return line


class AnswerStream:
    """Writes an answer to stdout while it is written, without the mark that ends it."""

    def __init__(self, ends: Sequence[str]) -> None:
        self.written = ""
        self._ends = [end for end in ends if end]
        self._held = ""  # may be the beginning of a mark

    def add(self, delta: str) -> None:
        """More of the answer."""
        text = self._held + delta
        keep = max((n for end in self._ends for n in range(1, len(end) + 1) if text.endswith(end[:n])), default=0)
        self._held = text[len(text) - keep :]
        self._write(text[: len(text) - keep])

    def close(self) -> None:
        """The answer is complete."""
        if self._held not in self._ends:
            self._write(self._held)
        self._held = ""
        self._write("\n")

    def _write(self, text: str) -> None:
        if not self.written:
            text = text.lstrip()
        self.written += text
        sys.stdout.write(text)
        sys.stdout.flush()


def print_answer(solution: Solution) -> None:
    """The answer, its confidence and what it cost, on stdout."""
    console = Console(highlight=False)
    answer = shown_answer(solution)
    text = solution.answer_text.strip()
    if solution.answer is not None and text not in (solution.answer, f"\\boxed{{{solution.answer}}}"):
        console.print(Styled(text, style="dim"))
    console.print()
    line = Styled("answer      ")
    line.append(answer or "none", style="bold green" if answer else "bold red")
    console.print(line)
    console.print(Styled(f"confidence  {percent(solution.confidence)}"))
    console.print(Styled(f"cost        {cost(solution)}", style="dim"))
    for note in solution.notes:
        console.print(Styled(f"note        {option_names(note)}", style="yellow"))
