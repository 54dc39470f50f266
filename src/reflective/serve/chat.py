"""/v1/chat/completions: the outcome as one object, or events as chunks while it is being computed.

A streaming client gets the role at once, then progress, then the answer's text as it is written. Progress is an empty
delta with a `reflective` member: clients that know nothing of it add nothing. Where nothing is to be said for a while,
a comment keeps the connection open.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import to_json

from reflective.serve.answers import Answer
from reflective.serve.keys import Key
from reflective.serve.prompts import Question
from reflective.serve.service import Service
from reflective.serve.writing import Delta, Outcome, Told, write

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"


@dataclass(slots=True)
class Envelope:
    """What all parts of a response have in common."""

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


async def outcome_of(service: Service, question: Question, client: str) -> Outcome:
    """The outcome alone."""
    async with aclosing(write(service, question, client, deltas=False)) as items:
        async for item in items:
            if isinstance(item, Outcome):
                return item
    raise AssertionError("a question ended without an outcome")


def completion(service: Service, envelope: Envelope, outcome: Outcome) -> dict[str, Any]:
    """The response of a request without a stream."""
    return {
        "id": envelope.id,
        "object": "chat.completion",
        "created": envelope.created,
        "model": envelope.model,
        "choices": [
            {
                "index": i,
                "message": _message(service, answer),
                "finish_reason": answer.finish_reason,
                "logprobs": None,
            }
            for i, answer in enumerate(outcome.answers)
        ],
        "usage": outcome.usage,
        "reflective": outcome.summary,
    }


def _message(service: Service, answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.content, **service.reasoning(answer.reasoning)}
    if answer.calls:
        message["content"] = answer.content or None
        message["tool_calls"] = [call.to_json() for call in answer.calls]
    return message


async def stream(
    service: Service,
    envelope: Envelope,
    question: Question,
    client: str,
    log: dict[str, Any],
    key: Key | None,
    *,
    usage: bool,
) -> AsyncGenerator[bytes]:
    """The chunks of a streaming request. An error becomes the last of them."""
    yield envelope.chunk({"role": "assistant", "content": ""})
    try:
        async with aclosing(write(service, question, client, deltas=True)) as items:
            async for item in items:
                match item:
                    case None:
                        yield KEEP_ALIVE
                    case Told(value):
                        yield envelope.chunk({}, reflective=value)
                    case Delta():
                        for delta in _deltas(service, item):
                            yield envelope.chunk(delta, index=item.index)
                    case Outcome():
                        service.answered(envelope.id, question, item, log, key, client)
                        for i, answer in enumerate(item.answers):
                            more = {"reflective": item.summary} if i == 0 else {}
                            yield envelope.chunk({}, answer.finish_reason, i, **more)
                        if usage:
                            yield envelope.chunk(None, usage=item.usage)
    except Exception as error:
        yield data(service.failed(error, log).body())
        return
    yield DONE


def _deltas(service: Service, item: Delta) -> list[dict[str, Any]]:
    """A delta as chunks write it; a call in two: what is called, then with what."""
    if item.kind == "reasoning":
        return [service.reasoning(item.text)] if service.settings.reasoning_fields else []
    if item.call is None:
        return [{"content": item.text}]
    call = item.call.to_json()
    arguments = call["function"].pop("arguments")
    begun = {"index": item.number, **call, "function": {**call["function"], "arguments": ""}}
    return [
        {"tool_calls": [begun]},
        {"tool_calls": [{"index": item.number, "function": {"arguments": arguments}}]},
    ]
