"""What a client may send to /v1/responses: the same questions as to chat completions, in the other API's fields."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from reflective.serve.fields import REASONING, RESPONSES, TEXT, sift
from reflective.serve.schemas import (
    MAX_MESSAGES,
    MAX_TOOLS,
    ChatRequest,
    FunctionTool,
    JsonSchema,
    Message,
    ResponseFormat,
    Sampled,
    Strict,
    Text,
    Tokens,
    Tool,
    ToolCall,
)

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


class Reasoning(Strict):
    """How much of it."""

    effort: str | int | None = None

    @model_validator(mode="before")
    @classmethod
    def _sift(cls, body: Any) -> Any:
        return sift(body, REASONING, "reasoning.")


class TextFormat(Loose):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str = "answer"
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")


class TextOptions(Strict):
    """Of the answer's text."""

    format: TextFormat | None = None

    @model_validator(mode="before")
    @classmethod
    def _sift(cls, body: Any) -> Any:
        return sift(body, TEXT, "text.")


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
        schema = None
        if form is not None and form.schema_ is not None:  # {} is one, too: any JSON
            schema = JsonSchema(name=form.name, schema=form.schema_)
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
    return NAMES.get(head, head) + sep + rest.removeprefix("json_schema.") or None
