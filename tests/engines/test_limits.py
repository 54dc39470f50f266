"""What is read of servers that send too much, lead elsewhere, or are not who they say."""

import asyncio
import datetime
import gzip
import ipaddress
import json
import socket
import ssl
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from reflective.engines.remote import endpoints, limits
from reflective.engines.remote.endpoints import Pool
from reflective.engines.remote.limits import read_lines, read_text, retry_after
from reflective.engines.remote.protocol import Garbage
from reflective.errors import EngineError, InputError

pytest.importorskip("aiohttp")


class Answer:
    """As much of an answer as is read; `taken` counts the parts that were."""

    def __init__(self, *parts, **headers):
        self.parts, self.headers, self.taken = parts, headers, 0
        self.content = self

    async def iter_any(self):
        for part in self.parts:
            self.taken += 1
            yield part


def lines(answer):
    async def read():
        return [line async for line in read_lines(answer)]

    return asyncio.run(read())


def test_lines_end_at_line_feeds_alone_wherever_the_network_cuts():
    whole = "data: a\u2028b\x85c\ndata: d\n\nend".encode()
    for cut in range(len(whole)):
        assert lines(Answer(whole[:cut], whole[cut:])) == ["data: a\u2028b\x85c", "data: d", "", "end"]


def test_a_line_without_an_end_is_garbage_and_not_kept(monkeypatch):
    monkeypatch.setattr(limits, "LONGEST_LINE", 100)
    answer = Answer(*[b"x" * 60] * 50)
    with pytest.raises(Garbage, match="a line of more than 100 bytes"):
        lines(answer)
    assert answer.taken == 2


def test_a_long_answer_is_cut(monkeypatch):
    monkeypatch.setattr(limits, "LONGEST_ANSWER", 100)
    answer = Answer(*[b"x" * 60] * 50)
    assert asyncio.run(read_text(answer)) == "x" * 100
    assert answer.taken == 2


@pytest.mark.parametrize(("said", "want"), [("7", 7.0), ("-1", 0.0), ("nan", 0.0), ("Wed, 21 Oct", 0.0)])
def test_a_wait_that_is_no_number_of_seconds_is_none(said, want):
    assert retry_after(Answer(**{"retry-after": said})) == want


# ---- over the network


@contextmanager
def serving(status, body=b"", *, context=None, **headers):
    """A server that gives one answer; yields its address and the API keys that came."""
    keys = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            keys.append(self.headers.get("Authorization"))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # a client that hangs up
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http{'s' if context else ''}://127.0.0.1:{server.server_address[1]}/v1", keys
    finally:
        server.shutdown()
        server.server_close()


def get(url, **options):
    pool = Pool([url], **{"api_key": None, **options})
    try:
        return pool.get(pool.endpoints[0], "/models")
    finally:
        pool.close()


def test_a_key_does_not_follow_a_redirect():
    with serving(200, b"{}") as (there, theirs), serving(307, Location=f"{there}/models") as (here, ours):
        status, _ = get(here, api_key="s3cret")
        assert status == 307 and ours == ["Bearer s3cret"] and theirs == []


def test_a_server_that_takes_connections_and_says_nothing_ends_it_in_one_line(monkeypatch):
    monkeypatch.setattr("reflective.engines.remote.endpoints.LIST_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        with pytest.raises(EngineError, match="does not answer in time. Is the server still loading"):
            get(url)


def test_what_was_packed_is_not_unpacked():
    packed = gzip.compress(b"0" * 10_000)
    with serving(200, packed, Content_Encoding="gzip") as (url, _):
        status, text = get(url)
        assert status == 200 and len(text) < 1000


@contextmanager
def streaming(rest):
    """A server whose streams are one token and its end, then what `rest` writes; yields its address and its peers."""
    peers = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def write(self, text):
            self.wfile.write(f"{len(text):x}\r\n{text}\r\n".encode())

        def do_POST(self):
            peers.append(self.client_address)
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            choice = {"token_ids": [3], "logprobs": {"token_logprobs": [-0.5], "top_logprobs": [{}]}}
            self.write(f"data: {json.dumps({'choices': [{**choice, 'finish_reason': 'stop'}]})}\n\n")
            rest(self)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # a client that hangs up
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", peers
    finally:
        server.shutdown()
        server.server_close()


def ended(handler):
    handler.write("data: [DONE]\n\n")
    handler.write("")


def silent(handler):
    handler.wfile.flush()
    time.sleep(1.0)
    handler.close_connection = True


def endless(handler):
    while True:
        handler.write("x" * 1000)


@pytest.mark.parametrize(("rest", "connections"), [(ended, 1), (silent, 3), (endless, 3)])
def test_a_connection_serves_again_where_the_server_ends_its_answer_and_else_is_left(rest, connections):
    with streaming(rest) as (url, peers):
        pool = Pool([url], api_key=None)
        try:
            for id in range(3):
                start = time.monotonic()
                pool.start(id, lambda _written, model: {"model": model}, None)
                arrived = pool.arrived.get(timeout=5)
                assert (arrived.end, [one.token for one in arrived.sampled]) == ("stop", [3])
                assert time.monotonic() - start < 0.9
        finally:
            pool.close()
        assert len(set(peers)) == connections


@pytest.fixture(scope="module")
def own_authority(tmp_path_factory):
    """Files of a certificate for 127.0.0.1 that vouches for itself, and of its key."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = made.add_extension(x509.SubjectAlternativeName([address]), critical=False)
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    folder, pem = tmp_path_factory.mktemp("authority"), serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(made.sign(key, hashes.SHA256()).public_bytes(pem))
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(private)
    return folder / "cert.pem", folder / "key.pem"


def test_a_server_that_nobody_vouches_for_gets_no_key_and_one_line(own_authority, monkeypatch):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*own_authority)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    with serving(200, b"{}", context=context) as (url, keys):
        with pytest.raises(EngineError, match="no known authority vouches for.*SSL_CERT_FILE"):
            get(url, api_key="s3cret")
        assert keys == []
        monkeypatch.setenv("SSL_CERT_FILE", str(own_authority[0]))
        assert get(url, api_key="s3cret") == (200, "{}") and keys == ["Bearer s3cret"]


def test_a_file_of_authorities_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/authority.pem")
    with pytest.raises(InputError, match="SSL_CERT_FILE .* can't be read"):
        get("https://127.0.0.1:1/v1")


def test_a_key_that_no_header_may_hold_is_refused_unseen(monkeypatch):
    monkeypatch.setenv("REFLECTIVE_API_KEY", "s3cret\n")  # a file's end
    assert endpoints.api_key() == "s3cret"
    for bad in ("s3cret\nX-Other: 1", "s3crét", "s3cret\x1b[2J"):
        monkeypatch.setenv("REFLECTIVE_API_KEY", bad)
        with pytest.raises(InputError, match="REFLECTIVE_API_KEY holds characters") as refused:
            endpoints.api_key()
        assert "s3cr" not in str(refused.value)
