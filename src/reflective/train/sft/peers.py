"""Data parallelism: several processes train one model, each on its share of a step, and the gradients are summed.

On a CPU two processes of one thread each are faster than one process of two threads: nothing waits at the end of every
small operation. `processes` in the configuration starts them on this machine; under `torchrun` each process finds its
place in the environment. Process 0 decides (when to stop, when to save) and tells the others.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from reflective.errors import TrainingError

TIMEOUT = timedelta(hours=1)  # the others wait while process 0 validates or saves


@dataclass(frozen=True)
class Peers:
    """This process's place among `size` processes."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def sum_gradients(self, params: Iterable[Tensor], extra: Tensor) -> Tensor:
        """Adds up every gradient over all processes, in place, and returns the sum of `extra`, a scalar."""
        if self.size == 1:
            return extra
        trained = [p for p in params if p.requires_grad]
        for p in trained:
            if p.grad is None:  # this process has no micro-batch in this step
                p.grad = torch.zeros_like(p)
        grads = [p.grad for p in trained if p.grad is not None]
        flat = torch.cat([g.reshape(-1).float() for g in grads] + [extra.reshape(1).float()])
        dist.all_reduce(flat)
        *summed, total = flat.split([g.numel() for g in grads] + [1])
        for grad, value in zip(grads, summed):
            grad.copy_(value.view_as(grad))
        result: Tensor = total.reshape(())
        return result

    def broadcast(self, value: float, device: torch.device) -> float:
        """The value that process 0 has."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=device)
        dist.broadcast(tensor, 0)
        return float(tensor)


@contextmanager
def peers(processes: int, run: Callable[..., Any], *arguments: Any) -> Iterator[Peers]:
    """This process as number 0 of `processes`; the others call `run(*arguments, peers)`."""
    if "WORLD_SIZE" in os.environ and int(os.environ["WORLD_SIZE"]) > 1:
        with _joined("env://", int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])) as joined:
            yield joined
    elif processes == 1:
        yield Peers()
    else:
        with tempfile.TemporaryDirectory() as folder, _one_thread_each(processes):
            place = f"file://{Path(folder) / 'meeting'}"
            context = multiprocessing.get_context("spawn")
            others = [
                context.Process(target=_other, args=(run, arguments, place, rank, processes), daemon=True)
                for rank in range(1, processes)
            ]
            for other in others:
                other.start()
            try:
                with _joined(place, 0, processes) as joined:
                    yield joined
            finally:
                for other in others:
                    other.join(timeout=10)
                    other.kill()


def _other(run: Callable[..., Any], arguments: tuple[Any, ...], place: str, rank: int, size: int) -> None:
    """A process that process 0 has started, which leaves Ctrl-C to process 0."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with _one_thread_each(size), _joined(place, rank, size) as joined:
        run(*arguments, joined)


@contextmanager
def _joined(place: str, rank: int, size: int) -> Iterator[Peers]:
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if backend == "nccl":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank)))
    dist.init_process_group(backend, init_method=place, rank=rank, world_size=size, timeout=TIMEOUT)
    try:
        yield Peers(rank, size)
    except RuntimeError as error:
        if "gloo" in str(error) or "NCCL" in str(error) or "Connection" in str(error):
            raise TrainingError(f"process {rank} of {size} lost the others: {error}. Start again to resume.") from error
        raise
    finally:
        dist.destroy_process_group()


@contextmanager
def _one_thread_each(processes: int) -> Iterator[None]:
    """Shares this machine's threads among the processes."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
    try:
        yield
    finally:
        torch.set_num_threads(before)
