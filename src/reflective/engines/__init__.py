"""Engines: they write scored trajectories. `base.Engine` is the contract; a name finds its engine here, lazily."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reflective.errors import InputError

if TYPE_CHECKING:
    from reflective.engines.base import Engine

ENGINES = ("torch",)


def check_engine(name: str) -> None:
    """Refuse an engine that is not there, before a model is loaded for it."""
    if name not in ENGINES:
        raise InputError(f"unknown engine {name!r}; known are: {', '.join(ENGINES)}.")


def make_engine(name: str, checkpoint: Any, **options: Any) -> Engine:
    """The engine `name` on a loaded checkpoint; `options` are that engine's own."""
    check_engine(name)
    from reflective.engines.torch.engine import TorchEngine

    return TorchEngine.from_checkpoint(checkpoint, **options)
