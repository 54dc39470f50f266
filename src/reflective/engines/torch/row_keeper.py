"""What a `RowEngine` asks of what holds its keys and values: the embedded engine's is `kv_manager.py`."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from reflective.engines.sequence import Running
from reflective.engines.torch.scheduler import Scheduler


class RowKeeper(Protocol):
    """Keys and values of the running rows, and of those that left and may come back. `running` are those by row."""

    @property
    def memory(self) -> Any:
        """What the backbone is given: has `rows`, `length` (positions of a row) and `move(source, target, length)`."""

    def reserve(self, scheduler: Scheduler) -> bool:
        """Make room for what waits and runs; whether `memory` is another one now."""

    def fill(
        self, group: list[Running], first_row: int, running: list[Running], *, keep: bool
    ) -> tuple[Tensor, Tensor]:
        """Fill the rows of trajectories that share a prompt; its last logits (1, V) and features (1, F)."""

    def bring_back(self, sequence: Running, row: int, running: list[Running]) -> None:
        """Fill the row of a trajectory that goes on from tokens that it has."""

    def park(self, sequence: Running, row: int, *, last: bool) -> None:
        """Keep what a continuation of a trajectory that leaves needs; `last`: no row moves into its place."""

    def drop(self, id: int) -> None:
        """Forget what is parked of a trajectory."""

    def clear(self) -> None:
        """Free everything."""
