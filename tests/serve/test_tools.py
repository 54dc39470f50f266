"""Calls of functions, and models whose whole response is the reasoning: with a scripted engine."""

from __future__ import annotations

import json
from types import SimpleNamespace

import openai
import pytest

from reflective import Reflective, Scripted, ScriptedEngine
from reflective.engines.scripted import WHOLE_RESPONSE
from reflective.serve.tools import Call, canonical, split_calls
from serve.conftest import serving

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
PARIS = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris", "days": 1}}\n</tool_call>'
SAME = '<tool_call>{"name": "weather", "arguments": {"days": 1, "city": "Paris"}}</tool_call>'
ROME = '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'


class Chatting(ScriptedEngine):
    """A scripted engine with a chat template that renders tools."""

    tokenizer = SimpleNamespace(chat_template="{{ tools }}")

    def encode_messages(self, messages, tools=None):
        return self.encode_prompt(" ".join(message["content"] for message in messages) + json.dumps(tools))


def ask(script, *, format=None, stream=False, **more):
    engine = Chatting(script, **({"format": format} if format else {}))
    with Reflective(engine) as model, serving(model) as running:
        client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)
        body = {"model": "scripted", "messages": [{"role": "user", "content": "Is it warm?"}], **more}
        if not stream:
            return client.chat.completions.create(**body)
        return list(client.chat.completions.create(**body, stream=True))


def thought(answer, logit=1.0):
    return Scripted(f"Hm.\n\n</think>{answer}", logits=[logit])


def test_what_is_no_call_of_an_offered_function_stays_text():
    assert split_calls(f"Let me look. {PARIS}", ["weather"])[0] == "Let me look."
    for text in ("<tool_call>{", ROME, '<tool_call>{"name": 5}</tool_call>', "<tool_call>" + "[" * 100_000):
        assert split_calls(text, ["news"]) == (text.strip(), [])
    assert split_calls(PARIS.removesuffix("</tool_call>"), ["weather"])[1][0].name == "weather"
    bare = '{"name": "weather", "arguments": {"city": "Paris"}}'
    assert split_calls(f"```json\n{bare}\n```", ["weather"]) == split_calls(bare, ["weather"])
    assert split_calls(bare, ["weather"])[1][0].name == "weather" and not split_calls(bare, ["news"])[1]
    assert canonical([Call("f", '{"a":1,"b":2}')]) == canonical([Call("f", '{"b": 2, "a": 1}')])


@pytest.mark.parametrize("stream", [False, True])
def test_the_selected_trajectorys_calls_are_given(stream):
    got = ask(
        [thought("No."), thought(f"Wait. {PARIS}{ROME}", 3.0)], tools=TOOLS, reasoning_effort="low", stream=stream
    )
    if not stream:
        (choice,) = got.choices
        assert choice.finish_reason == "tool_calls" and choice.message.content == "Wait."
        calls = choice.message.tool_calls
        assert len({call.id for call in calls}) == 2
        found = [(call.function.name, json.loads(call.function.arguments)) for call in calls]
    else:
        choices = [choice for chunk in got for choice in chunk.choices]
        assert "".join(choice.delta.content or "" for choice in choices) == "Wait."
        deltas = [call for choice in choices for call in choice.delta.tool_calls or ()]
        names = {call.index: call.function.name for call in deltas if call.id}
        arguments = {i: "".join(c.function.arguments for c in deltas if c.index == i) for i in names}
        found = [(names[i], json.loads(arguments[i])) for i in sorted(names)]
        assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["tool_calls"]
    assert found == [("weather", {"city": "Paris", "days": 1}), ("weather", {"city": "Rome"})]


def test_a_vote_is_over_calls():
    script = [thought(ROME, 5.0), thought(PARIS), thought(SAME)]
    got = ask(script, tools=TOOLS, extra_body={"reflective": {"effort": 3, "strategy": "majority"}})
    assert json.loads(got.choices[0].message.tool_calls[0].function.arguments)["city"] == "Paris"


def test_one_call_alone_and_none_at_all_may_be_asked_for():
    script = [thought(f"{PARIS}{ROME}")]
    assert len(ask(script, tools=TOOLS, parallel_tool_calls=False).choices[0].message.tool_calls) == 1
    assert ask(script, tools=TOOLS, tool_choice="none").choices[0].message.tool_calls is None


def test_a_conversation_with_calls_goes_on():
    earlier = [
        {"role": "user", "content": "Is it warm?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "20 degrees"},
    ]
    got = ask([thought("Yes.")], tools=TOOLS, messages=earlier, reasoning_effort="none")
    assert got.choices[0].message.content == "Yes."


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("effort", ["none", "low"])
def test_a_whole_response_is_content_without_reasoning(stream, effort):
    script = [Scripted("First.\n\nIt is \\boxed{4}.", logits=[3.0, 3.0])] * 2
    got = ask(script, format=WHOLE_RESPONSE, reasoning_effort=effort, stream=stream)
    if stream:
        deltas = [choice.delta for chunk in got for choice in chunk.choices]
        content = "".join(delta.content or "" for delta in deltas)
        assert not any(hasattr(delta, "reasoning") for delta in deltas)
        assert len([delta for delta in deltas if delta.content]) > (1 if effort == "none" else 0)
    else:
        content = got.choices[0].message.content
        assert not hasattr(got.choices[0].message, "reasoning")
        assert got.usage.completion_tokens_details.reasoning_tokens == (0 if effort == "none" else 7)  # the other one
    assert content == "First.\n\nIt is \\boxed{4}."


def test_a_whole_response_that_was_cut_says_so():
    got = ask([Scripted("word " * 50)], format=WHOLE_RESPONSE, reasoning_effort="none", max_tokens=5)
    assert got.choices[0].finish_reason == "length" and got.choices[0].message.content.startswith("word")
