"""Calls of functions, and models whose whole response is the reasoning: with a scripted engine."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import openai
import pytest

from reflective import Reflective, Scripted
from reflective.engines.scripted import WHOLE_RESPONSE
from reflective.serve.forms import JsonForm
from reflective.serve.tools import Call, calls_schema, canonical, split_calls
from serve.conftest import MESSAGES, Chatting, serving
from tiny import tiny_tokenizer

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
PARIS = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris", "days": 1}}\n</tool_call>'
SAME = '<tool_call>{"name": "weather", "arguments": {"days": 1, "city": "Paris"}}</tool_call>'
ROME = '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'


class Holding(Chatting):
    """One that says it holds answers to a form; its script has to keep to it."""

    constrains = True
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ tools }}"


def ask(script, *, format=None, stream=False, kind=Chatting, **more):
    engine = kind(script, **({"format": format} if format else {}))
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
    both = f'[{bare}, {{"name": "news"}}]'
    assert [call.name for call in split_calls(both, ["weather", "news"])[1]] == ["weather", "news"]
    assert split_calls(both, ["weather"]) == (both, []) and split_calls("[]", ["weather"]) == ("[]", [])
    assert canonical([Call("f", '{"a":1,"b":2}')]) == canonical([Call("f", '{"b": 2, "a": 1}')])


@pytest.mark.parametrize("text", ["```" + " " * 3000 + "x" + " " * 3000 + "y", "<tool_call>x" + " " * 100_000 + "y"])
def test_long_white_space_is_read_in_linear_time(text):
    began = time.process_time()
    assert split_calls(text, ["weather"]) == (text, [])
    assert time.process_time() - began < 1.0


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


def function(name, **properties):
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "parameters": {**parameters, "additionalProperties": False}}}


CUT = '{"name": "weather", "arguments": {"city": "Paris and every other town of the country'
PLACES = [function("weather", city={"enum": ["Paris", "Rome"]}), function("news", topic={"enum": ["sport"]})]


@pytest.fixture(scope="module")
def calling():
    """nano, with a chat template that renders tools."""
    with Reflective.from_pretrained("nano") as model:
        model.engine.tokenizer.chat_template += "{% for tool in tools or [] %}{% endfor %}"
        with serving(model) as running:
            yield openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)


def must(choice, **more):
    one = {"model": "nano", "messages": MESSAGES, "reasoning_effort": "low", "seed": 5, "parallel_tool_calls": False}
    return {**one, "tools": PLACES, "tool_choice": choice, **more}


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_comes_where_one_must_and_the_reasoning_before_it_is_free(calling, stream):
    if stream:
        with calling.chat.completions.stream(**must("required")) as got:
            for _ in got:
                pass
            (choice,) = got.get_final_completion().choices
    else:
        (choice,) = calling.chat.completions.create(**must("required")).choices
    assert choice.finish_reason == "tool_calls" and not choice.message.content
    (call,) = choice.message.tool_calls
    known = {"weather": [{"city": "Paris"}, {"city": "Rome"}], "news": [{"topic": "sport"}]}
    assert json.loads(call.function.arguments) in known[call.function.name]
    free = calling.chat.completions.create(**must("none")).choices[0].message
    assert choice.message.reasoning == free.reasoning and free.content == "\\boxed{140}"


@pytest.mark.parametrize("name", ["weather", "news"])
def test_a_function_that_is_named_is_called(calling, name):
    got = calling.chat.completions.create(**must({"type": "function", "function": {"name": name}}))
    assert [call.function.name for call in got.choices[0].message.tool_calls] == [name]
    flat = [{"type": "function", **tool["function"]} for tool in PLACES]
    chosen = {"type": "function", "name": name}
    item = calling.responses.create(model="nano", input="Hm", tools=flat, tool_choice=chosen).output[-1]
    assert (item.type, item.name) == ("function_call", name)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tool_choice": {"type": "function", "function": {"name": "missing"}}}, "tool_choice"),
        ({"tool_choice": {"type": "function"}}, "tool_choice"),
        ({"tool_choice": "always"}, "tool_choice"),
        ({"tools": []}, "tool_choice"),
        ({"tools": [function("f", x=False)]}, "tools"),
        ({"tools": [function("f", x={"$ref": "#/$defs/Nowhere"})]}, "tools"),
    ],
    ids=str,
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_can_not_come_is_refused(calling, change, param, stream):
    with pytest.raises(openai.BadRequestError) as error:
        calling.chat.completions.create(**must("required", **change, stream=stream))
    assert error.value.body["param"] == param


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_of_a_forced_call_that_was_cut_nothing_is_content(stream, whole):
    def script(text, index, seed):
        asked = not whole or "Now make" in text
        return Scripted(("" if whole else "</think>") + ("[" + CUT if asked else "I would look it up."), logits=[1.0])

    more = {"format": WHOLE_RESPONSE if whole else None, "kind": Holding, "max_tokens": 7, "stream": stream}
    got = ask(script, tools=TOOLS, tool_choice="required", reasoning_effort="none", **more)
    choices = [choice for chunk in got for choice in chunk.choices] if stream else got.choices
    said = [choice.delta if stream else choice.message for choice in choices]
    assert not any(part.content or part.tool_calls for part in said)
    assert choices[-1].finish_reason == "length"


def test_an_engine_that_can_not_force_a_call_says_so():
    with pytest.raises(openai.BadRequestError, match="'auto' and 'none' work") as error:
        ask([thought("No.")], tools=TOOLS, tool_choice="required")
    assert error.value.body["param"] == "tool_choice"


def allows(schema, text):
    """Whether a form of this schema takes all of a text, and then its end."""
    tokenizer = tiny_tokenizer()
    engine = SimpleNamespace(vocabulary=len(tokenizer), end_ids={tokenizer.eos_token_id})
    from llguidance.hf import from_tokenizer

    matcher = JsonForm(schema, "tools", engine, from_tokenizer(tokenizer)).start()
    for token in [*tokenizer.encode(text), tokenizer.eos_token_id]:
        if not matcher.allowed()[token]:
            return False
        matcher.push(token)
    return True


def test_a_forced_call_is_of_an_offered_function_with_arguments_of_its_own_schema():
    address = {"type": "object", "properties": {"zip": {"enum": [1, 2]}}, "required": ["zip"]}
    places = [*PLACES, function("ship", to={"$ref": "#/$defs/Address"})]
    places[-1]["function"]["parameters"]["$defs"] = {"Address": address}
    one, several = (calls_schema(places, several=several) for several in (False, True))
    rome, ship = '{"name":"weather","arguments":{"city":"Rome"}}', '{"name":"ship","arguments":{"to":{"zip":2}}}'
    assert allows(one, rome) and allows(one, ship)
    assert allows(several, f"[{rome},{ship}]") and allows(several, f"[{rome}]")
    assert not allows(one, f"[{rome}]") and not allows(several, rome) and not allows(several, "[]")
    for bad in (rome.replace("weather", "news"), rome.replace("Rome", "Oslo"), ship.replace("2", "3"), "Hello"):
        assert not allows(one, bad)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("response", ["I would look it up.", f"I look it up. {ROME}"], ids=["silent", "calls"])
def test_a_whole_response_is_asked_for_the_call_that_it_lacks(response, stream):
    def script(text, index, seed):
        return Scripted('[{"name": "weather", "arguments": {"city": "Rome"}}]' if "Now make" in text else response)

    more = {"format": WHOLE_RESPONSE, "tools": TOOLS, "reasoning_effort": "low", "stream": stream, "kind": Holding}
    got = ask(script, tool_choice="required", **more)
    if stream:
        deltas = [choice.delta for chunk in got for choice in chunk.choices]
        reasoning = "".join(getattr(delta, "reasoning", None) or "" for delta in deltas)
        calls = [call for delta in deltas for call in delta.tool_calls or ()]
        found = "".join(call.function.arguments for call in calls)
        content = "".join(delta.content or "" for delta in deltas)
    else:
        (choice,) = got.choices
        reasoning, content = getattr(choice.message, "reasoning", ""), choice.message.content or ""
        found = choice.message.tool_calls[0].function.arguments
    assert json.loads(found) == {"city": "Rome"}
    assert (reasoning, content) == ((response, "") if response.endswith("up.") else ("", "I look it up."))
