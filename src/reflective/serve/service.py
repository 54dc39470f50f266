"""What all requests share: the model, its driver in a thread of its own, and who is let in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reflective.api import DEFAULT_EFFORT, Reflective
from reflective.engines.driver import Driver
from reflective.search import SearchEvent
from reflective.serve.prompts import Question
from reflective.serve.session import Bell, Session


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """How a server behaves; the options of `reflective serve`."""

    host: str = "127.0.0.1"
    port: int = 8000
    effort: str | int = DEFAULT_EFFORT
    name: str | None = None
    reasoning_fields: tuple[str, ...] = ("reasoning", "reasoning_content")


class Service:
    """A model that is being served. Made in the event loop that serves it."""

    def __init__(self, model: Reflective, settings: ServeSettings) -> None:
        self.model, self.settings, self.engine = model, settings, model.engine
        self.name = settings.name or Path(model.engine.name).name
        self.engine.name = self.name  # what errors call it: a folder's path is nobody's business
        self.format = model.engine.judge.format
        self.ends = tuple(model.engine.decode([id]) for id in sorted(model.engine.end_ids))
        self.created = int(time.time())
        self.ready = True
        self._driver = Driver.of(model.engine)
        self._driver.start()
        self._bell = Bell(asyncio.get_running_loop())

    @asynccontextmanager
    async def session(self, question: Question, wanted: frozenset[type[SearchEvent]]) -> AsyncIterator[Session]:
        """A session, once there is room for it."""
        with Session(self._driver, self._bell, question, calibration=self.model.calibration, wanted=wanted) as session:
            yield session

    @property
    def card(self) -> dict[str, Any]:
        """The model as /v1/models shows it."""
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "reflective",
            "max_model_len": self.engine.context_length,
            "reflective": {"scored": self.engine.scored, "reasoning": "whole" if self.format.is_whole else "marks"},
        }

    def reasoning(self, text: str | None) -> dict[str, Any]:
        """The reasoning under the names that it is to have; nothing where there is none."""
        return dict.fromkeys(self.settings.reasoning_fields, text) if text else {}
