"""Servers of chat completions, each faked with the stream that it sends: which one it is, and what comes of it."""

import json
import threading
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from reflective import EngineError, InputError, Reflective
from reflective.engines.base import Finished, Request, Text
from reflective.engines.driver import Driver
from reflective.engines.remote.chat_protocol import Delta, Piece, read_delta, server_of
from reflective.engines.remote.protocol import Garbage

ANSWERS = ("It is \\boxed{4}.", "So \\boxed{5}", "It is \\boxed{4}, surely")
PROBLEM = "What is 2 + 2?"


def words(text):
    return [word + " " for word in text.split(" ")]


def event(choice, **fields):
    return "data: " + json.dumps({"id": "c", "object": "chat.completion.chunk", "choices": [choice], **fields}) + "\n\n"


def llamacpp(text, body):
    """llama.cpp: a role with content null, tokens with log-probabilities, an empty delta with usage and timings."""
    yield event({"finish_reason": None, "index": 0, "delta": {"role": "assistant", "content": None}})
    for word in words(text):
        choice = {"finish_reason": None, "index": 0, "delta": {"content": word}}
        if body.get("logprobs"):
            entry = {"id": 9, "token": word, "bytes": [], "logprob": -0.5, "top_logprobs": []}
            choice["logprobs"] = {"content": [entry]}
        yield event(choice)
    yield event({"finish_reason": "stop", "index": 0, "delta": {}}, usage={"completion_tokens": 3}, timings={"n": 3})
    yield "data: [DONE]\n\n"


def ollama(text, body):
    """Ollama: every delta has the role; reasoning is a field of its own; the last delta is empty text."""
    yield event(
        {"index": 0, "delta": {"role": "assistant", "content": "", "reasoning": "Let me see"}, "finish_reason": None}
    )
    yield event(
        {"index": 0, "delta": {"role": "assistant", "content": "", "reasoning": " END."}, "finish_reason": None}
    )
    for word in words(text):
        yield event({"index": 0, "delta": {"role": "assistant", "content": word}, "finish_reason": None})
    yield event({"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": "stop"})
    yield "data: [DONE]\n\n"


