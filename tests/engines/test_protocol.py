"""What is read of a server's words."""

import json

import pytest

from reflective.engines.base import Sampling
from reflective.engines.remote.protocol import Garbage, base_url, completion_request, read_line, refusal, shown
from reflective.engines.sampled_token import SampledToken
from reflective.engines.vllm.slots import Slots
from reflective.errors import EngineError, InputError

SLOTS = Slots(9, 8, 7)


def event(**choice):
    return f"data: {json.dumps({'choices': [choice]})}"


def logprobs(*tokens, slots=(-210.5, -211.0, -211.0)):
    return {
        "tokens": [f"token_id:{token}" for token in tokens],
        "token_logprobs": [-0.5] * len(tokens),
        "top_logprobs": [{f"token_id:{i}": v for i, v in zip(SLOTS.ids, slots)}] * len(tokens),
    }


def test_tokens_come_with_their_values_and_slots():
    chunk = read_line(event(token_ids=[3, 4], logprobs=logprobs(3, 4), finish_reason="stop"), SLOTS)
    assert chunk.sampled == (
        SampledToken(3, -0.5, (-210.5, -211.0, -211.0)),
        SampledToken(4, -0.5, (-210.5, -211.0, -211.0)),
    )
    assert chunk.end == "stop"


def test_ids_are_also_read_from_token_names():
    assert [d.token for d in read_line(event(logprobs=logprobs(3)), SLOTS).sampled] == [3]


@pytest.mark.parametrize("name", ["?", "token_id:", "token_id:-1", "token_id:²", 3, None])
def test_a_name_that_holds_no_id_is_told(name):
    with pytest.raises(EngineError, match="no token ids"):
        read_line(event(logprobs={**logprobs(3), "tokens": [name]}), SLOTS)


def test_lines_that_carry_nothing_are_passed_over():
    for line in (
        "",
        ": ping",
        ":",
        "event: x",
        "data: [DONE]",
        'data: {"choices": []}',
        "data:",
        "data:  ",
        "retry: 9",
    ):
        assert read_line(line, SLOTS) is None
    assert read_line('data: {"usage": {"prompt_tokens": 3}, "choices": null}', SLOTS) is None


@pytest.mark.parametrize("logprobs", [None, {}, {"tokens": [], "token_logprobs": [], "top_logprobs": []}])
@pytest.mark.parametrize("end", [None, ""])
@pytest.mark.parametrize("ids", [{}, {"token_ids": None}, {"token_ids": []}])
def test_an_empty_chunk_is_passed_over(logprobs, end, ids):
    assert read_line(event(text="", logprobs=logprobs, finish_reason=end, **ids), SLOTS) is None


def test_an_empty_finish_reason_does_not_finish():
    chunk = read_line(event(token_ids=[3], logprobs=logprobs(3), finish_reason=""), SLOTS)
    assert [d.token for d in chunk.sampled] == [3] and chunk.end is None


def test_an_empty_chunk_may_carry_the_end_or_the_prompt():
    chunk = read_line(event(text="", logprobs=None, finish_reason="stop"), SLOTS)
    assert chunk.sampled == () and chunk.end == "stop"
    assert read_line(event(text="", logprobs=None, prompt_token_ids=[1, 2]), SLOTS).prompt_ids == (1, 2)


@pytest.mark.parametrize(
    "line",
    [
        "<html>",
        "data: {]",
        "data: 7",
        "data: {}",
        'data: {"error": {"message": "out of memory"}}',
        event(token_ids=[3], logprobs={"token_logprobs": [-1.0]}),
        event(token_ids=[3, 4], logprobs=logprobs(3)),
        event(token_ids=[3], logprobs={**logprobs(3), "token_logprobs": [float("nan")]}),
        event(token_ids=[3], logprobs={**logprobs(3), "token_logprobs": ["x"]}),
        event(token_ids=[3], logprobs={**logprobs(3), "token_logprobs": [float("-inf")]}),
        event(token_ids=[], finish_reason=7),
        'data: {"choices": ["x"]}',
        "data: " + "[" * 100_000,
    ],
)
def test_garbage_is_called_garbage(line):
    with pytest.raises(Garbage):
        read_line(line, SLOTS)


def test_tokens_without_ids_or_log_probabilities_are_another_api():
    with pytest.raises(EngineError, match="no token ids"):
        read_line(event(text="hello"), SLOTS)
    with pytest.raises(EngineError, match="without log-probabilities"):
        read_line(event(token_ids=[3]), SLOTS)


def test_missing_slots_are_told_apart_from_scores():
    found = read_line(event(token_ids=[3], logprobs={**logprobs(3), "top_logprobs": [{}]}), SLOTS)
    assert found.sampled == (SampledToken(3, -0.5, ()),)


def test_a_request_holds_all_that_sampling_says():
    sampling = Sampling(temperature=0.7, top_p=0.9, top_k=5, min_p=0.1, repetition_penalty=1.2)
    body = completion_request("m", [1, 2], sampling, seed=3, max_tokens=4, stop_ids=[5], slots=SLOTS, stream_interval=2)
    want = {"prompt": [1, 2], "temperature": 0.7, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.2}
    want |= {"seed": 3, "max_tokens": 4, "stop_token_ids": [5], "logprob_token_ids": [9, 8, 7], "stream": True}
    assert want.items() <= body.items()
    assert not body["return_token_ids"]  # the prompt would come back with them
    bare = completion_request(
        "m", "x", sampling, seed=0, max_tokens=1, stop_ids=[], slots=None, stream_interval=1, prompt_ids=True
    )
    assert "logprob_token_ids" not in bare and bare["return_token_ids"]


def test_addresses_are_completed_or_refused():
    assert base_url("http://a:8000") == "http://a:8000/v1"
    assert base_url("https://a/x/v1/") == "https://a/x/v1"
    for bad in ("a:8000", "ftp://a", "http://", ""):
        with pytest.raises(InputError, match="no endpoint"):
            base_url(bad)


def test_passwords_in_addresses_are_refused_and_not_shown():
    assert shown("http://me:secret@a:8000/v1?key=secret") == "http://a:8000/v1"
    with pytest.raises(InputError, match="password") as refused:
        base_url("http://me:secret@a:8000/v1")
    assert "secret" not in str(refused.value) and "me:" not in str(refused.value)


def test_refusals_say_what_to_do():
    assert "REFLECTIVE_API_KEY" in str(refusal(401, "{}", "there"))
    assert "completions API" in str(refusal(404, "<html>", "there"))
    assert "sends clients elsewhere (HTTP 308)" in str(refusal(308, "", "there"))
    assert "there refused a request (HTTP 400): too long" in str(
        refusal(400, '{"error": {"message": "too\\nlong"}}', "there")
    )


def test_a_servers_words_do_nothing_to_a_terminal_and_are_cut():
    told = str(refusal(400, '{"error": {"message": "\\u001b[2J' + "x" * 10_000 + '"}}', "there"))
    assert "\x1b" not in told and len(told) < 300
