"""/v1/responses, stateless: the same outcomes as of chat completions, in the other API's objects.

The order of a stream's events is OpenAI's: created, in_progress; then for each item of the output (the reasoning, the
message, calls) added, its parts, done; then completed, incomplete or failed. With `"reflective": {"events": true}` what
happens meanwhile comes in further `response.in_progress` events, as their member `reflective`.
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
from reflective.serve.responses_schema import ResponsesRequest
from reflective.serve.service import Service
from reflective.serve.writing import Delta, Outcome


@dataclass(slots=True)
class ResponsesWire:
    """The response object, and the events that make it grow. See `streaming.Wire`."""

    service: Service
    request: ResponsesRequest
    events: bool = False
    id: str = field(default_factory=lambda: f"resp_{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))
    output: list[dict[str, Any]] = field(default_factory=list)
    _number: int = 0
    _kind: str = ""  # of the item that is open
    _text: str = ""  # of it

    def whole(self, outcome: Outcome) -> dict[str, Any]:
        """The response in one piece."""
        for delta in _parts(self.service.shown(outcome.answers[0])):
            self.output.append(self._complete(self._item(delta), delta.text))
        return self._body(_status(outcome), outcome)

    def begin(self) -> Iterator[bytes]:
        """It exists, and is in progress."""
        yield self._event("created", response=self._body("in_progress"))
        yield self._event("in_progress", response=self._body("in_progress"))

    def told(self, value: Any) -> Iterator[bytes]:
        """Another event of progress, where events are wanted."""
        if self.events:
            yield self._event("in_progress", response=self._body("in_progress"), reflective=value)

    def more(self, delta: Delta) -> Iterator[bytes]:
        """More of an item; another kind of text, and every call, is another item."""
        if delta.kind == "reasoning" and not self.service.settings.reasoning_fields:
            return
        if delta.kind != self._kind or delta.call is not None:
            yield from self._open(delta)
        text = delta.call.arguments if delta.call is not None else delta.text
        self._text += text
        yield self._more(text)

    def end(self, outcome: Outcome) -> Iterator[bytes]:
        """The last item closes, and the response is complete or cut."""
        if self._kind in ("", "reasoning") and not outcome.answers[0].calls:  # an empty answer is a message
            yield from self._open(Delta(0, "content"))
        yield from self._close()
        status = _status(outcome)
        yield self._event(status, response=self._body(status, outcome))

    def failed(self, fault: Fault) -> Iterator[bytes]:
        """The response with its error."""
        failure = {"code": fault.code or fault.kind, "message": str(fault)}
        yield self._event("failed", response=self._body("failed", error=failure))

    def _body(self, status: str, outcome: Outcome | None = None, error: Any = None) -> dict[str, Any]:
        """The response as it stands."""
        usage = None
        if outcome is not None:
            given = outcome.usage
            usage = {
                "input_tokens": given["prompt_tokens"],
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": given["completion_tokens"],
                "output_tokens_details": given["completion_tokens_details"],
                "total_tokens": given["total_tokens"],
            }
        asked = self.request
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": error,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "model": self.service.name,
            "output": self.output,
            "parallel_tool_calls": asked.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": asked.reasoning.effort if asked.reasoning is not None else None, "summary": None},
            "store": False,
            "temperature": asked.temperature,
            "text": {"format": {"type": asked.text.format.type if asked.text and asked.text.format else "text"}},
            "tool_choice": asked.tool_choice or "auto",
            "tools": [tool.model_dump(exclude_none=True) for tool in asked.tools or ()],
            "top_p": asked.top_p,
            "truncation": "disabled",
            "usage": usage,
            "metadata": {},
            **({"reflective": outcome.summary} if outcome is not None else {}),
        }

    def _event(self, kind: str, **members: Any) -> bytes:
        """A server-sent event, numbered."""
        value = {"type": f"response.{kind}", "sequence_number": self._number, **members}
        self._number += 1
        return b"event: response." + kind.encode() + b"\ndata: " + to_json(value, inf_nan_mode="null") + b"\n\n"

    # ---- items

    def _item(self, delta: Delta) -> dict[str, Any]:
        mark = secrets.token_hex(12)
        if delta.kind == "reasoning":
            return {"id": f"rs_{mark}", "type": "reasoning", "summary": [], "content": [], "status": "in_progress"}
        if delta.call is not None:
            return {
                "id": f"fc_{mark}",
                "type": "function_call",
                "status": "in_progress",
                "call_id": f"call_{mark}",
                "name": delta.call.name,
                "arguments": "",
            }
        return {"id": f"msg_{mark}", "type": "message", "status": "in_progress", "role": "assistant", "content": []}

    def _complete(self, item: dict[str, Any], text: str) -> dict[str, Any]:
        if item["type"] == "function_call":
            return {**item, "status": "completed", "arguments": text}
        return {**item, "status": "completed", "content": [_part(item, text)]}

    def _open(self, delta: Delta) -> Iterator[bytes]:
        """An item begins, behind the one before."""
        yield from self._close()
        self._kind, self._text = delta.kind, ""
        item = self._item(delta)
        self.output.append(item)
        yield self._event("output_item.added", output_index=len(self.output) - 1, item=item)
        if item["type"] != "function_call":
            yield self._event("content_part.added", **self._where(), part=_part(item, ""))

    def _more(self, text: str) -> bytes:
        """More text of the item."""
        item = self.output[-1]
        kind = {"reasoning": "reasoning_text", "function_call": "function_call_arguments"}.get(
            item["type"], "output_text"
        )
        extra: dict[str, Any] = {"logprobs": []} if kind == "output_text" else {}
        return self._event(f"{kind}.delta", **self._where(), delta=text, **extra)

    def _close(self) -> Iterator[bytes]:
        """The item is complete, where there is one."""
        if not self._kind:
            return
        item, text = self.output[-1], self._text
        if item["type"] == "function_call":
            yield self._event("function_call_arguments.done", **self._where(), arguments=text, name=item["name"])
        else:
            kind = "reasoning_text" if item["type"] == "reasoning" else "output_text"
            extra: dict[str, Any] = {"logprobs": []} if kind == "output_text" else {}
            yield self._event(f"{kind}.done", **self._where(), text=text, **extra)
            yield self._event("content_part.done", **self._where(), part=_part(item, text))
        self.output[-1] = item = self._complete(item, text)
        yield self._event("output_item.done", output_index=len(self.output) - 1, item=item)

    def _where(self) -> dict[str, Any]:
        item = self.output[-1]
        where = {"item_id": item["id"], "output_index": len(self.output) - 1}
        return where if item["type"] == "function_call" else {**where, "content_index": 0}


def _status(outcome: Outcome) -> str:
    return "incomplete" if outcome.answers[0].finish_reason == "length" else "completed"


def _part(item: dict[str, Any], text: str) -> dict[str, Any]:
    if item["type"] == "reasoning":
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _parts(answer: Answer) -> Iterator[Delta]:
    if answer.reasoning:
        yield Delta(0, "reasoning", answer.reasoning)
    if answer.content or not answer.calls:
        yield Delta(0, "content", answer.content)
    for number, call in enumerate(answer.calls):
        yield Delta(0, "call", call.arguments, call, number)
