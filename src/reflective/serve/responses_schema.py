"""What a client may send to /v1/responses: the same questions as to chat completions, in the other API's fields."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from reflective.serve.faults import Fault
from reflective.serve.fields import REASONING, RESPONSES, TEXT, sift
from reflective.serve.schemas import (
    MAX_MESSAGES,
    MAX_TOOLS,
    ChatRequest,
    Function,
    FunctionTool,
    JsonSchema,
    Loose,
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


NEEDED = {"message": ("role",), "function_call": ("call_id", "name"), "function_call_output": ("call_id", "output")}


class InputItem(Loose):
    """An item of the input: a message, a call, its output, or reasoning, which is left out."""

    type: Literal["message", "function_call", "function_call_output", "reasoning", "item_reference"] = "message"
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
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None

    @property
    def told(self) -> dict[str, Any]:
        """As the response has it."""
        return self.model_dump(by_alias=True) if self.type == "json_schema" else {"type": self.type}


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


Id = Annotated[str, Field(max_length=512)]
Metadata = Annotated[dict[Annotated[str, Field(max_length=64)], Id], Field(max_length=16)]  # OpenAI's limits


class ResponsesRequest(Sampled):
    """The body of /v1/responses. What becomes of a field: `fields.RESPONSES`."""

    input: str | Annotated[list[InputItem], Field(min_length=1, max_length=MAX_MESSAGES)]
    instructions: str | None = None
    reasoning: Reasoning | None = None
    max_output_tokens: Tokens | None = None
    text: TextOptions | None = None
    tools: Annotated[list[FlatTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    metadata: Metadata | None = None
    user: Id | None = None
    safety_identifier: Id | None = None
    prompt_cache_key: Id | None = None

    @model_validator(mode="before")
    @classmethod
    def _sift(cls, body: Any) -> Any:
        return sift(body, RESPONSES)

    def as_chat(self) -> ChatRequest:
        """The same as a request for a chat completion."""
        form = self.text.format if self.text is not None else None
        schema = None
        if form is not None and form.schema_ is not None:  # {} is one, too: any JSON
            schema = JsonSchema(name=form.name, schema=form.schema_)
        tools = [
            Tool(type="function", function=FunctionTool(**tool.model_dump(exclude={"type"})))
            for tool in self.tools or ()
        ]
        return ChatRequest.model_construct(
            **{name: getattr(self, name) for name in Sampled.model_fields},
            messages=[message for _, message in self._turns()],
            reasoning_effort=self.reasoning.effort if self.reasoning is not None else None,
            max_completion_tokens=self.max_output_tokens,
            response_format=ResponseFormat(type=form.type, json_schema=schema) if form is not None else None,
            tools=tools or None,
            tool_choice=self.tool_choice,
        )

    def renamed(self, param: str | None) -> str | None:
        """The name of a field of chat completions in this API."""
        if found := re.fullmatch(r"messages\[(\d+)\](.*)", param or ""):
            place = self._turns()[int(found[1])][0]
            return "instructions" if place is None else f"{place}{found[2]}"
        head, sep, rest = (param or "").partition(".")
        return NAMES.get(head, head) + sep + rest.removeprefix("json_schema.") or None

    def _turns(self) -> list[tuple[str | None, Message]]:
        """The messages, each with the name of the item that it comes from; the instructions have none. Raises `Fault`.

        What the assistant says and the calls behind it are one message.
        """
        turns: list[tuple[str | None, Message]] = []
        if self.instructions:
            turns.append((None, Message(role="system", content=self.instructions)))
        if isinstance(self.input, str):
            return [*turns, ("input", Message(role="user", content=self.input))]
        for i, item in enumerate(self.input):
            place = f"input[{i}]"
            if item.type == "item_reference":
                what = f"'{place}' refers to what the server does not keep: send it whole (in clients: store=false)."
                raise Fault(400, what, param=f"{place}.type", code="unsupported_parameter")
            for name in NEEDED.get(item.type, ()):
                if getattr(item, name) is None:
                    what = f"Missing required parameter: '{place}.{name}'."
                    raise Fault(400, what, param=f"{place}.{name}", code="missing_required_parameter")
            if item.type == "message":
                turns.append((place, Message(role=item.role or "user", content=item.content)))
            elif item.type == "function_call_output":
                turns.append((place, Message(role="tool", content=item.output, tool_call_id=item.call_id)))
            elif item.type == "function_call":
                if not turns or turns[-1][1].role != "assistant":
                    turns.append((place, Message(role="assistant", tool_calls=[])))
                function = Function(name=item.name or "", arguments=item.arguments or "")
                said = turns[-1][1]
                said.tool_calls = [*(said.tool_calls or ()), ToolCall(id=item.call_id or "", function=function)]
        return turns