def lmstudio(text, body):
    """LM Studio: logprobs null everywhere; keep-alives as comments while it loads."""
    yield ": keep-alive\n\n"
    for word in words(text):
        delta = {"role": "assistant", "content": word}
        yield event({"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}, system_fingerprint="q")
    yield event({"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"})
    yield "data: [DONE]\n\n"


def sglang(text, body):
    """SGLang: finish_reason "" while it goes on, empty text with null logprobs, a usage report without choices."""
    yield event({"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": ""})
    for word in words(text):
        entry = {"token": word, "bytes": [], "logprob": -0.25, "top_logprobs": []}
        logprobs = {"content": [entry]} if body.get("logprobs") else None
        yield event(
            {
                "index": 0,
                "delta": {"content": word, "reasoning_content": None},
                "logprobs": logprobs,
                "finish_reason": "",
            }
        )
        yield event({"index": 0, "delta": {"content": ""}, "logprobs": None, "finish_reason": ""})
    yield event({"index": 0, "delta": {"content": None}, "finish_reason": "stop", "matched_stop": 151645})
    yield "data: " + json.dumps({"choices": [], "usage": {"completion_tokens": 3}}) + "\n\n"
    yield "data: [DONE]\n\n"


KINDS = {
    "llama.cpp's server": (llamacpp, {"owned_by": "llamacpp", "meta": {"n_ctx_train": 2048}}),
    "Ollama": (ollama, {"owned_by": "library"}),
    "LM Studio": (lmstudio, {"owned_by": "organization_owner"}),
    "SGLang": (sglang, {"owned_by": "sglang", "root": "m", "max_model_len": 4096}),
    "a server of the chat completions API": (llamacpp, {"owned_by": "somebody"}),
}
TELLS = {"llama.cpp's server", "SGLang", "a server of the chat completions API"}


class Server:
    """One such server; `bodies` keeps what was asked. `strict` refuses logprobs, `cut` breaks the answers off.

    A message with the word "refuse" is refused.
    """

    def __init__(self, kind, *, names=("m",), strict=False, cut=False, answers=ANSWERS):
        stream, model = KINDS[kind]
        self.bodies, self.most, self.flying, lock = [], 0, 0, threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def _reply(self, status, text):
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

            def do_GET(self):
                entries = [{"id": name, "object": "model", **model} for name in names]
                self._reply(200, json.dumps({"object": "list", "data": entries}))

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path != "/v1/chat/completions":
                    self._reply(404, json.dumps({"error": "not found"}))
                    return
                if strict and "logprobs" in body:
                    self._reply(400, json.dumps({"error": {"message": "logprobs is not supported"}}))
                    return
                if "refuse" in str(body["messages"]):
                    self._reply(400, json.dumps({"error": {"message": "too long"}}))
                    return
                probe = body["max_tokens"] == 4
                with lock:
                    number = len([b for b in server.bodies if b["max_tokens"] != 4])
                    server.bodies.append(body)
                    server.flying += 1
                    server.most = max(server.most, server.flying)
                lines = list(stream("yes" if probe else answers[number % len(answers)], body))
                self._reply(200, "".join(lines[:-3] if cut and not probe else lines))
                with lock:
                    server.flying -= 1

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        self._http.shutdown()
        self._http.server_close()


@contextmanager
def connected(kind, model="m", **options):
    engine_options = {name: options.pop(name) for name in ("max_rows",) if name in options}
    server = Server(kind, **options)
    try:
        with Reflective.from_pretrained(model, engine=server.url, **engine_options) as made:
            yield server, made
    finally:
        server.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_majority_of_what_each_server_streams(kind):
    with connected(kind) as (server, model):
        use = "majority, logprob and single" if kind in TELLS else "majority and single"
        assert model.engine.remark == f"{kind} with 'm' sends no step scores: the strategies are {use}"
        solution = model.solve(PROBLEM, effort=3, temperature=0.5, top_p=0.9, system="Be brief.")
    assert (solution.answer, solution.strategy, solution.confidence) == ("4", "majority", None)
    assert sorted(t.answer_text for t in solution.trajectories) == sorted(ANSWERS)
    assert all(t.finished and t.steps == () and t.score is None for t in solution.trajectories)
    body = server.bodies[-1]
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PROBLEM}]
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.5, 0.9, 4096) and "top_k" not in body
    assert len({b["seed"] for b in server.bodies if b["max_tokens"] == 4096}) == 3
    mean = {"SGLang": -0.25}.get(kind, -0.5) if kind in TELLS else None
    assert {t.mean_logprob for t in solution.trajectories} == {mean}
    assert solution.trajectories[0].tokens >= 2


def test_reasoning_in_a_field_of_its_own_is_told_but_no_part_of_the_answer():
    with connected("Ollama") as (_, model):
        told = "".join(e.delta for e in model.stream(PROBLEM, effort=1) if isinstance(e, Text))
        solution = model.solve(PROBLEM, effort=1, stop="END")  # which the reasoning may hold
    assert told.startswith("Let me see END.") and "boxed" in told
    assert solution.trajectories[0].thinking == "Let me see END." and "Let me" not in solution.answer_text
    assert solution.answer in ("4", "5")


def test_reasoning_between_marks_in_the_text_is_no_part_of_the_answer():
    answers = ["<think> Could be \\boxed{9} </think> It is \\boxed{4}"]
    with connected("LM Studio", answers=answers) as (_, model):
        solution = model.solve(PROBLEM, effort=1)
    assert solution.answer == "4" and solution.answer_text == "It is \\boxed{4}"
    assert "9" in solution.trajectories[0].thinking and "think>" not in solution.trajectories[0].thinking


def test_a_stop_string_ends_the_answer_and_lands_the_stream():
    with connected("llama.cpp's server", answers=["It is \\boxed{4}. And so on"], max_rows=1) as (server, model):
        solution = model.solve(PROBLEM, effort=3, stop=["d so"])
        assert {t.answer_text for t in solution.trajectories} == {"It is \\boxed{4}. An"}
        assert server.most == 1  # no more in flight than was said
        with pytest.raises(InputError, match="name stop strings instead"):
            model.solve(PROBLEM, stop_token_ids=[3])


