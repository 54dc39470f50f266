"""/v1/responses and /v1/score, as the official SDK and plain clients read them."""

from __future__ import annotations

import json

import openai
import pytest

from reflective import Reflective, Scripted, ScriptedEngine
from reflective.serve.responses_schema import ResponsesRequest
from serve.conftest import MESSAGES, PROBLEM, serving

SHORT = {"type": "object", "properties": {"x": {"type": "boolean"}}, "required": ["x"], "additionalProperties": False}


@pytest.fixture(scope="module")
def client(nano_server):
    return openai.OpenAI(base_url=f"{nano_server.url}/v1", api_key="none", max_retries=0)


def asked(**more):
    return {"model": "nano", "input": PROBLEM, "reasoning": {"effort": "low"}, **more}


def test_a_response_has_reasoning_and_a_message(client):
    got = client.responses.create(**asked())
    assert [item.type for item in got.output] == ["reasoning", "message"]
    assert got.output_text == "\\boxed{140}" and got.status == "completed"
    assert "So 140, checked." in got.output[0].content[0].text
    assert got.usage.output_tokens > got.usage.output_tokens_details.reasoning_tokens > 0
    assert got.reflective["selected"] in (0, 1)


def test_the_events_come_in_openais_order_and_make_up_the_response(client):
    events = list(client.responses.create(**asked(), stream=True))
    kinds = [event.type.removeprefix("response.") for event in events]
    part = ["content_part.added", "content_part.done"]
    assert [kind for kind in kinds if not kind.endswith("delta")] == [
        *("created", "in_progress"),
        *("output_item.added", part[0], "reasoning_text.done", part[1], "output_item.done"),
        *("output_item.added", part[0], "output_text.done", part[1], "output_item.done"),
        "completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    final = events[-1].response
    assert "".join(event.delta for event in events if event.type.endswith("output_text.delta")) == final.output_text
    assert all(type(event).__name__ != "BaseModel" for event in events)  # the SDK knows each of them


def test_the_sdks_stream_helper_reads_it(client):
    with client.responses.stream(**asked(), extra_body={"reflective": {"events": True}}) as stream:
        for _ in stream:
            pass
        final = stream.get_final_response()
    assert final.output_text == "\\boxed{140}"


def test_what_a_request_has_much_of_is_not_sent_again_with_every_token(client):
    long = "Be brief. " * 100
    form = {"type": "json_schema", "name": "x", "schema": {**SHORT, "description": "x" * 1000}}
    more = {"instructions": long, "text": {"format": form}, "extra_body": {"reflective": {"events": True}}}
    events = list(client.responses.create(**asked(**more), stream=True))
    told = [event for event in events if hasattr(event, "reflective")]
    assert len(told) > 10 and all(len(event.to_json(indent=None)) < 2000 for event in told)
    assert [events[i].response.instructions for i in (0, 1, -1)] == [long] * 3


def test_a_conversation_of_items_and_instructions_is_the_chat_of_its_messages(client):
    earlier = [
        {"role": "user", "content": "a"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "c " * 50}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "b"}]},
        {"role": "user", "content": [{"type": "input_text", "text": PROBLEM}]},
    ]
    got = client.responses.create(**asked(input=earlier, instructions="x", max_output_tokens=4))
    chat = client.chat.completions.create(
        model="nano",
        messages=[
            {"role": "system", "content": "x"},
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
            *MESSAGES,
        ],
        max_tokens=4,
    )
    assert got.usage.input_tokens == chat.usage.prompt_tokens
    assert got.status == "incomplete" and got.incomplete_details.reason == "max_output_tokens"


def test_a_response_may_have_a_form(client):
    form = {"type": "json_schema", "name": "x", "schema": SHORT}
    got = client.responses.create(**asked(text={"format": form}))
    assert set(json.loads(got.output_text)) == {"x"}


def test_what_the_assistant_says_and_the_calls_behind_it_are_one_message():
    said = {"type": "message", "role": "assistant", "content": "Let me look."}
    calls = [{"type": "function_call", "call_id": id, "name": "f", "arguments": "{}"} for id in "ab"]
    given = [{"type": "function_call_output", "call_id": id, "output": id} for id in "ab"]
    items = [*MESSAGES, said, *calls, *given, *calls]
    messages = ResponsesRequest.model_validate(asked(input=items)).as_chat().messages
    assert [message.role for message in messages] == ["user", "assistant", "tool", "tool", "assistant"]
    assert messages[1].content == "Let me look."
    assert [call.id for call in messages[1].tool_calls] == ["a", "b"] == [call.id for call in messages[4].tool_calls]


