"""/v1/chat/completions over a real socket, as the official SDK reads it."""

from __future__ import annotations

import asyncio
import json

import openai
import pytest

from serve.conftest import MESSAGES, PROBLEM

LCM = {
    "type": "object",
    "properties": {"lcm": {"type": "integer"}},
    "required": ["lcm"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def client(nano_server):
    return openai.OpenAI(base_url=f"{nano_server.url}/v1", api_key="none", max_retries=0)


def asked(**more):
    return {"model": "nano", "messages": MESSAGES, "reasoning_effort": "low", "seed": 5, **more}


def test_an_answer_has_content_reasoning_and_exact_usage(client):
    got = client.chat.completions.create(**asked())
    (choice,) = got.choices
    assert choice.message.content == "\\boxed{140}"
    assert choice.finish_reason == "stop"
    assert choice.message.reasoning == choice.message.reasoning_content
    assert "<think>" not in choice.message.reasoning and "</think>" not in choice.message.reasoning
    fates = got.reflective["trajectories"]
    assert len(fates) == 2
    assert got.usage.completion_tokens == sum(fate["tokens"] for fate in fates)
    assert got.usage.total_tokens == got.usage.prompt_tokens + got.usage.completion_tokens
    answer_tokens = got.usage.completion_tokens - got.usage.completion_tokens_details.reasoning_tokens
    assert 0 < answer_tokens < 20


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"n": 2},
        {"n": 3, "max_tokens": 30},
        {"reflective": {"strategy": "majority", "events": True}},
        {"reflective": {"answers": "all"}},
        {"response_format": {"type": "json_object"}},
        {"reasoning_effort": "none"},
    ],
    ids=str,
)
def test_streamed_or_not_the_same_seed_gives_the_same(client, change):
    body = asked(**change)
    extra = {"extra_body": {"reflective": body.pop("reflective")}} if "reflective" in body else {}
    whole = client.chat.completions.create(**body, **extra)
    chunks = list(client.chat.completions.create(**body, **extra, stream=True, stream_options={"include_usage": True}))
    for choice in whole.choices:
        mine = [c for chunk in chunks for c in chunk.choices if c.index == choice.index]
        assert "".join(c.delta.content or "" for c in mine) == choice.message.content
        assert "".join(getattr(c.delta, "reasoning", None) or "" for c in mine) == choice.message.reasoning
        assert [c.finish_reason for c in mine if c.finish_reason] == [choice.finish_reason]
    assert chunks[-1].usage == whole.usage and not chunks[-1].choices


def test_the_sdk_passes_over_events(client):
    with client.chat.completions.stream(**asked(), extra_body={"reflective": {"events": True}}) as stream:
        chunks = [event.chunk for event in stream if event.type == "chunk"]
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "\\boxed{140}"
    told = [chunk.reflective for chunk in chunks if hasattr(chunk, "reflective")]
    assert {event["type"] for event in told} == {"started", "text", "step", "finished", "answering", "solved"}
    texts = "".join(event["delta"] for event in told if event["type"] == "text" and event["trajectory"] == 0)
    assert "<|im_end|>" not in texts
    scores = [event for event in told if event["type"] == "step" and event["trajectory"] == 0]
    product = 1.0
    for n, event in enumerate(scores, 1):
        product *= event["score"]
        assert event["index"] == n - 1 and event["running"] == pytest.approx(product ** (1 / n))


