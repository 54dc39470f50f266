"""A task: a family of problems with gold answers, and the solution traces a small model learns from.

Problems are drawn with seeds and never stored. A problem belongs to one split by a stable hash of its canonical key,
so that no test problem can occur in training, whatever the seeds, levels and wordings. What a trace promises: every
line of arithmetic in it is true, except a result that is marked `learn=False`; and its answer is right, except where
`learn_answer` is False.

`reasoning_gym` writes the questions. It is imported when the first problem is drawn, not before.
"""

from __future__ import annotations

import hashlib
import importlib
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, ClassVar, Literal, get_args

from reflective.errors import DependencyError, InputError
from reflective.settings import check_names
from reflective.types import Problem

Split = Literal["train", "validation", "test"]

STEP_END = ".\n\n"  # ends every step, and contains the step token
MAX_DRAWS = 20_000  # fruitless draws after which a family counts as exhausted


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a trace; `learn=False` keeps it out of the fine-tuning loss (the model still reads it)."""

    text: str
    learn: bool = True


@dataclass(frozen=True, slots=True)
class Trace:
    """A written-out solution: its steps and the final answer.

    `learn_answer` is False where the trace ends with an answer that it knows to be wrong.
    """

    steps: tuple[tuple[Segment, ...], ...]
    answer: str
    learn_answer: bool = True

    def __post_init__(self) -> None:
        for text in self.step_texts:
            if not text.strip() or STEP_END in text or text.endswith("."):
                raise ValueError(f"a step must hold text and neither contain nor begin a step end, got {text!r}")

    @property
    def step_texts(self) -> tuple[str, ...]:
        """The steps as text, without their ends."""
        return tuple("".join(segment.text for segment in step) for step in self.steps)

    @property
    def thinking(self) -> str:
        """What stands between `<think>` and `</think>`."""
        return "\n" + "".join(text + STEP_END for text in self.step_texts)

    def segments(self) -> list[Segment]:
        """The completion behind `<think>` in pieces, neighbours of the same `learn` joined; no end-of-text token."""
        pieces = [Segment("\n")]
        for step in self.steps:
            pieces += [*step, Segment(STEP_END)]
        pieces += [Segment("</think>\n\n\\boxed{"), Segment(self.answer, self.learn_answer), Segment("}")]
        joined: list[Segment] = []
        for piece in pieces:
            if joined and joined[-1].learn == piece.learn:
                joined[-1] = Segment(joined[-1].text + piece.text, piece.learn)
            else:
                joined.append(piece)
        return joined


class Task(ABC):
    """One family of problems. A family's file says how problems are drawn, keyed and solved in writing."""

    name: ClassVar[str]
    description: ClassVar[str]
    levels: ClassVar[Mapping[int, str]]
    validation_share: ClassVar[float] = 0.1
    test_share: ClassVar[float] = 0.1

    @abstractmethod
    def draw(self, rng: random.Random, level: int) -> Problem:
        """A problem of any split, without its id. Everything `trace` and `key` need stands in it."""

    @abstractmethod
    def key(self, problem: Problem) -> str:
        """What makes two problems the same problem: equal keys fall into the same split."""

    @abstractmethod
    def trace(self, problem: Problem, rng: random.Random) -> Trace:
        """One way to write the solution; another `rng` gives another way."""

    def problem(self, split: Split, index: int, level: int = 2, seed: int = 0) -> Problem:
        """The problem at `index`: the same arguments give the same problem, on every machine."""
        self._check(split, level)
        for attempt in range(MAX_DRAWS):
            rng = random.Random(stable_hash(f"{self.name}/{level}/{seed}/{split}/{index}/{attempt}"))
            problem = self.draw(rng, level)
            if self.split(problem) == split:
                metadata = {**problem.metadata, "level": level}
                return replace(problem, id=f"{self.name}/{split}/{level}/{index:06d}", metadata=metadata)
        raise InputError(f"{self.name} has no {split} problem at level {level} ({MAX_DRAWS} draws).")

    def problems(self, split: Split, count: int, level: int = 2, seed: int = 0) -> Iterator[Problem]:
        """`count` problems: distinct ones in validation and test, in train as they are drawn.

        An index whose problem has come before is skipped, so that `problem(split, index)` is the one with that id.
        """
        self._check(split, level)
        return self._problems(split, count, level, seed)

    def _problems(self, split: Split, count: int, level: int, seed: int) -> Iterator[Problem]:
        seen: set[str] = set()
        index = last_new = -1
        while len(seen) < count if split != "train" else index + 1 < count:
            index += 1
            problem = self.problem(split, index, level, seed)
            if split != "train":
                key = self.key(problem)
                if key in seen:
                    if index - last_new > max(1000, 20 * len(seen)):
                        raise InputError(
                            f"{self.name} has no more than {len(seen)} distinct {split} problems at level {level}, "
                            f"{count} were asked for. Ask for fewer or mix levels."
                        )
                    continue
                seen.add(key)
            last_new = index
            yield problem

    def split(self, problem: Problem) -> Split:
        """The split that the problem's key belongs to."""
        place = stable_hash(f"{self.name}|{self.key(problem)}") / 2**64
        if place < self.test_share:
            return "test"
        return "validation" if place < self.test_share + self.validation_share else "train"

    def _check(self, split: str, level: int) -> None:
        check_names([split], get_args(Split), "split")
        if level not in self.levels:
            raise InputError(f"{self.name} has no level {level!r}. Known: {', '.join(map(str, self.levels))}.")


class GymTask(Task):
    """A family whose questions a module of `reasoning_gym` writes."""

    gym: ClassVar[tuple[str, str]]  # the module, and what its dataset and its config are named after
    kind: ClassVar[str] = "math"

    @abstractmethod
    def config(self, level: int) -> dict[str, Any]:
        """The package's settings for a level."""

    @abstractmethod
    def metadata(self, item: dict[str, Any]) -> dict[str, Any]:
        """What `trace` and `key` need, from the package's metadata of an item."""

    def dataset(self, level: int) -> Any:
        """The package's dataset, with the seed 0: its items are drawn with Random(seed + index)."""
        path, name = self.gym
        module = gym_module(path)
        return getattr(module, f"{name}Dataset")(getattr(module, f"{name}Config")(seed=0, **self.config(level)))

    def draw(self, rng: random.Random, level: int) -> Problem:
        item = _dataset(self, level)[rng.getrandbits(48)]
        return Problem(
            text=item["question"].strip(),
            answer=item["answer"],
            family=self.name,
            kind=self.kind,
            metadata=self.metadata(item["metadata"]),
        )


@cache
def _dataset(task: GymTask, level: int) -> Any:
    return task.dataset(level)


def stable_hash(text: str) -> int:
    """64 bits that depend on the text alone (Python's own hash differs from process to process)."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def gym_module(path: str) -> Any:
    """The module `reasoning_gym.<path>`, untyped."""
    try:
        return importlib.import_module(f"reasoning_gym.{path}")
    except ImportError as error:
        raise DependencyError(
            'The problem families need the package reasoning-gym. Install it in the checkout: pip install ".[tasks]"'
        ) from error
