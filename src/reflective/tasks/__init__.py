"""Problem sets: generated families, endless and with traces that solve them, and benchmarks from elsewhere.

`load_problems(name)` gives the problems of either, or of a file of yours. `get_task(name)` gives one family, `mixture`
interleaves several; their questions are those of the package `reasoning_gym` (extra `tasks`), which is imported when
the first problem is drawn. `get_benchmark(name)` gives one benchmark, from the hub or from a file.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence

from reflective.errors import InputError
from reflective.settings import check_names
from reflective.tasks.base import Segment, Split, Task, Trace
from reflective.tasks.benchmarks import BENCHMARKS, Benchmark, get_benchmark, load_problems
from reflective.types import Problem

__all__ = [
    "BENCHMARKS",
    "TASKS",
    "Benchmark",
    "Segment",
    "Split",
    "Task",
    "Trace",
    "get_benchmark",
    "get_task",
    "load_problems",
    "mixture",
]

_CLASSES = {
    "countdown": "Countdown",
    "puzzle24": "Puzzle24",
    "gsm_symbolic": "GSMSymbolic",
    "chain_sum": "ChainSum",
    "products": "Products",
    "simple_equations": "SimpleEquations",
    "leg_counting": "LegCounting",
    "gcd": "GCD",
    "lcm": "LCM",
    "prime_factorization": "PrimeFactorization",
}


class _Tasks(Mapping[str, Task]):
    """The families by name; a family's module is imported when it is looked up."""

    def __init__(self) -> None:
        self._made: dict[str, Task] = {}

    def __getitem__(self, name: str) -> Task:
        if name not in self._made:
            module = importlib.import_module(f"reflective.tasks.{name}") if name in _CLASSES else None
            if module is None:
                raise KeyError(name)
            self._made[name] = getattr(module, _CLASSES[name])()
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_CLASSES)

    def __len__(self) -> int:
        return len(_CLASSES)


TASKS: Mapping[str, Task] = _Tasks()


def get_task(name: str) -> Task:
    """The family of that name."""
    check_names([name], TASKS, "task")
    return TASKS[name]


def mixture(
    split: Split,
    count: int,
    levels: Sequence[int] = (1, 2, 3),
    families: Sequence[str] | None = None,
    seed: int = 0,
) -> Iterator[Problem]:
    """`count` problems, the families in turn and the levels in turn; distinct ones in validation and test.

    Where a family has no more distinct problems at a level, its other levels fill the gap.
    """
    tasks = [get_task(name) for name in (TASKS if families is None else families)]
    if not tasks or not levels:
        raise InputError("a mixture needs at least one family and one level.")
    return _mixture(split, count, tuple(levels), tasks, seed)


def _mixture(split: Split, count: int, levels: tuple[int, ...], tasks: list[Task], seed: int) -> Iterator[Problem]:
    streams = [_family(task, split, count, levels, seed) for task in tasks]
    for i in range(count):
        yield next(streams[i % len(streams)])


def _family(task: Task, split: Split, count: int, levels: tuple[int, ...], seed: int) -> Iterator[Problem]:
    """An endless stream of one family, its levels in turn."""
    streams = {level: task.problems(split, count, level, seed) for level in levels}
    seen: set[str] = set()
    while streams:
        for level in list(streams):
            try:
                problem = _unseen(streams[level], task, seen if split != "train" else None)
            except (InputError, StopIteration):
                del streams[level]
            else:
                yield problem
    raise InputError(f"{task.name} has no more than {len(seen)} distinct {split} problems. Ask for fewer.")


def _unseen(stream: Iterator[Problem], task: Task, seen: set[str] | None) -> Problem:
    """The stream's next problem that is not among the seen ones (levels overlap)."""
    while True:
        problem = next(stream)
        if seen is None:
            return problem
        key = task.key(problem)
        if key not in seen:
            seen.add(key)
            return problem