def test_async_clients_are_answered_together(nano_server):
    async def ask():
        async with openai.AsyncOpenAI(base_url=f"{nano_server.url}/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(client.chat.completions.create(**asked()) for _ in range(8)))

    got = asyncio.run(ask())
    assert {g.choices[0].message.content for g in got} == {"\\boxed{140}"}
    assert len({g.id for g in got}) == 8


def test_n_answers_come_best_first(client):
    got = client.chat.completions.create(**asked(n=3, reasoning_effort="medium"))
    assert len(got.choices) == 3
    fates = {fate["index"]: fate for fate in got.reflective["trajectories"]}
    answered = [fate for fate in fates.values() if fate["finish_reason"] == "eos"]
    assert len(answered) == 3
    assert fates[got.reflective["selected"]]["score"] == max(fate["score"] for fate in fates.values())


@pytest.mark.parametrize("change", [{}, {"max_tokens": 30}], ids=str)
def test_there_are_as_many_choices_as_were_asked_for(client, change):
    got = client.chat.completions.create(**asked(n=3, **change))
    assert [choice.index for choice in got.choices] == [0, 1, 2]
    assert got.choices[2].finish_reason == ("length" if change else "stop")


def test_reasoning_that_was_cut_is_never_content(client):
    got = client.chat.completions.create(**asked(max_completion_tokens=12))
    assert got.choices[0].message.content == "" and got.choices[0].finish_reason == "length"
    assert got.choices[0].message.reasoning
    assert all(fate["tokens"] <= 12 for fate in got.reflective["trajectories"])


@pytest.mark.parametrize(("effort", "k"), [("none", 1), ("minimal", 1), ("low", 2), ("medium", 8)])
def test_an_effort_is_a_number_of_trajectories(client, effort, k):
    got = client.chat.completions.create(**asked(reasoning_effort=effort, max_tokens=4))
    assert len(got.reflective["trajectories"]) == k


def test_a_number_of_trajectories_may_be_asked_for(client):
    got = client.chat.completions.create(**asked(max_tokens=4), extra_body={"reflective": {"effort": 3}})
    assert len(got.reflective["trajectories"]) == 3


def test_earlier_reasoning_is_left_out_and_a_developer_is_a_system(client):
    def prompt(*messages):
        body = asked(messages=[*messages, *MESSAGES], max_tokens=4)
        return client.post("/chat/completions", body=body, cast_to=object)["usage"]["prompt_tokens"]

    earlier = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "reasoning": "c " * 50}]
    plain = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert prompt(*earlier) == prompt(*plain)
    assert prompt({"role": "developer", "content": "x"}) == prompt({"role": "system", "content": "x"})
    parts = [{"type": "text", "text": "ab"}, {"type": "text", "text": "c"}]
    assert prompt({"role": "system", "content": parts}) == prompt({"role": "system", "content": "abc"})


@pytest.mark.parametrize("role", ["system", "developer", "tool"])
def test_a_conversation_without_a_user_is_answered(client, role):
    said = {"role": role, "content": PROBLEM, **({"tool_call_id": "a"} if role == "tool" else {})}
    assert client.chat.completions.create(**asked(messages=[said], max_tokens=4)).usage.prompt_tokens > 20


def test_an_answer_of_a_schema_has_its_form_and_free_reasoning(client):
    form = {"type": "json_schema", "json_schema": {"name": "lcm", "schema": LCM, "strict": True}}
    got = client.chat.completions.create(**asked(response_format=form))
    assert set(json.loads(got.choices[0].message.content)) == {"lcm"}
    free = client.chat.completions.create(**asked())
    assert got.choices[0].message.reasoning == free.choices[0].message.reasoning


def test_stop_ends_the_answer_and_is_no_part_of_it(client):
    got = client.chat.completions.create(**asked(stop=["{140", "never"]))
    assert got.choices[0].message.content == "\\boxed"
    assert got.choices[0].finish_reason == "stop"


def test_steps_come_on_request(client):
    got = client.chat.completions.create(**asked(), extra_body={"reflective": {"steps": True}})
    steps = got.reflective["trajectories"][0]["steps"]
    assert steps[-1]["text"] == "So 140, checked." and 0 < steps[-1]["score"] < 1


