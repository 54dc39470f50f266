"""/v1/responses, stateless: the same outcomes as of chat completions, in the other API's objects.

The order of a stream's events is OpenAI's: created, in_progress; then for each item of the output (the reasoning, the
message, calls) added, its parts, done; then completed, incomplete or failed. With `"reflective": {"events": true}` what
happens meanwhile comes in further `response.in_progress` events, as their member `reflective`. There is one for every
token, so their response leaves out what a request may have much of.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import to_json

from reflective.serve.faults import Fault
from reflective.serve.prompts import Question
from reflective.serve.responses_schema import ResponsesRequest
from reflective.serve.service import Service
from reflective.serve.writing import Delta, Outcome, deltas_of

LEFT_OUT: Mapping[str, Any] = {"instructions": None, "tools": [], "tool_choice": "auto", "text": None, "output": []}


@dataclass(slots=True)
class ResponsesWire:
    """The response object, and the events that make it grow. See `streaming.Wire`."""

    service: Service
    request: ResponsesRequest
    question: Question
    id: str = field(default_factory=lambda: f"resp_{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))
    output: list[dict[str, Any]] = field(default_factory=list)
    _brief: dict[str, Any] = field(default_factory=dict)
    _number: int = 0
    _kind: str = ""  # of the item that is open
    _text: str = ""  # of it

    def whole(self, outcome: Outcome) -> dict[str, Any]:
        """The response in one piece."""
        for delta in deltas_of(0, outcome.answers[0]):
            list(self.more(delta))
        list(self._last(outcome))
        return self._body(_status(outcome), outcome)

    def begin(self) -> Iterator[bytes]:
        """It exists, and is in progress."""
        body = self._body("in_progress")
        self._brief = {**body, **LEFT_OUT}
        yield self._event("created", response=body)
        yield self._event("in_progress", response=body)

    def told(self, value: Any) -> Iterator[bytes]:
        """Another event of progress, where events are wanted."""
        if self.question.options.events:
            yield self._event("in_progress", response=self._brief, reflective=value)

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
        yield from self._last(outcome)
        status = _status(outcome)
        yield self._event(status, response=self._body(status, outcome))

    def _last(self, outcome: Outcome) -> Iterator[bytes]:
        if self._kind in ("", "reasoning") and not outcome.answers[0].calls:  # an empty answer is a message
            yield from self._open(Delta(0, "content"), _status(outcome))
        yield from self._close(_status(outcome))

    def failed(self, fault: Fault) -> Iterator[bytes]:
        """The response with its error; of the codes that OpenAI's schema has, and our own code as its type."""
        code = "server_error" if fault.status >= 500 else "rate_limit_exceeded"
        failure = {"code": code, "message": str(fault), "param": fault.param, "type": fault.code or fault.kind}
        yield self._event("failed", response=self._body("failed", error=failure))

    def _body(self, status: str, outcome: Outcome | None = None, error: Any = None) -> dict[str, Any]:
        """The response as it stands."""
        usage = None
        if outcome is not None:
            given = outcome.usage
            usage = {
                "input_tokens": given["prompt_tokens"],
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens": given["completion_tokens"],
                "output_tokens_details": given["completion_tokens_details"],
                "total_tokens": given["total_tokens"],
            }
        asked, sampling = self.request, self.question.settings.sampling
        form = asked.text.format if asked.text is not None else None
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "completed_at": int(time.time()) if status == "completed" else None,
            "status": status,
            "background": False,
            "error": error,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "max_tool_calls": None,
            "model": self.service.name,
            "output": self.output,
            "parallel_tool_calls": asked.parallel_tool_calls is not False,
            "previous_response_id": None,
            "prompt_cache_key": asked.prompt_cache_key,
            "reasoning": {"effort": asked.reasoning.effort if asked.reasoning is not None else None, "summary": None},
            "safety_identifier": asked.safety_identifier,
            "store": False,
            "temperature": sampling.temperature,
            "text": {"format": form.told if form is not None else {"type": "text"}, "verbosity": "medium"},
            "tool_choice": asked.tool_choice or "auto",
            "tools": [tool.model_dump() for tool in asked.tools or ()],
            "top_logprobs": 0,
            "top_p": sampling.top_p,
            "truncation": "disabled",
            "usage": usage,
            "user": asked.user,
            "metadata": asked.metadata or {},
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

    def _open(self, delta: Delta, before: str = "completed") -> Iterator[bytes]:
        """An item begins, behind the one `before`, whose status that is."""
        yield from self._close(before)
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

    def _close(self, status: str) -> Iterator[bytes]:
        """The item has its status, where there is one."""
        if not self._kind:
            return
        item, text = self.output[-1], self._text
        if item["type"] == "function_call":
            yield self._event("function_call_arguments.done", **self._where(), arguments=text, name=item["name"])
            item = {**item, "status": status, "arguments": text}
        else:
            kind = "reasoning_text" if item["type"] == "reasoning" else "output_text"
            extra: dict[str, Any] = {"logprobs": []} if kind == "output_text" else {}
            yield self._event(f"{kind}.done", **self._where(), text=text, **extra)
            yield self._event("content_part.done", **self._where(), part=_part(item, text))
            item = {**item, "status": status, "content": [_part(item, text)]}
        self.output[-1] = item
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
