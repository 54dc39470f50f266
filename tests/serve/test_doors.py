"""What stands around a request: hosts, keys, sizes, times, headers; raw sockets where a client is not polite."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import resource
import socket
import time

import openai
import pytest

from reflective import InputError, Reflective, Scripted
from reflective.serve import doors, process
from reflective.serve.doors import Doors
from reflective.serve.faults import Fault
from reflective.serve.keys import Bucket, Key, find_key, read_keys
from reflective.serve.metrics import Metrics
from reflective.serve.process import check_binding
from reflective.serve.service import ServeSettings
from serve.conftest import MESSAGES, PROBLEM, Chatting, serving

KEYS = """
[alice]
key = "sk-alice-1234"
requests_per_minute = 3
highest_effort = 2

[bob]
key = "sk-bob-1234"
tokens_per_minute = 10
"""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    path.write_text(KEYS)
    settings = ServeSettings(max_body=20_000, body_s=0.5)
    with Reflective.from_pretrained("nano") as model, serving(model, settings, read_keys(path, {})) as running:
        yield running


def talk(running, head: bytes, body: bytes = b"", *, wait_s: float = 10.0):
    """Status, headers and body of an answer to raw bytes."""
    with socket.create_connection(("127.0.0.1", running.port), timeout=wait_s) as s:
        s.sendall(head + body)
        got = b""
        while part := s.recv(65536):
            got += part
    top, _, rest = got.partition(b"\r\n\r\n")
    lines = top.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:])
    return int(lines[0].split()[1]), headers, rest


def ask(running, body=None, *, key="sk-bob-1234", path="/v1/chat/completions", host="localhost", **headers):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
    sent = {"Host": host, "Connection": "close", "Content-Type": "application/json", "Content-Length": str(len(raw))}
    if key:
        sent["Authorization"] = f"Bearer {key}"
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = f"{'POST' if body is not None else 'GET'} {path} HTTP/1.1\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in sent.items() if value is not None)
    status, got, rest = talk(running, head.encode() + b"\r\n", raw)
    try:
        return status, got, json.loads(rest)
    except ValueError:
        return status, got, rest


ASKED = {"model": "nano", "messages": MESSAGES, "reasoning_effort": "none", "max_tokens": 4}


def test_without_a_key_the_api_is_closed_and_the_page_is_not(guarded):
    status, headers, got = ask(guarded, ASKED, key=None)
    assert (status, got["error"]["type"], headers["www-authenticate"]) == (401, "authentication_error", "bearer")
    assert ask(guarded, ASKED, key="sk-alice-123")[0] == 401
    assert ask(guarded, path="/metrics", key=None)[0] == 401
    assert ask(guarded, path="/health", key=None)[0] == 200
    for path in ("/openapi.json", "/docs"):  # which say nothing of the model
        assert "nano" not in str(ask(guarded, path=path, key=None))
    status, headers, _ = ask(guarded, path="/", key=None)
    assert status == 200 and "script-src 'self'" in headers["content-security-policy"]


def test_a_key_has_its_own_limits(guarded):
    status, _, got = ask(guarded, {**ASKED, "reasoning_effort": "medium"}, key="sk-alice-1234")
    assert (status, got["error"]["param"]) == (400, "reasoning_effort")
    answered = [ask(guarded, ASKED, key="sk-alice-1234") for _ in range(4)]
    assert [status for status, _, _ in answered] == [200, 200, 200, 429]
    assert int(answered[-1][1]["retry-after"]) >= 1
    assert ask(guarded, ASKED)[0] == 200  # bob's, whose tokens are used up now
    assert ask(guarded, ASKED)[2]["error"]["message"].startswith("The limit of tokens")


def test_a_bucket_fills_with_time(monkeypatch):
    now = 100.0
    monkeypatch.setattr("reflective.serve.keys.time.monotonic", lambda: now)
    bucket = Bucket(60)
    bucket.take(90)
    assert bucket.wait_s() == pytest.approx(31.0)
    now = 131.0
    assert bucket.wait_s() == 0.0
    now = 10_000.0
    assert bucket.wait_s() == 0.0 and bucket._left == 60  # no more than a minute's worth


def test_keys_come_from_the_environment_too_and_are_checked():
    keys = read_keys(None, {"REFLECTIVE_SERVER_KEYS": "first-key-1, second-key-2"})
    assert find_key(keys, "Bearer second-key-2").name == "environment-2"
    for sent in (None, "", "Bearer", "Bearer ", "Basic first-key-1", "Bearer first-key-1x", "Bearer \udce4"):
        with pytest.raises(Fault) as fault:
            find_key(keys, sent)
        assert fault.value.status == 401
    with pytest.raises(InputError, match="8 or more"):
        read_keys(None, {"REFLECTIVE_SERVER_KEYS": "short"})


@pytest.mark.parametrize("limit", ["requests_per_minute", "tokens_per_minute", "highest_effort"])
def test_a_limit_below_one_is_refused(tmp_path, limit):
    (tmp_path / "keys.toml").write_text(f"[a]\nkey = 'long enough'\n{limit} = 0\n")
    with pytest.raises(InputError, match=f"{limit} is 0"):
        read_keys(tmp_path / "keys.toml", {})


def test_a_key_of_any_letters_is_known_by_the_bytes_that_a_header_has(tmp_path):
    (tmp_path / "keys.toml").write_text("[a]\nkey = 'schlüssel-à'\n", encoding="utf-8")
    keys = read_keys(tmp_path / "keys.toml", {})
    assert find_key(keys, "Bearer " + "schlüssel-à".encode().decode("latin-1")).name == "a"


def test_who_is_told_to_wait_may_come_after_it(monkeypatch):
    now = 100.0
    monkeypatch.setattr("reflective.serve.keys.time.monotonic", lambda: now)
    key = Key("a", b"", requests=Bucket(50))
    key.requests.take(50)
    with pytest.raises(Fault) as fault:
        key.check()
    now += int(fault.value.headers["Retry-After"])
    key.check()


@pytest.mark.parametrize("text", ['key = "x"', "[a]\nkeey = 'long enough'", "[a", "[a]\nkey = 5"])
def test_a_bad_file_of_keys_is_refused(tmp_path, text):
    (tmp_path / "keys.toml").write_text(text)
    with pytest.raises(InputError):
        read_keys(tmp_path / "keys.toml", {})


@pytest.mark.parametrize(
    "wrong",
    [
        {"effort": "enormous"},
        {"effort": 0},
        {"effort": 65},
        {"effort": "high", "max_effort": 8},
        {"max_effort": 0},
        {"queue": -1},
        {"port": 65536},
        {"time_limit_s": 0.0},
        {"time_limit_s": float("nan")},
    ],
    ids=str,
)
def test_settings_that_no_request_could_be_answered_with_are_refused(wrong):
    with pytest.raises(InputError):
        ServeSettings(**wrong)
    assert [ServeSettings(effort=effort).effort for effort in ("auto", "none", "xhigh", "8")]


def test_other_addresses_need_keys_or_insistence():
    check_binding(ServeSettings(), (), insist=False)
    with pytest.raises(InputError, match=r"0\.0\.0\.0"):
        check_binding(ServeSettings(host="0.0.0.0"), (), insist=False)
    check_binding(ServeSettings(host="0.0.0.0"), (), insist=True)
    check_binding(ServeSettings(host="0.0.0.0"), read_keys(None, {"REFLECTIVE_SERVER_KEYS": "12345678"}), insist=False)


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", ""])
def test_another_host_is_not_answered_for(guarded, host):
    assert ask(guarded, path="/v1/models", host=host)[0] == 421


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000"])
def test_its_own_names_are(guarded, host):
    assert ask(guarded, path="/v1/models", host=host)[0] == 200


def test_a_body_that_is_no_json_of_ours_is_refused(guarded):
    for body in (b"", b"{", b"null", b"[]", b'{"model": NaN}', b"\xff\xfe{}", b'{"a":' * 3000, b'"' + b"\xc3" + b'"'):
        status, _, got = ask(guarded, body)
        assert status == 400 and got["error"]["type"] == "invalid_request_error", body[:20]
    deep = b'{"model":"nano","messages":' + b"[" * 5000 + b"]" * 5000 + b"}"
    assert ask(guarded, deep)[0] == 400
    nan = json.dumps(ASKED).replace('"max_tokens": 4', '"temperature": NaN').encode()
    assert ask(guarded, nan)[0] == 400
    status, _, got = ask(guarded, json.dumps(ASKED).encode(), Content_Type="text/plain")  # a browser's simple request
    assert status == 400 and "Content-Type: application/json" in got["error"]["message"]


def test_a_body_that_is_too_large_is_refused_before_it_is_there(guarded):
    assert ask(guarded, b"x" * 20_001)[0] == 413
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer sk-bob-1234\r\n"
    status, _, _ = talk(guarded, head + b"Content-Length: 999999999999\r\n\r\n")
    assert status == 413
    chunk = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
    status, _, _ = talk(guarded, head + b"Transfer-Encoding: chunked\r\n\r\n", chunk * 3)
    assert status == 413


def test_a_body_that_never_ends_is_given_up(guarded):
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer sk-bob-1234\r\n"
    status, _, rest = talk(guarded, head + b"Content-Length: 1000\r\n\r\n", b'{"model"')
    assert status == 408 and json.loads(rest)["error"]["code"] == "body_timeout"


def test_bodies_have_a_limit_together_and_are_let_go(guarded, monkeypatch):
    large = {**ASKED, "metadata": "x" * 15_000}
    monkeypatch.setattr(doors, "HELD_BODIES", 1)
    assert [ask(guarded, {**large, "model": "other"})[0] for _ in range(3)] == [404] * 3
    monkeypatch.setattr(doors, "HELD_BODIES", 0.5)
    status, headers, got = ask(guarded, large)
    assert (status, got["error"]["code"], headers["retry-after"]) == (503, "overloaded", "5")


def test_a_client_that_takes_nothing_is_given_up(monkeypatch, caplog):
    caplog.set_level(logging.INFO, logger="reflective.serve")
    monkeypatch.setattr(doors, "SEND_S", 0.05)
    ended = []

    async def app(scope, receive, send):
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        finally:
            ended.append(True)

    async def blocked(message):
        await asyncio.Event().wait()

    async def broken(scope, receive, send):
        raise RuntimeError

    async def run(app):
        closed = Doors(app, keys=(), hosts=frozenset(), max_body=1, body_s=1, metrics=Metrics())
        scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
        await asyncio.wait_for(closed(scope, asyncio.Event().wait, blocked), 5)

    asyncio.run(run(app))
    assert ended == [True]
    asyncio.run(run(broken))  # its error is logged, and can't be sent
    assert [record.getMessage().endswith("failed") for record in caplog.records if record.exc_info] == [True]
    assert [record.fields["status"] for record in caplog.records if hasattr(record, "fields")] == [499, 499]


def test_what_is_cut_is_paid_for():
    keys = read_keys(None, {"REFLECTIVE_SERVER_KEYS": "first-key-1"})
    with Reflective(Chatting([Scripted("A.\n\n", endless=True)])) as model, serving(model, keys=keys) as running:
        client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="first-key-1", max_retries=0)
        stream = client.chat.completions.create(model="scripted", messages=MESSAGES, stream=True)
        for chunk in stream:
            if getattr(chunk, "reflective", {}).get("type") == "started":
                break
        assert keys[0].tokens._left == 0
        stream.close()
        assert running.idle()
        figures = ask(running, path="/metrics", key="first-key-1")[2].decode()
        (written,) = re.findall(r"^reflective_cancelled_tokens_total (\S+)$", figures, re.MULTILINE)
        assert keys[0].tokens._left == -len(model.engine.encode_prompt(PROBLEM)) - float(written)


def test_a_folders_path_is_in_no_error():
    engine = Chatting([Scripted("A.")], name="/secret/models/small", scored=False)
    engine.unscored = f"{engine.name!r} has no head: reflective train head --model {engine.name}"
    with Reflective(engine) as model, serving(model) as running:
        for path, more in (("/score", {"response": "A."}), ("/chat/completions", {"reflective": {"strategy": "beam"}})):
            status, _, got = ask(running, {"model": "small", "messages": MESSAGES, **more}, path=f"/v1{path}")
            assert status == 400 and "no head" in got["error"]["message"] and "secret" not in str(got), got


def test_headers_have_a_limit_and_a_time(guarded, monkeypatch):
    large = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 40_000 + b"\r\n\r\n"
    many = b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"x:\r\n" * 10_000 + b"\r\n"
    for raw in (large, many, b"GET /" + b"x" * 40_000):  # a line that does not end
        status, _, body = talk(guarded, raw)
        assert (status, json.loads(body)["error"]["code"]) == (431, "headers_too_large")
    status, headers, body = talk(guarded, b"\x16\x03\x01 no HTTP\r\n\r\n")
    assert (status, headers["content-type"]) == (400, "application/json")
    assert json.loads(body)["error"]["code"] == "invalid_http"
    monkeypatch.setattr(process, "HEADERS_S", 0.3)
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=10) as slow:
        slow.sendall(b"GET /health HTTP/1.1\r\nHost: loc")
        assert slow.recv(100) == b""
    assert time.monotonic() - began < 5


def test_nothing_of_the_inside_is_in_an_error(guarded, monkeypatch, caplog):
    def broken(*_):
        raise RuntimeError("/secret/path in layer 7")

    monkeypatch.setattr("reflective.serve.service.read", broken)
    monkeypatch.setattr("reflective.serve.doors.find_key", lambda *_: Key("unlimited", b""))
    with caplog.at_level(logging.ERROR, logger="reflective.serve"):
        status, headers, got = ask(guarded, ASKED, key="sk-bob-1234")
    assert status == 500 and "secret" not in json.dumps(got)
    assert headers["x-request-id"] in caplog.text and "/secret/path" in caplog.text


def test_responses_have_security_headers_and_no_cors(guarded):
    status, headers, _ = ask(guarded, path="/v1/models", Origin="http://evil.example", X_Request_Id="mine-1")
    assert status == 200
    assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "deny"
    assert headers["cache-control"] == "no-store" and headers["x-request-id"] == "mine-1"
    assert not [name for name in headers if name.startswith("access-control")]
    assert "server" not in headers
    assert ask(guarded, path="/v1/models", X_Request_Id='"; drop')[1]["x-request-id"] != '"; drop'


def test_the_log_has_no_prompt(guarded, caplog):
    with caplog.at_level(logging.INFO, logger="reflective.serve"):
        ask(guarded, path="/v1/models")
        ask(guarded, replaced := {**ASKED, "messages": [{"role": "user", "content": "my secret question"}]})
    assert replaced and "secret question" not in str([vars(record) for record in caplog.records])
    assert any(getattr(record, "fields", {}).get("route") == "/v1/models" for record in caplog.records)


def test_the_log_has_prompts_where_they_are_wanted(caplog):
    caplog.set_level(logging.INFO, logger="reflective.serve")
    with Reflective(Chatting([Scripted("A.")])) as model, serving(model, ServeSettings(log_prompts=True)) as running:
        _, headers, _ = ask(running, {"model": "scripted", "messages": MESSAGES})
    told = [record.fields for record in caplog.records if record.getMessage() == "prompt"]
    assert told == [{"id": headers["x-request-id"], "messages": MESSAGES}]


def test_an_unknown_path_is_an_error_object(guarded):
    for path, status in (("/v1/nothing", 404), ("/../../etc/passwd", 404), ("/v1/models/other", 404)):
        got = ask(guarded, path=path)
        assert got[0] == status and got[2]["error"]["type"] == "invalid_request_error"
    status, headers, got = ask(guarded, {}, path="/v1/models")
    assert (status, headers["allow"], got["error"]["code"]) == (405, "get", "method_not_allowed")


def test_a_head_is_a_get_without_its_body(guarded):
    head = b"%s /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    (status, headers, body), whole = talk(guarded, head % b"HEAD"), talk(guarded, head % b"GET")
    assert (status, body) == (200, b"") and headers["content-length"] == whole[1]["content-length"]


def test_several_hosts_are_none(guarded):
    for hosts in (b"localhost\r\nHost: evil.example", b"evil.example\r\nHost: localhost"):
        head = b"GET /health HTTP/1.1\r\nHost: " + hosts + b"\r\nConnection: close\r\n\r\n"
        status, _, body = talk(guarded, head)
        assert (status, json.loads(body)["error"]["code"]) == (400, "invalid_http")


def test_a_key_that_must_wait_has_nothing_read(guarded, monkeypatch):
    monkeypatch.setattr("reflective.serve.service.read", None)
    key = read_keys(None, {"REFLECTIVE_SERVER_KEYS": "sk-bob-1234"})[0]
    key.tokens = Bucket(10)
    key.tokens.take(20)
    monkeypatch.setattr("reflective.serve.doors.find_key", lambda *_: key)
    assert ask(guarded, ASKED)[0] == 429


def test_an_offer_of_another_protocol_is_passed_over(guarded):
    offered = {"Connection": "Upgrade, HTTP2-Settings, close", "HTTP2_Settings": "AAMAAABk", "Upgrade": "h2c"}
    status, _, got = ask(guarded, {"model": "nano", "messages": MESSAGES, "max_tokens": 4, "n": 0}, **offered)
    assert (status, got["error"]["param"]) == (400, "n")
    assert ask(guarded, key=None, path="/health", **offered)[0] == 200


def test_new_connections_are_refused_before_the_descriptors_are_used_up(guarded, monkeypatch):
    monkeypatch.setattr(process, "most_connections", lambda: len(guarded.server.server_state.connections) - 1)
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=10) as s:
        refused = s.recv(65536)
        assert refused.startswith(b"HTTP/1.1 503 ") and b'"code":"overloaded"' in refused and s.recv(1) == b""
    monkeypatch.setattr(process, "most_connections", lambda: 2)
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=10) as held:
        for _ in range(2):
            held.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert held.recv(65536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(("most", "connections"), [(64, 32), (1024, 896), (resource.RLIM_INFINITY, math.inf)])
def test_connections_leave_descriptors_to_files(monkeypatch, most, connections):
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (most, most))
    assert process.most_connections() == connections