BAD = [
    ({"model": "other"}, 404, "model"),
    ({"model": None}, 400, "model"),
    ({"messages": []}, 400, "messages"),
    ({"messages": "hello"}, 400, "messages"),
    ({"messages": [{"role": "user", "content": "   "}]}, 400, "messages"),
    ({"messages": [{"role": "user", "content": None}]}, 400, "messages[0].content"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, 400, "messages[0].role"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages[0].content[0].type"),
    ({"messages": [*MESSAGES, {"role": "assistant", "content": "It is"}]}, 400, "messages"),
    ({"messages": [{"role": "user", "content": "x"}] * 3000}, 400, "messages"),
    ({"messages": [{"role": "user", "content": "word " * 3000}]}, 400, "messages"),
    ({"messages": [{"role": "user", "content": "word " * 100_000}]}, 400, "messages"),
    ({"temperature": -1}, 400, "temperature"),
    ({"temperature": "hot"}, 400, "temperature"),
    ({"temperature": "0.5"}, 400, "temperature"),
    ({"n": "2"}, 400, "n"),
    ({"n": True}, 400, "n"),
    ({"stream": "false"}, 400, "stream"),
    ({"repetition_penalty": 1e-300}, 400, "repetition_penalty"),
    ({"nonsense": 1}, 400, "nonsense"),
    ({"reflective": {"nonsense": 1}}, 400, "reflective.nonsense"),
    ({"reflective": {"strategy": "best"}}, 400, "reflective.strategy"),
    ({"reflective": {"strategy": "beam", "strategy_options": {"width": 0}}}, 400, "reflective.strategy_options"),
    ({"reflective": {"strategy_options": {"width": 2}}}, 400, "reflective.strategy_options"),
    ({"reflective": {"effort": "enormous"}}, 400, "reflective.effort"),
    ({"reasoning_effort": "enormous"}, 400, "reasoning_effort"),
    ({"reasoning_effort": 5000}, 400, "reasoning_effort"),
    ({"reasoning_effort": 0}, 400, "reasoning_effort"),
    ({"reasoning_effort": True}, 400, "reasoning_effort"),
    ({"reasoning_effort": 65}, 400, "reasoning_effort"),
    ({"max_tokens": 0}, 400, "max_tokens"),
    ({"n": 1000}, 400, "n"),
    ({"stop": [""]}, 400, "stop"),
    ({"stop": "x" * 257}, 400, "stop"),
    ({"stop": ["x", 5]}, 400, "stop"),
    ({"messages": [{"role": "user", "content": 5}]}, 400, "messages[0].content"),
    ({"seed": 2**80}, 400, "seed"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, 400, "tools"),
    ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, 400, "tools[0].type"),
    ({"x" * 100_000: 1}, 400, "x" * 200),
    ({"tool_choice": {"type": "function", "function": {"name": "missing"}}}, 400, "tool_choice"),
    ({"response_format": {"type": "json_schema"}}, 400, "response_format.json_schema.schema"),
    ({"response_format": {"type": "poem"}}, 400, "response_format.type"),
    (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"schema": {"type": "object", "properties": {"a": False}, "required": ["a"]}},
            }
        },
        400,
        "response_format.json_schema.schema",
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"items": [{"maxItems": 10**9}]}}}},
        400,
        "response_format.json_schema.schema",
    ),
    (  # each of them would do
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {
                    "schema": {
                        "type": "object",
                        "properties": {
                            f"p{i}": {"type": "array", "items": {"const": i}, "minItems": 5000} for i in range(5)
                        },
                    }
                },
            }
        },
        400,
        "response_format.json_schema.schema",
    ),
]


@pytest.mark.parametrize(("change", "status", "param"), BAD, ids=lambda value: str(value)[:50])
def test_what_can_not_be_is_refused_with_its_name(client, change, status, param):
    with pytest.raises(openai.APIStatusError) as error:
        client.post("/chat/completions", body=asked(**change), cast_to=object)
    assert error.value.status_code == status
    assert error.value.body["param"] == param
    assert set(error.value.body) == {"message", "type", "param", "code"}
    assert client.chat.completions.create(**asked(max_tokens=4)).choices  # the server goes on


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"properties": {"a": {"not": {}}}}, "not can't be used here"),
        ({"type": "object", "properties": {"a": False}, "required": ["a"]}, "no answer can satisfy it"),
        ({"oneOf": [{"type": "string"}, {"minLength": 2}]}, "anyOf can"),
        ({"type": "wizard"}, "no type 'wizard'"),
        ({"type": "string", "format": "rhyme"}, "the format 'rhyme'"),
        ({"type": "string", "pattern": "(?=a)b"}, "a pattern in it is wrong, or looks ahead"),
        ({"$ref": "#/nowhere"}, "'#/nowhere' leads nowhere"),
        ({"$ref": "file:///etc/passwd"}, "'file:///etc/passwd' leads out of it"),
        ({"type": 5}, "it is wrong, or has something"),
    ],
    ids=str,
)
def test_why_a_schema_can_not_be_used_is_said_in_our_words(client, schema, told):
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(**asked(response_format=form))
    assert told in error.value.body["message"] and error.value.code == "invalid_schema"


def test_a_problem_of_another_script_is_read(client):
    got = client.chat.completions.create(**asked(messages=[{"role": "user", "content": f"问题 🙂 {PROBLEM}"}]))
    assert got.choices[0].finish_reason in ("stop", "length")
