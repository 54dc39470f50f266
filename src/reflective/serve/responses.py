"""/v1/responses, stateless: the same questions and outcomes as chat completions, in the other API's objects.

The order of a stream's events is OpenAI's: created, in_progress; then for each item of the output (the reasoning, the
message, calls) added, its parts, done; then completed, incomplete or failed. With `"reflective": {"events": true}` what
happens meanwhile comes in further `response.in_progress` events, as their member `reflective`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import to_json

from reflective.serve.answers import Answer
from reflective.serve.chat import KEEP_ALIVE
from reflective.serve.fields import RESPONSES, sift
from reflective.serve.keys import Key
from reflective.serve.prompts import Question
from reflective.serve.schemas import (
    MAX_MESSAGES,
    MAX_TOOLS,
    ChatRequest,
    FunctionTool,
    JsonSchema,
    Message,
    ResponseFormat,
    Sampled,
    Text,
    Tokens,
    Tool,
    ToolCall,
)
from reflective.serve.service import Service
from reflective.serve.writing import Delta, Outcome, Told, write

NAMES = {  # of chat's fields, where they have others here
    "messages": "input",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "max_completion_tokens": "max_output_tokens",
}


class Loose(BaseModel):
    """Further fields are passed over."""

    model_config = ConfigDict(extra="ignore")


class InputItem(Loose):
    """An item of the input: a message, a call, its output, or reasoning, which is left out."""

    type: Literal["message", "function_call", "function_call_output", "reasoning"] = "message"
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: str | list[Text] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[Text] | None = None


class Reasoning(Loose):
    """How much of it."""

    effort: str | int | None = None


class TextFormat(Loose):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str = "answer"
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")


class TextOptions(Loose):
    """Of the answer's text."""

    format: TextFormat | None = None


class FlatTool(FunctionTool):
    """A function, as this API writes it."""

    type: Literal["function"]


