"""The process that serves: its socket, its protocol, its log, its end."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import re
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import uvicorn
from pydantic_core import to_json
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from reflective.api import Reflective
from reflective.errors import InputError
from reflective.serve.app import make_app
from reflective.serve.doors import OWN_NAMES
from reflective.serve.faults import Fault
from reflective.serve.keys import Key
from reflective.serve.service import ServeSettings

log = logging.getLogger("reflective.serve")

MAX_HEADERS = 32 * 1024  # bytes of a request's address and headers together
HEADER_ENDS = 4  # bytes: a colon, a space, the end of the line
HEADERS_S = 20.0  # for the headers of a request, from its first byte
KEEP_ALIVE_S = 75  # that a connection may be idle
UNREAD_MS = 60_000  # after which the system ends a connection whose client reads nothing
BACKLOG = 4096
SPARE_FILES = 128  # descriptors that connections leave to everything else
UPGRADE = re.compile(rb"(\A\S+ \S+ HTTP/1\.1\r\n(?:[^\r\n]+\r\n)*?)Upgrade:[^\r\n]*\r\n", re.IGNORECASE)
ACCEPTED = 32  # connections that asyncio accepts before it looks at one of them
LATE_S = 0.3  # that a stopping server still listens: what is on its way gets an error object, not a reset connection
SHUTDOWN_S = 3  # after the grace period, for what is still being sent


class Protocol(HttpToolsProtocol):
    """uvicorn's, with a limit of bytes and of seconds for headers, and one for connections that never ask."""

    _headers_size = 0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        with suppress(AttributeError, OSError):  # of Linux, and of TCP
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_MS)
        self._expect(KEEP_ALIVE_S)
        if len(self.connections) > most_connections():
            self._refuse(Fault(503, "The server has too many connections. Try again later.", code="overloaded"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        # there is no other protocol: at this header, which Java sends by default, the parser would drop the body
        super().data_received(UPGRADE.sub(rb"\1", data, count=1))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._headers_size = 0
        self._expect(HEADERS_S)

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + HEADER_ENDS)
        super().on_header(name, value)

    def _count(self, size: int) -> None:
        self._headers_size += size
        if self._headers_size > MAX_HEADERS:
            raise ValueError("headers too large")  # the parser's error: answered as follows

    def send_400_response(self, msg: str) -> None:
        """An error object for what is no request, or has too large an address or headers; the connection is closed."""
        if self._headers_size > MAX_HEADERS:
            what = f"The address and the headers have more than {MAX_HEADERS:,} bytes."
            fault = Fault(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, what, code="headers_too_large")
        else:
            fault = Fault(HTTPStatus.BAD_REQUEST, msg, code="invalid_http")
        self._refuse(fault)

    def _refuse(self, fault: Fault) -> None:
        body = to_json(fault.body())
        head = f"HTTP/1.1 {fault.status} {HTTPStatus(fault.status).phrase}\r\ncontent-type: application/json\r\n"
        self.transport.write(f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
        self.transport.close()

    def on_headers_complete(self) -> None:
        self._expect(None)
        super().on_headers_complete()

    def _expect(self, seconds: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(seconds, self.transport.close) if seconds is not None else None


def most_connections() -> float:
    """So many may be open: at the limit of descriptors, asyncio logs thousands of errors a second, and files fail."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return math.inf if most == resource.RLIM_INFINITY else max(most - SPARE_FILES, most // 2)


class Server(uvicorn.Server):
    """uvicorn's, which lets requests run on for a while before it ends."""

    stop: Callable[[], None] = staticmethod(lambda: None)
    on_listening: Callable[[], None] = staticmethod(lambda: None)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listening in [one for server in self.servers for one in server.sockets]:
            with socket.socket(fileno=os.dup(listening.fileno())) as one:
                one.listen(BACKLOG)
        self.on_listening()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        log.info("stopping")
        self.stop()
        await asyncio.sleep(LATE_S)
        await super().shutdown(sockets)
        log.info("stopped")
        # SIGTERM was heeded: the process ends as done, and not by the signal
        self._captured_signals = [s for s in self._captured_signals if s != signal.SIGTERM]


def make_server(
    model: Reflective,
    settings: ServeSettings,
    keys: Sequence[Key] = (),
    on_listening: Callable[[], None] = lambda: None,
) -> Server:
    """The server of a model; `on_listening` is called once it listens."""
    app = make_app(model, settings, keys)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=Protocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=ACCEPTED,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=round(settings.grace_s) + SHUTDOWN_S,
    )
    server = Server(config)
    server.stop = lambda: app.state.service.stop()
    server.on_listening = on_listening
    return server


def serve(model: Reflective, settings: ServeSettings, keys: Sequence[Key], on_listening: Callable[[], None]) -> None:
    """Serve until a signal comes, and end the process with it."""
    _write_log()
    with suppress(ValueError, OSError):
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    make_server(model, settings, keys, on_listening).run()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # all is answered and closed; to take a million objects apart one by one would cost seconds


def check_binding(settings: ServeSettings, keys: Sequence[Key], *, insist: bool) -> None:
    """Raise `InputError` for an address that others can reach, where nobody needs a key."""
    if settings.host not in OWN_NAMES and not keys and not insist:
        raise InputError(
            f"at {settings.host} everybody who reaches this machine could use the model, and there are no keys. Give "
            "--keys FILE or REFLECTIVE_SERVER_KEYS, or insist with --without-keys."
        )


class JsonLines(logging.Formatter):
    """A log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)  # in ASCII: a line is a line, and can be written, whatever a request held


def _write_log() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name, level in (("reflective.serve", logging.INFO), ("uvicorn", logging.WARNING), ("asyncio", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