def test_a_response_that_breaks_off_never_votes():
    with connected("Ollama", cut=True) as (_, model):
        solution = model.solve(PROBLEM, effort=2)
    assert solution.answer is None and {t.finish_reason for t in solution.trajectories} == {"cancelled"}
    assert all(t.thinking and not t.answer_text for t in solution.trajectories)
    assert solution.notes[0].startswith("no response was finished")


def test_what_needs_scores_is_refused_in_one_line():
    refused = pytest.raises(EngineError, match="'best_of_n' selects by step scores.*Ollama with 'm'")
    with connected("Ollama") as (_, model), refused:
        model.solve(PROBLEM, strategy="best_of_n")
    server = Server("Ollama")
    with pytest.raises(EngineError, match="Ollama sends no step scores, so a head can't be used"):
        Reflective.from_pretrained("m", engine=server.url, head="/some/head")
    server.close()


def test_a_server_that_refuses_logprobs_is_asked_without():
    with connected("llama.cpp's server", strict=True) as (server, model):
        assert "majority and single" in model.engine.remark
        assert model.solve(PROBLEM, effort=1).answer == "4"
    assert not any("logprobs" in body for body in server.bodies)


def test_a_request_that_the_server_refuses_takes_no_other_with_it():
    with connected("Ollama") as (_, model):
        driver = Driver.of(model.engine)
        with driver.client() as one, driver.client() as other:
            request = Request(model.engine.encode_prompt("please refuse"), max_tokens=50)
            one.submit(request)
            other.submit(replace(request, prompt_ids=model.engine.encode_prompt("2 + 2?")))
            events = []
            while other.in_flight:
                events += other.events()
            assert events[-1].trajectory.finish_reason == "eos"
            while one.in_flight:
                driver.advance(one)
            with pytest.raises(EngineError, match="too long"):
                one.drain()


def test_the_model_is_the_one_that_is_named_or_the_only_one():
    with connected("Ollama", model="nano", names=["qwen:0.5b"]) as (server, model):
        assert model.engine.name == "qwen:0.5b" and server.bodies[-1]["model"] == "qwen:0.5b"
    with connected("Ollama", model="b", names=["a", "b"]) as (server, model):
        assert model.engine.name == "b"
    with (
        pytest.raises(EngineError, match="has no model 'c', but a, b. Name one"),
        connected("Ollama", model="c", names=["a", "b"]),
    ):
        pass


def test_events_that_carry_nothing_are_passed_over_and_what_is_none_is_told():
    for line in (": hello", "", "data: [DONE]", "data:", 'data: {"choices": []}', 'data: {"usage": {"total": 3}}'):
        assert read_delta(line) is None
    empty = {"index": 0, "delta": {"content": ""}, "logprobs": None, "finish_reason": ""}
    assert read_delta(event(empty)) is None
    half = {"index": 0, "delta": {"content": ""}, "logprobs": {"content": [{"token": "", "logprob": -1.0}]}}
    assert read_delta(event(half)) == Delta((Piece("", logprob=-1.0),))
    two = {"delta": {"content": "ab"}, "logprobs": {"content": [{"logprob": -1.0}, {"logprob": -2.0}]}}
    assert read_delta(event(two)) == Delta((Piece("ab", logprob=-1.0), Piece("", logprob=-2.0)))
    for line in ("data: {]", 'data: {"error": "no"}', 'data: {"choices": [7]}', 'data: {"choices": [{"delta": 3}]}'):
        with pytest.raises(Garbage):
            read_delta(line)


def test_vllm_is_no_such_server():
    vllm = {"data": [{"id": "m", "owned_by": "vllm", "max_model_len": 4096}]}
    assert server_of(json.dumps(vllm)) is None and server_of("no list") is None
    assert server_of('{"data": [{"id": "m"}]}') is None
    ours = {"id": "nano", "owned_by": "reflective", "max_model_len": 1024}
    assert server_of(json.dumps({"data": [ours]})) == "another reflective"
    assert server_of('{"data": [{"id": "m", "owned_by": "sglang", "max_model_len": 9}]}') == "SGLang"


def test_finished_events_come_in_any_order_and_all_of_them():
    with connected("SGLang", max_rows=2) as (_, model):
        ended = [e for e in model.stream(PROBLEM, effort=7) if isinstance(e, Finished)]
    assert sorted(e.id for e in ended) == list(range(7))
