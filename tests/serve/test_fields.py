"""The table of fields is the whole truth: the code, the docs and what the server does say the same."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from openai.types.chat import completion_create_params
from openai.types.responses import response_create_params

from reflective.serve.fields import CHAT, RESPONSES, table
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
    ],
    ids=["chat", "responses"],
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


def test_ignored_fields_change_nothing(nano_server):
    asked = {**ASKED, "seed": 3}
    ignored = {name: {"any": ["thing"]} for name, rule in CHAT.items() if rule.treatment == "ignored"}
    one, other = (post(f"{nano_server.url}/v1/chat/completions", body)[1] for body in (asked, asked | ignored))
    assert one["choices"] == other["choices"] and one["usage"] == other["usage"]


def test_null_is_as_good_as_nothing(nano_server):
    nothing = {name: None for name in CHAT if name not in ASKED}
    assert post(f"{nano_server.url}/v1/chat/completions", ASKED | nothing)[0] == 200
