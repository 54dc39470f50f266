"""The table of fields is the whole truth: the code, the docs and what the server does say the same."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from openai.types.chat import ChatCompletionStreamOptionsParam, completion_create_params
from openai.types.responses import ResponseTextConfigParam, response_create_params
from openai.types.shared_params import Reasoning

from reflective.serve.fields import CHAT, REASONING, RESPONSES, STREAM_OPTIONS, TEXT, table
from reflective.serve.schemas import ChatRequest
from serve.conftest import MESSAGES

DOCS = Path(__file__).parents[2] / "docs" / "serving.md"
ASKED = {"model": "nano", "messages": MESSAGES, "reasoning_effort": "none", "max_tokens": 8}


def post(url: str, body: Any) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as got:
            return got.status, json.load(got)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.parametrize("rules", [CHAT, RESPONSES], ids=["chat", "responses"])
def test_the_docs_have_the_table_of_the_code(rules):
    assert table(rules) in DOCS.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("rules", "params"),
    [
        (CHAT, completion_create_params.CompletionCreateParamsBase),
        (RESPONSES, response_create_params.ResponseCreateParamsBase),
        (STREAM_OPTIONS, ChatCompletionStreamOptionsParam),
        (REASONING, Reasoning),
        (TEXT, ResponseTextConfigParam),
    ],
    ids=["chat", "responses", "stream_options", "reasoning", "text"],
)
def test_every_field_that_the_official_sdk_sends_has_a_rule(rules, params):
    assert set(get_type_hints(params)) <= set(rules)


def test_the_schema_has_exactly_the_honoured_fields():
    assert set(ChatRequest.model_fields) == {name for name, rule in CHAT.items() if rule.treatment == "honoured"}


@pytest.mark.parametrize("name", [name for name, rule in CHAT.items() if rule.treatment == "refused"])
def test_a_refused_field_is_an_error_with_its_name_unless_it_says_nothing(nano_server, name):
    status, got = post(f"{nano_server.url}/v1/chat/completions", {**ASKED, name: {"some": "thing"}})
    assert (status, got["error"]["param"], got["error"]["code"]) == (400, name, "unsupported_parameter")
    neutral = dict.fromkeys([name], next(iter(CHAT[name].neutral), None))
    assert post(f"{nano_server.url}/v1/chat/completions", {**ASKED, **neutral})[0] == 200


@pytest.mark.parametrize(
    ("path", "change", "param"),
    [
        ("chat/completions", {"messages": [{**MESSAGES[0], "function_call": {}}]}, "messages[].function_call"),
        ("chat/completions", {"messages": [{**MESSAGES[0], "audio": {"id": "a"}}]}, "messages[].audio"),
        ("chat/completions", {"stream_options": {"nonsense": 1}}, "stream_options.nonsense"),
        ("responses", {"text": {"verbosity": "low"}}, "text.verbosity"),
        ("responses", {"text": {"nonsense": 1}}, "text.nonsense"),
        ("responses", {"reasoning": {"mode": "pro"}}, "reasoning.mode"),
        ("responses", {"reasoning": {"context": "all_turns"}}, "reasoning.context"),
    ],
    ids=str,
)
def test_so_is_one_within_another(nano_server, path, change, param):
    asked = ASKED if path != "responses" else {"model": "nano", "input": "x"}
    status, got = post(f"{nano_server.url}/v1/{path}", {**asked, **change})
    assert (status, got["error"]["param"]) == (400, param)


def test_what_says_nothing_within_another_is_passed_over(nano_server):
    message = {**MESSAGES[0], "function_call": None, "audio": None, "refusal": None, "annotations": []}
    assert post(f"{nano_server.url}/v1/chat/completions", {**ASKED, "messages": [message]})[0] == 200
    text, reasoning = {"verbosity": "medium"}, {"effort": "none", "summary": "auto", "context": "auto"}
    asked = {"model": "nano", "input": "x", "max_output_tokens": 8, "text": text, "reasoning": reasoning}
    assert post(f"{nano_server.url}/v1/responses", asked)[0] == 200


def test_ignored_fields_change_nothing(nano_server):
    asked = {**ASKED, "seed": 3}
    ignored = {name: {"any": ["thing"]} for name, rule in CHAT.items() if rule.treatment == "ignored"}
    one, other = (post(f"{nano_server.url}/v1/chat/completions", body)[1] for body in (asked, asked | ignored))
    assert one["choices"] == other["choices"] and one["usage"] == other["usage"]


def test_null_is_as_good_as_nothing(nano_server):
    nothing = {name: None for name in CHAT if name not in ASKED}
    assert post(f"{nano_server.url}/v1/chat/completions", ASKED | nothing)[0] == 200
