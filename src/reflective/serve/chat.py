"""/v1/chat/completions: a session's outcome as one object, or its events as chunks.

A streaming client gets the role at once, then progress, then the answer's text as it is written. Progress is an empty
delta with a `reflective` member: clients that know nothing of it add nothing. Where nothing is to be said for a while,
a comment keeps the connection open.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import to_json

from reflective.search import Answering, Finished, SearchEvent, Started, StepScored, Text
from reflective.serve.answers import Answer, answers_of, usage_of
from reflective.serve.events import EventWriter, solved
from reflective.serve.prompts import Question
from reflective.serve.schemas import ChatRequest, ReflectiveOptions
from reflective.serve.service import Service
from reflective.types import Solution

KEEP_ALIVE_S = 10.0
PROGRESS_S = 0.5  # between two reports of progress
DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"


@dataclass(slots=True)
class Envelope:
    """What all chunks of a response have in common."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def chunk(self, delta: dict[str, Any] | None, finish: str | None = None, index: int = 0, **more: Any) -> bytes:
        """A server-sent event; without a delta, a chunk without choices."""
        choices = [] if delta is None else [{"index": index, "delta": delta, "finish_reason": finish}]
        return data(
            {
                "id": self.id,
                "object": "chat.completion.chunk",
                "created": self.created,
                "model": self.model,
                "choices": choices,
                **more,
            }
        )


def data(value: Any) -> bytes:
    """A server-sent event of JSON."""
    return b"data: " + to_json(value, inf_nan_mode="null") + b"\n\n"


async def complete(service: Service, request: ChatRequest, question: Question) -> dict[str, Any]:
    """The response of a request without a stream."""
    envelope = Envelope(service.name)
    async with service.session(question, frozenset()) as session:
        async for _ in session.events():
            pass
        solution = await session.solution()
    chosen, usage, summary = await _outcome(service, request, solution)
    return {
        "id": envelope.id,
        "object": "chat.completion",
        "created": envelope.created,
        "model": envelope.model,
        "choices": [
            {
                "index": i,
                "message": {"role": "assistant", "content": answer.content, **service.reasoning(answer.reasoning)},
                "finish_reason": answer.finish_reason,
                "logprobs": None,
            }
            for i, answer in enumerate(chosen)
        ],
        "usage": usage,
        "reflective": summary,
    }


async def stream(service: Service, request: ChatRequest, question: Question) -> AsyncIterator[bytes]:
    """The chunks of a streaming request."""
    envelope = Envelope(service.name)
    own = request.reflective or ReflectiveOptions()
    writer = EventWriter(question.strategy.name, service.engine.judge.aggregation)
    shown = Shown(service, question)
    wanted: frozenset[type[SearchEvent]] = frozenset((Started, StepScored, Answering, Finished, Text))
    yield envelope.chunk({"role": "assistant", "content": ""})
    told = 0.0
    async with service.session(question, wanted) as session:
        async for event in session.events(KEEP_ALIVE_S):
            if event is None:
                yield KEEP_ALIVE
                continue
            described = writer.write(event)
            if own.events or isinstance(event, Started):
                if described is not None:
                    yield envelope.chunk({}, reflective=described)
            elif isinstance(event, StepScored | Finished) and (now := time.monotonic()) - told > PROGRESS_S:
                told = now
                yield envelope.chunk({}, reflective=writer.progress())
            for delta in shown.take(event):
                yield envelope.chunk(delta)
        if session.lost:
            yield envelope.chunk({}, reflective={"type": "lost", "events": session.lost})
        solution = await session.solution()
    chosen, usage, summary = await _outcome(service, request, solution)
    for i, answer in enumerate(chosen):
        for delta in shown.rest(answer) if i == 0 else _whole(service, answer):
            yield envelope.chunk(delta, index=i)
        more = {"reflective": summary} if i == 0 else {}
        yield envelope.chunk({}, answer.finish_reason, i, **more)
    if request.stream_options is not None and request.stream_options.include_usage:
        yield envelope.chunk(None, usage=usage)
    yield DONE


async def _outcome(
    service: Service, request: ChatRequest, solution: Solution
) -> tuple[list[Answer], dict[str, Any], dict[str, Any]]:
    """The answers, the usage and the `reflective` object."""
    pairs = answers_of(solution, service.format, request.n or 1)
    usage = usage_of(solution, service.format, [t for t, _ in pairs if t is not None])
    steps = request.reflective is not None and request.reflective.steps
    voters = sum(t.answer is not None for t in solution.trajectories)
    if voters > 1:  # a vote asks graders
        summary = await asyncio.to_thread(solved, solution, usage, steps=steps)
    else:
        summary = solved(solution, usage, steps=steps)
    return [answer for _, answer in pairs], usage, dict(summary)


def _whole(service: Service, answer: Answer) -> list[dict[str, Any]]:
    deltas: list[dict[str, Any]] = []
    if reasoning := service.reasoning(answer.reasoning):
        deltas.append(reasoning)
    if answer.content:
        deltas.append({"content": answer.content})
    return deltas


class Shown:
    """What a streaming client has been given of the first answer: its reasoning, and its content as it is written.

    Content streams where the trajectory that is continued is the selected one; elsewhere it comes at the end. White
    space at the end is held back, and so is the token that ends the answer: what has been sent is always the beginning
    of what is sent without a stream.
    """

    def __init__(self, service: Service, question: Question) -> None:
        self._service = service
        self._live = question.answers_selected
        self._index: int | None = None
        self._text = self._sent = ""
        self._reasoned = False
        self._thinking: dict[int, str] = {}

    def take(self, event: SearchEvent) -> list[dict[str, Any]]:
        """The deltas that an event gives."""
        if not self._live:
            return []
        match event:
            case Finished():
                self._thinking[event.id] = event.trajectory.thinking.strip()
            case Answering() if not self._sent:
                self._index, self._text = event.id, ""
            case Text() if event.id == self._index:
                self._text += event.delta
                ready = self._text.lstrip()
                for end in self._service.ends:
                    ready = ready.removesuffix(end)
                return self._send(ready.rstrip(), self._thinking.get(event.id))
        return []

    def rest(self, answer: Answer) -> list[dict[str, Any]]:
        """What is still to be sent, now that the answer is known."""
        if not answer.content.startswith(self._sent):
            return []
        return self._send(answer.content, answer.reasoning, last=True)

    def _send(self, content: str, reasoning: str | None, *, last: bool = False) -> list[dict[str, Any]]:
        deltas: list[dict[str, Any]] = []
        new = content[len(self._sent) :]
        if not self._reasoned and (new or last):
            self._reasoned = True
            if parts := self._service.reasoning(reasoning):
                deltas.append(parts)
        if new:
            self._sent += new
            deltas.append({"content": new})
        return deltas
