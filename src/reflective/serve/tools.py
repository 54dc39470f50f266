"""Functions that a model may call: what is offered, and the calls in what it writes.

Calls are read in the form that most chat templates ask for: `<tool_call>{"name": …, "arguments": {…}}</tool_call>`; an
answer that is nothing but such an object, or a list of them, is calls, too. Where a call must come (`tool_choice`), the
answer is held to that form.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reflective.engines.base import Engine
from reflective.serve.faults import Fault
from reflective.serve.schemas import ChatRequest

OPENING = "<tool_call>"
_CALL = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
FENCE = "```"
BARE = ("{", "[", FENCE)  # how calls without their marks may begin


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
    """The tools that the prompt is to offer: of a named function, that one alone. Raises `Fault`."""
    choice = request.tool_choice
    named = _named(choice)
    if named is None and choice not in (None, "auto", "none", "required"):
        raise Fault(
            400,
            f"tool_choice is {choice!r:.80}; it may be 'auto', 'none', 'required' or a function.",
            param="tool_choice",
            code="invalid_value",
        )
    tools = [tool for tool in request.tools or () if named in (None, tool.function.name)]
    if must_call(request) and not tools:
        what = "no function" if named is None else f"no function '{named:.80}'"
        what = f"tool_choice asks for a call, but tools has {what}."
        raise Fault(400, what, param="tool_choice", code="invalid_value")
    if not tools or choice == "none":
        return []
    if "tools" not in str(getattr(engine.tokenizer, "chat_template", "") or ""):
        raise Fault(
            400,
            f"the chat template of {engine.name!r} renders no tools.",
            param="tools",
            code="unsupported_parameter",
        )
    return [tool.model_dump(exclude_none=True) for tool in tools]


def must_call(request: ChatRequest) -> bool:
    """Whether the answer must be calls."""
    return request.tool_choice == "required" or _named(request.tool_choice) is not None


def _named(choice: str | dict[str, Any] | None) -> str | None:
    """The function that must be called, in the form of either API."""
    if not isinstance(choice, dict) or choice.get("type") != "function":
        return None
    name = (choice["function"] if isinstance(choice.get("function"), dict) else choice).get("name")
    return name if isinstance(name, str) else None


def calls_schema(tools: Sequence[Mapping[str, Any]], *, several: bool) -> dict[str, Any]:
    """The JSON schema of a call of one of the functions, or with `several` of a list of calls."""
    definitions: dict[str, Any] = {}
    options = []
    for tool in tools:
        function, place = tool["function"], str(len(definitions))
        # a schema's own references begin at its root, which is here now
        definitions[place] = _moved(function.get("parameters") or {"type": "object"}, f"#/$defs/{place}")
        properties = {"name": {"const": function["name"]}, "arguments": {"$ref": f"#/$defs/{place}"}}
        options.append(
            {
                "type": "object",
                "properties": properties,
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    call = {"anyOf": options}
    return {**({"type": "array", "items": call, "minItems": 1} if several else call), "$defs": definitions}


def _moved(schema: Any, place: str) -> Any:
    """A schema that stands at `place` of another one."""
    if isinstance(schema, list):
        return [_moved(part, place) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: _moved(part, place) for name, part in schema.items()}
    if isinstance(reference := schema.get("$ref"), str) and reference.startswith("#"):
        found["$ref"] = place + reference[1:]
    return found


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
        bare = _read_all(_fenced(rest))
        if bare and all(call is not None and call.name in names for call in bare):
            return "", [call for call in bare if call is not None]
    return rest, calls


def _fenced(text: str) -> str:
    """What is in a code fence, where all is in one."""
    if len(text) < 2 * len(FENCE) or not (text.startswith(FENCE) and text.endswith(FENCE)):
        return text
    return text[len(FENCE) : -len(FENCE)].removeprefix("json")


def _read(text: str) -> Call | None:
    found = _read_all(text)
    return found[0] if len(found) == 1 else None


def _read_all(text: str) -> list[Call | None]:
    """What an object or a list of them stands for; None for one that is no call."""
    try:
        value = json.loads(text.strip())
    except (ValueError, RecursionError):
        return []
    return [_call(one) for one in (value if isinstance(value, list) else [value])]


def _call(value: Any) -> Call | None:
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
