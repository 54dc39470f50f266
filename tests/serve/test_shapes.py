"""Every object of a response is one of the official SDK's, with nothing missing and nothing of another type."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

import pytest
from openai.types import Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from reflective import Reflective, Scripted
from serve.conftest import MESSAGES, PROBLEM, Chatting, serving

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
SCHEMA = {"type": "object", "properties": {"x": {"type": "boolean"}}, "required": ["x"], "additionalProperties": False}
CALL = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'


def ask(running: Any, path: str, body: Any = None) -> Any:
    """The object of a response, or those of its stream."""
    raw = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(f"{running.url}/v1/{path}", raw, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as got:
        text = got.read().decode()
    if not (body or {}).get("stream"):
        return json.loads(text)
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


@pytest.fixture(scope="module")
def calling():
    script = [Scripted(f"Hm.\n\n</think>Wait. {CALL}{CALL}", logits=[1.0])]
    with Reflective(Chatting(script)) as model, serving(model) as running:
        yield running


@pytest.mark.parametrize(
    "change", [{}, {"n": 2}, {"max_tokens": 9}, {"response_format": {"type": "json_object"}}], ids=str
)
def test_chat_completions(nano_server, change):
    asked = {"model": "nano", "messages": MESSAGES, "reasoning_effort": "none", "seed": 1, **change}
    whole = ChatCompletion.model_validate(ask(nano_server, "chat/completions", asked))
    assert "refusal" in whole.choices[0].message.model_fields_set  # OpenAI's schema requires it
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = ask(nano_server, "chat/completions", {**asked, **options})
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk)
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1) and chunks[-1]["usage"]
    for index in range(asked.get("n", 1)):
        deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
        assert [delta.get("role") for delta in deltas] == ["assistant"] + [None] * (len(deltas) - 1)
    assert all("usage" not in chunk for chunk in ask(nano_server, "chat/completions", {**asked, "stream": True}))


FORM = {"type": "json_schema", "name": "x", "schema": SCHEMA}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"text": {"format": FORM}},
        {"text": {"format": {"type": "json_object"}}},
        {"max_output_tokens": 9},
        {"reflective": {"events": True, "steps": True}},
        {"metadata": {"a": "b"}, "user": "me", "prompt_cache_key": "k", "safety_identifier": "s", "temperature": 0.5},
    ],
    ids=str,
)
def test_responses(nano_server, change):
    asked = {"model": "nano", "input": PROBLEM, "reasoning": {"effort": "none"}, **change}
    whole = Response.model_validate(ask(nano_server, "responses", asked))
    events = ask(nano_server, "responses", {**asked, "stream": True})
    for event in events:
        EVENT.validate_python(event)
    assert [item["type"] for item in events[-1]["response"]["output"]] == [item.type for item in whole.output]
    for name in ("metadata", "user", "prompt_cache_key", "safety_identifier", "temperature"):
        assert name not in change or getattr(whole, name) == change[name]
    if "text" in change:
        assert change["text"]["format"].items() <= whole.to_dict()["text"]["format"].items()
    cut = "max_output_tokens" in change
    for got in (whole.to_dict(), events[-1]["response"]):
        assert {item["status"] for item in got["output"]} == {got["status"]} == {"incomplete" if cut else "completed"}
        assert bool(got.get("completed_at")) is not cut


def test_calls(calling):
    function = {"name": "f", "parameters": {"type": "object"}}
    asked = {"model": "scripted", "messages": MESSAGES, "tools": [{"type": "function", "function": function}]}
    ChatCompletion.model_validate(ask(calling, "chat/completions", asked))
    for chunk in ask(calling, "chat/completions", {**asked, "stream": True}):
        ChatCompletionChunk.model_validate(chunk)
    asked = {"model": "scripted", "input": PROBLEM, "tools": [{"type": "function", **function}]}
    whole = Response.model_validate(ask(calling, "responses", asked))
    assert [item.type for item in whole.output] == ["reasoning", "message", "function_call", "function_call"]
    assert whole.output[2].arguments == '{"a": 1}' and whole.tools[0].parameters == {"type": "object"}
    for event in ask(calling, "responses", {**asked, "stream": True}):
        EVENT.validate_python(event)


def test_a_stream_that_fails(nano_server, monkeypatch):
    def broken(*_: Any) -> Any:
        raise RuntimeError("broken")

    monkeypatch.setattr("reflective.serve.writing.answers_of", broken)
    events = ask(nano_server, "responses", {"model": "nano", "input": PROBLEM, "stream": True})
    for event in events:
        EVENT.validate_python(event)
    error = events[-1]["response"]["error"]
    assert (events[-1]["type"], error["code"], error["type"]) == ("response.failed", "server_error", "internal_error")


def test_models(nano_server):
    (model,) = ask(nano_server, "models")["data"]
    assert Model.model_validate(model).id == "nano" and ask(nano_server, "models/nano") == model