def test_a_schema_that_takes_any_json_is_a_schema():
    form = {"type": "json_schema", "name": "x", "schema": {}}
    chat = ResponsesRequest.model_validate(asked(text={"format": form})).as_chat()
    assert chat.response_format.json_schema.schema_ == {}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
        ({"input": []}, "input"),
        ({"reasoning": {"effort": 65}}, "reasoning.effort"),
        ({"reasoning": {"effort": "enormous"}}, "reasoning.effort"),
        ({"input": "word " * 3000}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [*MESSAGES, {"type": "item_reference", "id": "x"}]}, "input[1].type"),
        ({"input": [{"content": "x"}]}, "input[0].role"),
        ({"input": [{"type": "function_call", "call_id": "a"}]}, "input[0].name"),
        ({"instructions": "x", "input": [*MESSAGES, {"role": "user"}]}, "input[1].content"),
        ({"input": [{"type": "reasoning"}, {"role": "user"}]}, "input[1].content"),
        ({"metadata": {"a": 5}}, "metadata.a"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"nonsense": 1}, "nonsense"),
    ],
    ids=str,
)
def test_what_can_not_be_is_refused_by_its_name_here(client, change, param):
    with pytest.raises(openai.BadRequestError) as error:
        client.post("/responses", body=asked(**change), cast_to=object)
    assert error.value.body["param"].startswith(param)
    assert "response_format" not in error.value.body["message"]


def test_scores_are_those_of_the_library(client, nano_server):
    response = "\n20 / 14 = 1 rest 6, 1 * 14 + 6 = 20, right.\n\nSo 140, checked.\n\n</think>\n\n\\boxed{140}"
    item = {"messages": MESSAGES, "response": response}
    one = client.post("/score", body={"model": "nano", **item}, cast_to=object)
    many = client.post("/score", body={"model": "nano", "items": [item, {**item, "response": ""}]}, cast_to=object)
    expected = nano_server.service.model.score(messages=MESSAGES, response=response)
    assert isinstance(nano_server.service.model, Reflective)
    assert [step["score"] for step in one["steps"]] == list(expected.step_scores)
    assert one["score"] == expected.score
    assert [step["text"] for step in one["steps"]][-1] == "So 140, checked."
    assert many["data"][0] == one and many["data"][1]["score"] is None
    for body in ({}, {"items": []}, {"messages": MESSAGES}, {**item, "items": [item]}):
        with pytest.raises(openai.BadRequestError):
            client.post("/score", body={"model": "nano", **body}, cast_to=object)


def scored(client, **body):
    return client.post("/score", body={"model": "nano", **body}, cast_to=object)


def test_several_problems_are_scored_in_their_order_whatever_shares_a_prompt(client, monkeypatch):
    monkeypatch.setattr("reflective.serve.scoring.BATCH_CHARACTERS", 150)  # three requests of the engine
    other = [{"role": "user", "content": "What is 2 + 2?"}]
    responses = [f"\nIt is {n}.\n\nSo {n}, checked.\n\n</think>\n\n\\boxed{{{n}}}" for n in range(3)]
    items = [{"messages": messages, "response": r} for r in responses for messages in (MESSAGES, other)]
    together = scored(client, items=items)["data"]
    for got, item in zip(together, items, strict=True):
        alone = scored(client, **item)
        assert [step["text"] for step in got["steps"]] == [step["text"] for step in alone["steps"]]
        assert got["score"] == pytest.approx(alone["score"], abs=1e-5) and got["tokens"] == alone["tokens"]
    assert len({one["score"] for one in together}) == len(items)


def test_a_request_of_many_scores_is_refused_by_what_is_wrong_in_it(client, nano_server):
    good = {"messages": MESSAGES, "response": "\nA.\n\n"}
    no_role = {"messages": [*MESSAGES, {"role": "user"}], "response": "\nA.\n\n"}
    too_long = {"messages": MESSAGES, "response": "word " * 3000}
    for items, param in (
        ([good, no_role], "items[1].messages[1].content"),
        ([good, {"messages": MESSAGES}], "items[1].response"),
        ([good, too_long], "items"),
        ([good] * 257, "items"),
    ):
        with pytest.raises(openai.BadRequestError) as error:
            scored(client, items=items)
        assert error.value.body["param"] == param
    assert nano_server.idle()
    assert len(scored(client, items=[good] * 256)["data"]) == 256


def test_an_engine_that_only_writes_scores_nothing_given():
    with Reflective(ScriptedEngine([Scripted("A.")])) as model, serving(model) as running:
        client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.BadRequestError, match="can be scored"):
            client.post("/score", body={"model": "scripted", "messages": MESSAGES, "response": "A."}, cast_to=object)
