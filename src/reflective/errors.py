"""Every exception that is ours. An error says what is wrong, what was got, and what to do.

ReflectiveError
├── InputError          a problem, option or file that the user gave (exit 2)
│   └── ContextError    a prompt that does not fit the model's context
├── CheckpointError     a model folder or head that can't be loaded or saved
├── EngineError         generation failed: NaN logits, out of memory, a lost endpoint
├── DependencyError     an extra that is not installed
└── TrainingError       a run that can't start or can't go on
"""

from __future__ import annotations


class ReflectiveError(Exception):
    """The root of the tree: catch this to catch everything that reflective raises on purpose."""


class InputError(ReflectiveError, ValueError):
    """What the user gave can't be used."""


class ContextError(InputError):
    """The prompt leaves no room in the model's context."""


class CheckpointError(ReflectiveError):
    """A model folder, head or import that is missing, damaged or does not fit."""


class EngineError(ReflectiveError):
    """Generation failed for a reason that is not the user's input.

    `trajectory` is the engine's id of the one that has failed, where the engine goes on with all others.
    """

    trajectory: int | None = None


class DependencyError(ReflectiveError, ImportError):
    """A feature needs an extra that is not installed."""


class TrainingError(ReflectiveError):
    """A training run can't start or can't go on."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message without its full stop, at most 200 characters, and the second one where the
    first ends in a colon; of an error of the system the reason alone."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    lines = [line.strip() for line in said.strip().splitlines()] or [type(error).__name__]
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])[:200].rstrip(".")
