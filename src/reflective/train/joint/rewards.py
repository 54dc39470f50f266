"""Rewards of trajectories: the verdict on the final answer, and the user's own functions.

A reward of None means ungradable: such a trajectory is left out of both losses. A function that raises gives None for
its whole batch, with a note; one that raises three times in a row ends the run. `sys.exit()` counts as raising.
"""

from __future__ import annotations

import importlib
import inspect
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from reflective.errors import InputError, TrainingError
from reflective.judge.format import Format, closing_span
from reflective.train.joint.config import VERIFY
from reflective.train.progress import Note
from reflective.types import Problem
from reflective.verify import extract_answer, grade

MOST_FAILURES: Final = 3  # failed batches in a row that end the run

Reward = Callable[..., list[float | None]]


class VerifiedAnswer:
    """1.0 for a right final answer, 0.0 for a wrong one or none, None where no grader can tell.

    A trajectory that ran out of tokens has no answer.
    """

    __name__ = VERIFY

    def __init__(
        self, problems: Sequence[Problem], format: Format, eos_ids: frozenset[int], decode: Callable[[list[int]], str]
    ) -> None:
        self._problems, self._format, self._eos_ids, self._decode = problems, format, eos_ids, decode

    def __call__(
        self, *, completion_ids: Sequence[Sequence[int]], problem: Sequence[int], **_: Any
    ) -> list[float | None]:
        return [self._reward(self._problems[n], ids) for n, ids in zip(problem, completion_ids, strict=True)]

    def _reward(self, problem: Problem, ids: Sequence[int]) -> float | None:
        right = grade(problem, self.answer(problem, ids)).right
        return None if right is None else float(right)

    def answer(self, problem: Problem, ids: Sequence[int]) -> str | None:
        """The final answer of a completion that ended by itself: behind the closing mark, or in the whole response."""
        if not ids or ids[-1] not in self._eos_ids:
            return None
        start = 0
        if not self._format.is_whole:
            span = closing_span(self._format, ids, self._format.opening_ids)  # the prompt has opened the reasoning
            if span is None:
                return None
            start = span[1]
        return extract_answer(self._decode(list(ids[start:-1])).strip(), problem.kind)


class Guarded:
    """A reward function whose failures are noted and counted, and end the run only where they go on."""

    def __init__(self, name: str, function: Reward, note: Note) -> None:
        self.__name__ = name
        self._name, self._function, self._note, self._failures = name, function, note, 0

    def __call__(self, *, prompts: Sequence[Any], **columns: Any) -> list[float | None]:
        try:
            values = self._function(prompts=prompts, **columns)
            rewards = [_checked(value) for value in values]
            if len(rewards) != len(prompts):
                raise ValueError(f"{len(rewards)} rewards for {len(prompts)} trajectories")
        except (Exception, SystemExit) as error:  # a user's code may raise anything
            self._failures += 1
            message = f"the reward function {self._name!r} failed: {type(error).__name__}: {error}"
            if self._failures >= MOST_FAILURES:
                raise TrainingError(
                    f"{message} ({self._failures} times in a row). Repair it and start again."
                ) from error
            self._note(f"{message}; this batch is left out")
            return [None] * len(prompts)
        self._failures = 0
        return rewards


def _checked(value: Any) -> float | None:
    if value is None:
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def reward_functions(names: Sequence[str], verified: VerifiedAnswer, note: Note) -> list[Reward]:
    """The functions behind the names, in order. Raises `InputError` for one that can't be used."""
    return [verified if name == VERIFY else Guarded(name, _find(name), note) for name in names]


def check_rewards(names: Sequence[str]) -> None:
    """Raises `InputError` for a name that does not lead to a usable function. Needs no model."""
    for name in names:
        if name != VERIFY:
            _find(name)


def _find(name: str) -> Reward:
    """`package.module:function`, from what is installed or from the current folder."""
    module, colon, attribute = name.partition(":")
    if not colon:
        raise InputError(f"a reward is {VERIFY!r} or named as package.module:function; got {name!r}.")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(f"the reward function {name!r} can't be found: {error}.") from error
    except (Exception, SystemExit) as error:  # a user's module may raise anything
        said = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise InputError(f"the reward function {name!r} can't be imported: {said}. Repair '{module}'.") from error
    if not callable(found):
        raise InputError(f"the reward {name!r} is no function.")
    if inspect.iscoroutinefunction(found) or inspect.iscoroutinefunction(type(found).__call__):
        raise InputError(f"the reward function {name!r} is an async one, which nobody awaits. Write it with def.")
    function: Reward = found
    return function
