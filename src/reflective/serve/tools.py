"""Functions that a model may call: what is offered, and the calls in what it writes.

Calls are read in the form that most chat templates ask for: `<tool_call>{"name": …, "arguments": {…}}</tool_call>`; an
answer that is nothing but such an object is a call, too.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reflective.engines.base import Engine
from reflective.serve.faults import Fault
from reflective.serve.schemas import ChatRequest

OPENING = "<tool_call>"
BARE = ("{", "```")  # how a call without its marks may begin
_CALL = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Call:
    """A call: the function's name, and its arguments as JSON text."""

    name: str
    arguments: str

    def to_json(self) -> dict[str, Any]:
        """OpenAI's object, with an id of its own."""
        return {
            "id": f"call_{secrets.token_hex(12)}",
            "type": "function",
            "function": {"name": self.name, "arguments": self.arguments},
        }


def checked_tools(request: ChatRequest, engine: Engine) -> list[dict[str, Any]]:
    """The tools that the prompt is to offer. Raises `Fault` for what can't be heeded."""
    choice = request.tool_choice
    if choice not in (None, "auto", "none"):
        raise Fault(
            400,
            f"tool_choice {choice!r:.80} can't be enforced here; it may be 'auto' or 'none'.",
            param="tool_choice",
            code="unsupported_parameter",
        )
    if not request.tools or choice == "none":
        return []
    if "tools" not in str(getattr(engine.tokenizer, "chat_template", "") or ""):
        raise Fault(
            400,
            f"the chat template of {engine.name!r} renders no tools.",
            param="tools",
            code="unsupported_parameter",
        )
    return [tool.model_dump(exclude_none=True) for tool in request.tools]


def split_calls(text: str, names: Sequence[str]) -> tuple[str, list[Call]]:
    """The text without its calls, and the calls of functions that were offered. What is none stays text."""
    calls: list[Call] = []

    def take(match: re.Match[str]) -> str:
        call = _read(match[1])
        if call is None or call.name not in names:
            return match[0]
        calls.append(call)
        return ""

    rest = _CALL.sub(take, text).strip()
    if not calls and rest.startswith(BARE):  # small models leave the marks out
        call = _read(_fenced(rest))
        if call is not None and call.name in names:
            return "", [call]
    return rest, calls


def _fenced(text: str) -> str:
    """What is in a code fence, where all is in one."""
    inner = re.fullmatch(r"```(?:json)?\s*(.*?)\s*```", text, re.DOTALL)
    return inner[1] if inner else text


def _read(text: str) -> Call | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", {})
    written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return Call(value["name"], written)


def canonical(calls: Sequence[Call]) -> str:
    """What a vote compares: the same calls in the same order have the same text."""
    return json.dumps([[call.name, _value(call.arguments)] for call in calls], sort_keys=True)


def _value(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
