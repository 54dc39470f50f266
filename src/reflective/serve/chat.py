"""/v1/chat/completions: the outcome as one object, or as chunks.

A streaming client gets the role at once, then progress, then the answer's text as it is written. Progress is an empty
delta with a `reflective` member: clients that know nothing of it add nothing.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import to_json

from reflective.serve.answers import Answer
from reflective.serve.faults import Fault
from reflective.serve.service import Service
from reflective.serve.writing import Delta, Outcome

DONE = b"data: [DONE]\n\n"


@dataclass(slots=True)
class ChatWire:
    """A chat completion; with `usage` a stream ends with a chunk of it. See `streaming.Wire`."""

    service: Service
    usage: bool = False
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))
    _begun: set[int] = field(default_factory=set)  # choices whose role was given

    def whole(self, outcome: Outcome) -> dict[str, Any]:
        """The response in one piece."""
        choices = [
            {
                "index": i,
                "message": self._message(answer),
                "finish_reason": answer.finish_reason,
                "logprobs": None,
            }
            for i, answer in enumerate(outcome.answers)
        ]
        return self._object("chat.completion", choices, usage=outcome.usage, reflective=outcome.summary)

    def _message(self, answer: Answer) -> dict[str, Any]:
        reasoning = self.service.reasoning(answer.reasoning)
        message: dict[str, Any] = {"role": "assistant", "content": answer.content, "refusal": None, **reasoning}
        if answer.calls:
            message["content"] = answer.content or None
            message["tool_calls"] = [call.to_json() for call in answer.calls]
        return message

    def begin(self) -> Iterator[bytes]:
        """The role of the first choice; another's comes when something of it does."""
        yield from self._begin(0)

    def _begin(self, index: int) -> Iterator[bytes]:
        if index not in self._begun:
            self._begun.add(index)
            yield self._chunk({"role": "assistant", "content": "", "refusal": None}, index=index)

    def told(self, value: Any) -> Iterator[bytes]:
        """An empty delta with the object."""
        yield self._chunk({}, reflective=value)

    def more(self, delta: Delta) -> Iterator[bytes]:
        """More of an answer; a call in two chunks: what is called, then with what."""
        if delta.kind == "reasoning":
            found = [self.service.reasoning(delta.text)] if self.service.settings.reasoning_fields else []
        elif delta.call is None:
            found = [{"content": delta.text}]
        else:
            call = delta.call.to_json()
            arguments = call["function"].pop("arguments")
            begun = {"index": delta.number, **call, "function": {**call["function"], "arguments": ""}}
            further = {"index": delta.number, "function": {"arguments": arguments}}
            found = [{"tool_calls": [begun]}, {"tool_calls": [further]}]
        yield from self._begin(delta.index)
        for each in found:
            yield self._chunk(each, index=delta.index)

    def end(self, outcome: Outcome) -> Iterator[bytes]:
        """Why each answer ended, then the usage where it is wanted."""
        for i, answer in enumerate(outcome.answers):
            more = {"reflective": outcome.summary} if i == 0 else {}
            yield from self._begin(i)
            yield self._chunk({}, answer.finish_reason, i, **more)
        if self.usage:
            yield self._chunk(None, usage=outcome.usage)
        yield DONE

    def failed(self, fault: Fault) -> Iterator[bytes]:
        """The error object."""
        yield _data(fault.body())

    def _chunk(self, delta: dict[str, Any] | None, finish: str | None = None, index: int = 0, **more: Any) -> bytes:
        """A chunk; without a delta, one without choices."""
        choices = [] if delta is None else [{"index": index, "delta": delta, "finish_reason": finish}]
        if self.usage:
            more = {"usage": None, **more}
        return _data(self._object("chat.completion.chunk", choices, **more))

    def _object(self, kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        name = self.service.name
        return {"id": self.id, "object": kind, "created": self.created, "model": name, "choices": choices, **more}


def _data(value: Any) -> bytes:
    return b"data: " + to_json(value, inf_nan_mode="null") + b"\n\n"
