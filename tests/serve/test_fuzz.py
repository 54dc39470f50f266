"""Whatever a client sends, it gets an answer or OpenAI's error object, and the server is free again afterwards.

The app runs in this process, without sockets. Bodies are made from what a client may send, with other things in some
places; then from anything that is JSON, and from bytes that are none. Nothing here asks for more than the engine can
do, so that a status of 500 or more is a fault of ours.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import reflective
from reflective import Reflective, Scripted, ScriptedEngine
from reflective.serve.app import make_app
from reflective.serve.fields import CHAT, RESPONSES
from reflective.serve.service import ServeSettings
from tiny import tiny_tokenizer

PATHS = ("/v1/chat/completions", "/v1/responses", "/v1/score", "/v1/render", "/v1/feedback")
CALL = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
PACKAGE = os.path.dirname(reflective.__file__)  # in no message; a path that was asked for may be


class Anything(ScriptedEngine):
    """A scripted engine that takes every kind of request; what it writes keeps to no form."""

    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ messages }}{{ tools }}"
    constrains = reads = True
    end_ids = frozenset({0})

    def encode_messages(self, messages, tools=None):
        text = self.tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)
        return self.encode_prompt(text[:200])

    def score_many(self, prompt_ids, responses):
        return [()] * len(responses)


class App:
    """The app in a loop of its own; `send` is one request."""

    def __init__(self, app: Any) -> None:
        self.app, self.loop = app, asyncio.new_event_loop()
        self._life = app.router.lifespan_context(app)
        self.loop.run_until_complete(self._life.__aenter__())

    def close(self) -> None:
        self.loop.run_until_complete(self._life.__aexit__(None, None, None))
        self.loop.close()

    def send(self, path: str, body: bytes, *, method: str) -> tuple[int, bytes]:
        return self.loop.run_until_complete(asyncio.wait_for(self._send(path, body, method), 20))

    async def _send(self, path: str, body: bytes, method: str) -> tuple[int, bytes]:
        sent, told = [], [{"type": "http.request", "body": body, "more_body": False}]
        over = asyncio.Event()

        async def receive() -> Any:
            if told:
                return told.pop()
            await over.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode("utf-8", "surrogateescape"),
            "query_string": b"",
            "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000),
        }
        await self.app(scope, receive, send)
        return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])

    async def _idle(self) -> None:
        service = self.app.state.service
        admission, ledger = service.admission, service._driver.ledger
        while admission.inside or admission.waiting or admission.rows or service.running or ledger.busy:
            await asyncio.sleep(0.001)

    def check_idle(self) -> None:
        self.loop.run_until_complete(asyncio.wait_for(self._idle(), 2))


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    texts = ("A.\n\nB.\n\n</think>\\boxed{1}", f"A.\n\n</think>{CALL}", "C")
    kept = str(tmp_path_factory.mktemp("feedback") / "kept.sqlite")
    options = ServeSettings(max_effort=4, effort=2, max_body=100_000, feedback=kept)
    with Reflective(Anything([Scripted(text, logits=[1, 2]) for text in texts])) as model:
        app = App(make_app(model, options))
        yield app
        app.close()


def check(app: App, path: str, body: bytes, method: str = "POST") -> None:
    """The answer is one, or an error that says what is wrong; nothing is left of the request."""
    status, got = app.send(path, body, method=method)
    assert status < 500, (status, got[:300])
    app.check_idle()
    for line in got.splitlines() if got.startswith((b"data:", b"event:")) else ():
        if line.startswith(b"data: {"):
            event = json.loads(line[6:])
            error = event.get("error") or (event.get("response") or {}).get("error")
            assert not error or not {error["code"], error["type"]} & {"internal_error", "engine_error"}, error
    if status >= 400:
        error = json.loads(got)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"] and error["type"].endswith("_error")
        assert "Traceback" not in error["message"] and PACKAGE not in error["message"]


def mostly(usual: Any, seldom: Any) -> Any:
    """The first of two strategies, and once in thirty times the other."""
    return st.integers(0, 29).flatmap(lambda n: seldom if n == 17 else usual)


texts = mostly(
    st.text(st.characters(codec="utf-8"), max_size=8), st.text(st.characters(), max_size=8)
)  # lone surrogates
numbers = st.integers() | st.floats() | st.sampled_from([0, 1, 2, 2**31, 2**63, -(2**63), 10**40])
scalars = st.none() | st.booleans() | numbers | texts
anything = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))
name = st.sampled_from(["f", "g", ""]) | texts


def objects(needed: dict[str, Any] | None = None, **fields: Any) -> Any:
    """Objects of what is needed and of some of these fields, most of them as they should be."""
    optional = {name: mostly(made, anything) for name, made in fields.items()}
    return st.fixed_dictionaries(
        {name: mostly(made, anything) for name, made in (needed or {}).items()}, optional=optional
    )


kinds = st.sampled_from(["text", "text", "input_text", "image_url"])
parts = st.lists(objects({"type": kinds, "text": texts}), max_size=2)
content = texts | st.just("What is 2 + 2?") | parts
called = objects({"name": name, "arguments": st.just("{}") | texts})
call = objects({"function": called}, id=texts, type=st.just("function"))
roles = st.sampled_from(["user", "user", "user", "assistant", "system", "developer", "tool"])
more = {"tool_calls": st.lists(call, max_size=2), "tool_call_id": texts, "name": texts}
message = objects({"role": roles, "content": content}, **more)
asked = {"role": "user", "content": "What is 2 + 2?"}
messages = st.lists(message, max_size=2).map(lambda before: [*before, asked]) | st.lists(message, max_size=3)
schema = st.recursive(
    st.sampled_from([{}, {"type": "string"}, {"enum": [1, "a"]}, {"$ref": "#"}, {"pattern": "a+"}]),
    lambda inner: objects(
        type=st.sampled_from(["object", "array", "string"]),
        properties=st.dictionaries(texts, inner, max_size=2),
        items=inner,
        anyOf=st.lists(inner, max_size=2),
        required=st.lists(texts, max_size=2),
    ),
    max_leaves=4,
)
function = objects({"name": st.sampled_from(["f", "g"])}, description=texts, parameters=schema, strict=st.booleans())
forms = st.sampled_from(["text", "json_object", "json_schema"])
form = objects({"type": forms}, json_schema=objects({"schema": schema}, name=texts))
effort = st.sampled_from(["none", "low", "minimal", "1", 1, 2, 4, 5])
extra = objects(
    effort=effort,
    strategy=st.sampled_from(["auto", "best_of_n", "majority", "weighted", "single", "beam", "mcts", "deepconf"]),
    strategy_options=st.just({}),
    answers=st.sampled_from(["selected", "all"]),
    events=st.booleans(),
    steps=st.booleans(),
)
common: dict[str, Any] = {
    "stream": st.booleans(),
    "temperature": st.floats(0, 2),
    "top_p": st.floats(0, 1),
    "reflective": extra,
    "parallel_tool_calls": st.booleans(),
}
chat = objects(
    **common,
    stream_options=objects(include_usage=st.booleans()),
    reasoning_effort=effort,
    max_completion_tokens=st.integers(1, 20),
    max_tokens=st.integers(1, 20),
    top_k=st.integers(-1, 9),
    min_p=st.floats(0, 1),
    repetition_penalty=st.floats(0.1, 2),
    seed=st.integers(0, 9),
    stop=texts | st.lists(texts, max_size=2),
    n=st.integers(1, 5),
    response_format=form,
    tools=st.lists(objects({"type": st.just("function"), "function": function}), min_size=1, max_size=2),
    tool_choice=st.sampled_from(["auto", "auto", "none", "required", {"type": "function", "function": {"name": "f"}}]),
)
responses = objects(
    **common,
    instructions=texts,
    reasoning=objects(effort=effort),
    max_output_tokens=st.integers(1, 20),
    text=objects(format=objects({"type": forms}, name=texts, schema=schema)),
    tools=st.lists(objects({"type": st.just("function"), "name": st.sampled_from(["f", "g"])}, parameters=schema)),
    tool_choice=st.sampled_from(["auto", "auto", "none", "required", {"type": "function", "name": "f"}]),
)
items = st.lists(
    objects(
        type=st.sampled_from(["message", "function_call", "function_call_output", "reasoning"]),
        role=roles,
        content=content,
        call_id=texts,
        name=name,
        arguments=texts,
        output=content,
    ),
    max_size=3,
)
item = {"messages": messages, "response": texts}
score = objects(item) | objects({"items": st.lists(objects(item), max_size=2)}) | objects(**item)
model = mostly(st.just("scripted"), st.sampled_from(["other", None]))


def bodies(base: Any, known: Any, **needed: Any) -> Any:
    """Bodies with the needed fields, some others, and now and then one that is known or not and holds anything."""
    stray = st.dictionaries(st.sampled_from(sorted(known)) | texts, anything, max_size=1)
    whole = st.tuples(base, st.fixed_dictionaries({"model": model, **needed}), mostly(st.just({}), stray))
    return whole.map(lambda made: made[0] | made[1] | made[2])


def written(body: Any) -> bytes:
    return json.dumps(body).encode()


FEW = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
ASKED = {"model": "scripted", "messages": [{"role": "user", "content": "Hi"}]}
CALLED = [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[" * 900}}]}]
DEEP: Any = {}
for _ in range(90):  # what a body may hold at most
    DEEP = {"properties": {"a": DEEP}}


@FEW
@given(bodies(chat, CHAT, messages=messages))
@example({**ASKED, "\ud800": 1})
@example({**ASKED, "metadata": {"\ud800": "\udfff"}})
@example({**ASKED, "tool_choice": "\ud800"})
@example({**ASKED, "reflective": {"strategy": "\ud800"}})
@example({**ASKED, "tools": [{"type": "function", "function": {"name": "f", "parameters": {"\ud800": 1}}}]})
@example({**ASKED, "tools": [{"type": "function", "function": {"name": "f", "parameters": DEEP}}]})
@example({**ASKED, "response_format": {"type": "json_schema", "json_schema": {"schema": DEEP}}})
@example({**ASKED, "response_format": {"type": "json_schema", "json_schema": {"schema": {"enum": ["\ud800"]}}}})
@example({**ASKED, "messages": [*CALLED, *ASKED["messages"]]})
@example({**ASKED, "stop": ["\0"], "stream": True})
def test_chat_completions(app, body):
    check(app, "/v1/chat/completions", written(body))


@FEW
@given(bodies(responses, RESPONSES, input=st.just("Hi") | items.map(lambda before: [*before, asked]) | items | texts))
@example({"model": "scripted", "input": [{"type": "reasoning"}]})
def test_responses(app, body):
    check(app, "/v1/responses", written(body))


@FEW
@given(bodies(score, ("items", "response")))
def test_scores(app, body):
    check(app, "/v1/score", written(body))


@FEW
@given(st.sampled_from(PATHS), anything | st.binary(max_size=40), st.integers(0, 60))
@example("/v1/chat/completions", b'{"a":' * 20_000, 0)
@example("/v1/chat/completions", b"[" * 90_000, 0)
@example("/v1/score", b'{"model":"scripted","response":"' + b"a" * 99_000, 0)
@example("/v1/chat/completions", b'{"model":"scripted","messages":[{"role":"user","content":"\xff\xfe"}]}', 0)
@example("/v1/render", {"texts": ["$" * 3000, "\\frac{" * 3000, "\ud800"]}, 0)
@example("/v1/feedback", {"id": "\ud800", "score": 1}, 0)
@example("/v1/render", {"texts": ["x" * 90_000] * 2}, 0)
def test_what_is_no_body_of_ours(app, path, body, cut):
    raw = body if isinstance(body, bytes) else written(body)
    check(app, path, raw[:-cut] if cut else raw)


METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "BREW")
FOLDERS = ("/v1/models/", "/v1/feedback/", "/page/", "/v1/", "/")


@FEW
@given(st.sampled_from(METHODS), st.sampled_from(FOLDERS), st.text(st.characters(codec="utf-8"), max_size=20))
@example("GET", "/v1/feedback/", "\0\n")
@example("GET", "/page/", "../app.py")
def test_paths(app, method, folder, rest):
    check(app, folder + rest, b"", method=method)
