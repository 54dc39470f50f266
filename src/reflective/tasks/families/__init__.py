"""Families of problems that are generated here, endless and with traces that solve them, each in its levels.

Their questions are those of the package `reasoning_gym` (extra `tasks`), which is imported when the first problem is
drawn. All families of that package, without levels and traces, are in `families/gym.py`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from reflective.errors import InputError
from reflective.settings import check_names
from reflective.tasks.base import Split, Task
from reflective.types import Problem

MIXTURE: Final = "mixture"  # the name of all families in turn

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
            module = importlib.import_module(f"reflective.tasks.families.{name}") if name in _CLASSES else None
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


def family_names(source: str) -> list[str] | None:
    """The families that a name stands for; None where it is no family and not "mixture"."""
    return list(TASKS) if source == MIXTURE else [source] if source in TASKS else None
