"""What a client may send to /v1/chat/completions.

The request is read strictly: wrong types and unknown fields are refused, and `fields.py` says of every known field what
becomes of it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from reflective.serve.fields import CHAT, MESSAGE, STREAM_OPTIONS, sift

MAX_MESSAGES = 2048
MAX_STOPS = 16
MAX_STOP = 256  # characters: so many are looked at again with every token
MAX_CHOICES = 64
MAX_TOOLS = 128


class Strict(BaseModel):
    """Unknown fields, values of another type and numbers that are none are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Loose(BaseModel):
    """The same, but unknown fields are passed over."""

    model_config = ConfigDict(extra="ignore", strict=True)


class Text(Loose):
    """A content part; only text can be read."""

    type: str
    text: str | None = None


class Function(Loose):
    """The name of a function, and its arguments as JSON text."""

    name: str
    arguments: str = ""


class ToolCall(Loose):
    """A call that an earlier answer made."""

    id: str = ""
    type: Literal["function"] = "function"
    function: Function


class Message(Loose):
    """One turn of the conversation. Earlier reasoning is taken and left out of the prompt."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Text] | None = None
    name: str | None = None
    reasoning: Any = None
    reasoning_content: Any = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _sift(cls, body: Any) -> Any:
        return sift(body, MESSAGE, "messages[].")


class StreamOptions(Strict):
    """Of a streaming request."""

    include_usage: bool = False

    @model_validator(mode="before")
    @classmethod
    def _sift(cls, body: Any) -> Any:
        return sift(body, STREAM_OPTIONS, "stream_options.")


class ReflectiveOptions(Strict):
    """What OpenAI's API has no field for."""

    effort: int | str | None = Field(default=None, description="trajectories, or a name for them")
    strategy: str | None = Field(default=None, description="auto, best_of_n, majority, weighted, logprob, single, …")
    strategy_options: dict[str, Any] | None = Field(default=None, description="those of the named strategy")
    answers: Literal["selected", "all"] = Field(default="selected", description="best_of_n: whose answers are written")
    events: bool = Field(default=False, description="streaming: everything that happens, texts included")
    steps: bool = Field(default=False, description="every trajectory brings its steps, with texts")


class FunctionTool(Strict):
    """A function that the model may call."""

    name: Annotated[str, Field(min_length=1, max_length=128)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Strict):
    """A tool; functions alone."""

    type: Literal["function"]
    function: FunctionTool


class JsonSchema(Loose):
    """The schema of an answer."""

    model_config = ConfigDict(populate_by_name=True)
    name: str = "answer"
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")


class ResponseFormat(Loose):
    """The form of an answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP)]
Tokens = Annotated[int, Field(ge=1, le=2**31)]


class Sampled(Strict):
    """What the endpoints that write have in common."""

    model: str
    stream: bool | None = None
    reflective: ReflectiveOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    parallel_tool_calls: bool | None = None


class ChatRequest(Sampled):
    """The body of /v1/chat/completions. What becomes of a field: `fields.CHAT`."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    stream_options: StreamOptions | None = None
    reasoning_effort: str | int | None = None
    max_completion_tokens: Tokens | None = None
    max_tokens: Tokens | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, lt=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | Annotated[str, Field(max_length=0)] | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: str | dict[str, Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def _sift(cls, body: Any) -> Any:
        return sift(body, CHAT)
