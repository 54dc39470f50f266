"""The graders: which function judges problems of which kind, and how one's own is added.

In your own code, before anything is graded:

    @grader("roman")
    def grade_roman(problem: Problem, answer: str, *, time_limit_s: float) -> Verdict: ...

Or in a package that others install, in its pyproject.toml:

    [project.entry-points."reflective.graders"]
    roman = "my_package:grade_roman"

A kind has one grader: a second one for the same kind is refused, whoever brings it. A function with the attribute
`needs_gold = False` (or `@grader(kind, needs_gold=False)`) takes what is right from the problem's metadata.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol, TypeVar

from reflective.errors import InputError
from reflective.types import Problem, Verdict

ENTRY_POINTS = "reflective.graders"


class Grader(Protocol):
    """Says whether `answer`, which is not empty, answers `problem`."""

    def __call__(self, problem: Problem, answer: str, *, time_limit_s: float) -> Verdict: ...


G = TypeVar("G", bound=Grader)


class Registry(Mapping[str, Grader]):
    """Kinds and their graders; those of installed packages are imported when they are asked for."""

    def __init__(self) -> None:
        self.without_gold: set[str] = set()
        self._graders: dict[str, Grader] = {}

    @cached_property
    def _installed(self) -> Mapping[str, EntryPoint]:
        found: dict[str, EntryPoint] = {}
        for point in entry_points(group=ENTRY_POINTS):
            if point.name in self._graders or point.name in found:
                raise InputError(f"a second grader for problems of kind {point.name!r}, from {_package(point)}")
            found[point.name] = point
        return found

    def register(self, kind: str, function: Grader, *, needs_gold: bool = True) -> None:
        """Add the grader of a kind that has none yet, or the same function again, as a notebook does."""
        if kind in self and _place(self[kind]) != _place(function):
            raise InputError(f"there is a grader for problems of kind {kind!r} already; give yours another name")
        self.add_own(kind, function, needs_gold=needs_gold)

    def add_own(self, kind: str, function: Grader, *, needs_gold: bool) -> None:
        """Add a grader of this package, which no installed one may stand for."""
        self._graders[kind] = function
        if not needs_gold:
            self.without_gold.add(kind)

    def __getitem__(self, kind: str) -> Grader:
        if kind in self._graders:
            return self._graders[kind]
        point = self._installed[kind]
        try:
            function: Grader = point.load()
        except Exception as error:  # whatever the package's import raises
            raise InputError(f"the grader {kind!r} from {_package(point)} can't be loaded: {error!r}") from error
        self.add_own(kind, function, needs_gold=bool(getattr(function, "needs_gold", True)))
        return function

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self._graders, *self._installed)))

    def __len__(self) -> int:
        return sum(1 for _ in self)


GRADERS = Registry()
WITHOUT_GOLD = GRADERS.without_gold  # kinds whose metadata say what is right


def grader(kind: str, *, needs_gold: bool = True) -> Callable[[G], G]:
    """Decorates the grader of a new kind of problems."""

    def add(function: G) -> G:
        GRADERS.register(kind, function, needs_gold=needs_gold)
        return function

    return add


def _place(function: Grader) -> tuple[str, str]:
    return getattr(function, "__module__", ""), getattr(function, "__qualname__", "")


def _package(point: EntryPoint) -> str:
    return f"the package {point.dist.name}" if point.dist else point.value
