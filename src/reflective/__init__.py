"""Reasoning that scores its own steps: one pass that writes, scores and selects.

    from reflective import Reflective

    solution = Reflective.from_pretrained("nano").solve("Find the Least Common Multiple (LCM) of these numbers: 14, 20")
    print(solution.answer, solution.confidence)

Names are imported when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from reflective.api import Reflective as Reflective
    from reflective.engines.base import Engine as Engine
    from reflective.engines.base import Sampling as Sampling
    from reflective.engines.scripted import Scripted as Scripted
    from reflective.engines.scripted import ScriptedEngine as ScriptedEngine
    from reflective.errors import CheckpointError as CheckpointError
    from reflective.errors import ContextError as ContextError
    from reflective.errors import DependencyError as DependencyError
    from reflective.errors import EngineError as EngineError
    from reflective.errors import InputError as InputError
    from reflective.errors import ReflectiveError as ReflectiveError
    from reflective.errors import TrainingError as TrainingError
    from reflective.records import Record as Record
    from reflective.records import RecordWriter as RecordWriter
    from reflective.records import read_records as read_records
    from reflective.types import Problem as Problem
    from reflective.types import ScoredResponse as ScoredResponse
    from reflective.types import Solution as Solution
    from reflective.types import Step as Step
    from reflective.types import Trajectory as Trajectory
    from reflective.types import Verdict as Verdict

_HOMES = {
    "Reflective": "api",
    "Engine": "engines.base",
    "Sampling": "engines.base",
    "Scripted": "engines.scripted",
    "ScriptedEngine": "engines.scripted",
    "CheckpointError": "errors",
    "ContextError": "errors",
    "DependencyError": "errors",
    "EngineError": "errors",
    "InputError": "errors",
    "ReflectiveError": "errors",
    "TrainingError": "errors",
    "Record": "records",
    "RecordWriter": "records",
    "read_records": "records",
    "Problem": "types",
    "ScoredResponse": "types",
    "Solution": "types",
    "Step": "types",
    "Trajectory": "types",
    "Verdict": "types",
}

__all__ = [
    "CheckpointError",
    "ContextError",
    "DependencyError",
    "Engine",
    "EngineError",
    "InputError",
    "Problem",
    "Record",
    "RecordWriter",
    "Reflective",
    "ReflectiveError",
    "Sampling",
    "ScoredResponse",
    "Scripted",
    "ScriptedEngine",
    "Solution",
    "Step",
    "TrainingError",
    "Trajectory",
    "Verdict",
    "__version__",
    "read_records",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'reflective' has no attribute {name!r}")
    return getattr(importlib.import_module(f"reflective.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
