"""/v1/chat/completions over a real socket, as the official SDK reads it."""

import asyncio

import openai
import pytest

from serve.conftest import PROBLEM

MESSAGES = [{"role": "user", "content": PROBLEM}]


@pytest.fixture(scope="module")
def client(nano_server):
    return openai.OpenAI(base_url=f"{nano_server.url}/v1", api_key="none", max_retries=0)


def test_an_answer_has_content_reasoning_and_exact_usage(client):
    got = client.chat.completions.create(model="nano", messages=MESSAGES, reasoning_effort="low", seed=1)
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


def test_the_same_seed_gives_the_same_answer_streamed_or_not(client):
    asked = {"model": "nano", "messages": MESSAGES, "reasoning_effort": "low", "seed": 5}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == whole.choices[0].message.content
    reasoning = "".join(getattr(delta, "reasoning", None) or "" for delta in deltas)
    assert reasoning == whole.choices[0].message.reasoning
    assert chunks[-1].usage == whole.usage and not chunks[-1].choices
    assert [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason] == ["stop"]


def test_the_sdk_passes_over_events(client):
    with client.chat.completions.stream(
        model="nano", messages=MESSAGES, reasoning_effort="low", seed=5, extra_body={"reflective": {"events": True}}
    ) as stream:
        kinds = {
            event.chunk.reflective["type"]
            for event in stream
            if getattr(event, "chunk", None) and "reflective" in event.chunk.model_extra
        }
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "\\boxed{140}"
    assert kinds == {"started", "text", "step", "finished", "answering", "solved"}


def test_async_clients_are_answered_together(nano_server):
    async def ask():
        async with openai.AsyncOpenAI(base_url=f"{nano_server.url}/v1", api_key="none", max_retries=0) as client:
            asked = [
                client.chat.completions.create(model="nano", messages=MESSAGES, n=1, reasoning_effort="low")
                for _ in range(8)
            ]
            return await asyncio.gather(*asked)

    assert {got.choices[0].message.content for got in asyncio.run(ask())} == {"\\boxed{140}"}


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"model": "other"}, 404, "model"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "user", "content": "   "}]}, 400, "messages"),
        ({"temperature": -1}, 400, "temperature"),
        ({"nonsense": 1}, 400, "nonsense"),
    ],
)
def test_what_can_not_be_is_refused_with_its_name(client, change, status, param):
    asked = {"model": "nano", "messages": MESSAGES, **change}
    with pytest.raises(openai.APIStatusError) as error:
        client.post("/chat/completions", body=asked, cast_to=object)
    assert error.value.status_code == status
    assert error.value.body["param"] == param