class ResponsesRequest(Sampled):
    """The body of /v1/responses. What becomes of a field: `fields.RESPONSES`."""

    input: str | Annotated[list[InputItem], Field(min_length=1, max_length=MAX_MESSAGES)]
    instructions: str | None = None
    reasoning: Reasoning | None = None
    max_output_tokens: Tokens | None = None
    text: TextOptions | None = None
    tools: Annotated[list[FlatTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: str | dict[str, Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def _sift(cls, body: Any) -> Any:
        return sift(body, RESPONSES)

    def as_chat(self) -> ChatRequest:
        """The same as a request for a chat completion."""
        messages = [Message(role="system", content=self.instructions)] if self.instructions else []
        if isinstance(self.input, str):
            messages.append(Message(role="user", content=self.input))
        else:
            messages += [message for item in self.input for message in _messages(item)]
        form = self.text.format if self.text is not None else None
        schema = JsonSchema(name=form.name, schema=form.schema_) if form is not None and form.schema_ else None
        tools = [Tool(type="function", function=FunctionTool(**_function(tool))) for tool in self.tools or ()]
        return ChatRequest.model_construct(
            **{name: getattr(self, name) for name in Sampled.model_fields},
            messages=messages,
            reasoning_effort=self.reasoning.effort if self.reasoning is not None else None,
            max_completion_tokens=self.max_output_tokens,
            response_format=ResponseFormat(type=form.type, json_schema=schema) if form is not None else None,
            tools=tools or None,
            tool_choice=self.tool_choice,
        )


def _function(tool: FlatTool) -> dict[str, Any]:
    return tool.model_dump(exclude={"type"})


def _messages(item: InputItem) -> Iterator[Message]:
    match item.type:
        case "message":
            yield Message(role=item.role or "user", content=item.content)
        case "function_call":
            call = {"id": item.call_id or "", "function": {"name": item.name or "", "arguments": item.arguments or ""}}
            yield Message(role="assistant", tool_calls=[ToolCall.model_validate(call)])
        case "function_call_output":
            yield Message(role="tool", content=item.output or "", tool_call_id=item.call_id)


def renamed(param: str | None) -> str | None:
    """The name of a field of chat completions in this API."""
    head, sep, rest = (param or "").partition(".") if "[" not in (param or "") else (param or "").partition("[")
    return NAMES.get(head, head) + sep + rest or None


@dataclass(slots=True)
class Builder:
    """The response object, and the events that make it grow."""

    service: Service
    request: ResponsesRequest
    id: str = field(default_factory=lambda: f"resp_{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))
    output: list[dict[str, Any]] = field(default_factory=list)
    _number: int = 0

    def body(self, status: str, outcome: Outcome | None = None, error: Any = None) -> dict[str, Any]:
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

    def event(self, kind: str, **members: Any) -> bytes:
        """A server-sent event, numbered."""
        value = {"type": f"response.{kind}", "sequence_number": self._number, **members}
        self._number += 1
        return b"event: response." + kind.encode() + b"\ndata: " + to_json(value, inf_nan_mode="null") + b"\n\n"

    def finished(self, outcome: Outcome) -> str:
        """Completed, or cut."""
        return "incomplete" if outcome.answers[0].finish_reason == "length" else "completed"

    # ---- items

    def fill(self, answer: Answer) -> None:
        """The output of a request without a stream."""
        for delta in _parts(answer):
            item = self._item(delta)
            self.output.append(self._complete(item, delta.text))

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

    def open(self, delta: Delta) -> Iterator[bytes]:
        """An item begins."""
        item = self._item(delta)
        self.output.append(item)
        yield self.event("output_item.added", output_index=len(self.output) - 1, item=item)
        if item["type"] != "function_call":
            yield self.event("content_part.added", **self._where(), part=_part(item, ""))

    def more(self, text: str) -> bytes:
        """More text of the item."""
        item = self.output[-1]
        kind = {"reasoning": "reasoning_text", "function_call": "function_call_arguments"}.get(
            item["type"], "output_text"
        )
        extra: dict[str, Any] = {"logprobs": []} if kind == "output_text" else {}
        return self.event(f"{kind}.delta", **self._where(), delta=text, **extra)

    def close(self, text: str) -> Iterator[bytes]:
        """The item is complete, with this text."""
        item = self.output[-1]
        if item["type"] == "function_call":
            yield self.event("function_call_arguments.done", **self._where(), arguments=text, name=item["name"])
        else:
            kind = "reasoning_text" if item["type"] == "reasoning" else "output_text"
            extra: dict[str, Any] = {"logprobs": []} if kind == "output_text" else {}
            yield self.event(f"{kind}.done", **self._where(), text=text, **extra)
            yield self.event("content_part.done", **self._where(), part=_part(item, text))
        self.output[-1] = item = self._complete(item, text)
        yield self.event("output_item.done", output_index=len(self.output) - 1, item=item)

    def _where(self) -> dict[str, Any]:
        item = self.output[-1]
        where = {"item_id": item["id"], "output_index": len(self.output) - 1}
        return where if item["type"] == "function_call" else {**where, "content_index": 0}


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


async def stream(
    builder: Builder, question: Question, client: str, log: dict[str, Any], key: Key | None
) -> AsyncGenerator[bytes]:
    """The events of a streaming request. An error becomes the last of them."""
    service = builder.service
    yield builder.event("created", response=builder.body("in_progress"))
    yield builder.event("in_progress", response=builder.body("in_progress"))
    kind, text = "", ""
    try:
        async with aclosing(write(service, question, client, deltas=True)) as items:
            async for item in items:
                match item:
                    case None:
                        yield KEEP_ALIVE
                    case Told(value) if question.options.events:
                        yield builder.event("in_progress", response=builder.body("in_progress"), reflective=value)
                    case Delta():
                        if item.kind == "reasoning" and not service.settings.reasoning_fields:
                            continue
                        if item.kind != kind or item.call is not None:
                            for event in builder.close(text) if kind else ():
                                yield event
                            kind, text = item.kind, ""
                            for event in builder.open(item):
                                yield event
                        more = item.call.arguments if item.call is not None else item.text
                        text += more
                        yield builder.more(more)
                    case Outcome():
                        if kind in ("", "reasoning") and not item.answers[0].calls:  # an empty answer is a message
                            for event in builder.close(text) if kind else ():
                                yield event
                            kind, text = "content", ""
                            for event in builder.open(Delta(0, "content")):
                                yield event
                        for event in builder.close(text):
                            yield event
                        service.answered(builder.id, question, item, log, key, client)
                        status = builder.finished(item)
                        yield builder.event(status, response=builder.body(status, item))
    except Exception as error:
        fault = service.failed(error, log)
        failure = {"code": fault.code or fault.kind, "message": str(fault)}
        yield builder.event("failed", response=builder.body("failed", error=failure))
