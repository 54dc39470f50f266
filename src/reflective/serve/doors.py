"""What stands around every request: host and size checks, keys, headers, a log line.

A plain ASGI middleware. A body is read whole, up to a limit of bytes and of seconds, before anything looks at it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import suppress
from typing import Any

from pydantic_core import to_json

from reflective.serve.faults import Fault, fault_of
from reflective.serve.keys import Key, find_key
from reflective.serve.metrics import Metrics
from reflective.serve.tracing import Tracing
from reflective.serve.visitor import Visitor

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

log = logging.getLogger("reflective.serve")
access = logging.getLogger("reflective.serve.access")

OWN_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})
SEND_S = 30.0  # for a client to take what it is sent
HELD_BODIES = 64  # of the largest size, in memory together
_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": (
        # nothing but what this server itself gives; no inline script, no inline style, in no frame
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}
HEADERS = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
_ID = re.compile(r"[\w.:-]{1,64}", re.ASCII)


class Gone(Exception):
    """The client has gone away."""


class Doors:
    """See the module's docstring. `hosts` are the names that a Host header may have; empty: any."""

    def __init__(
        self,
        app: App,
        *,
        keys: Sequence[Key],
        hosts: frozenset[str],
        max_body: int,
        body_s: float,
        metrics: Metrics,
        tracing: Tracing | None = None,
    ) -> None:
        self._app, self._keys, self._hosts, self._metrics = app, keys, hosts, metrics
        self._max_body, self._body_s = max_body, body_s
        self._held = 0  # bytes of the bodies of all requests that are here
        self._tracing = tracing

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # as GET; uvicorn leaves the body out, since its own scope says so
            scope = {**scope, "method": "GET"}
        visit = Visit(scope, send)
        span = self._tracing.begin(scope["method"], visit.header(b"traceparent")) if self._tracing else None
        try:
            self._check(visit)
            receive = await self._body(visit, receive)
            await self._app(scope, receive, visit.send)
        except Gone:
            pass
        except Exception as error:
            fault = fault_of(error)
            if fault.status >= 500 and not isinstance(error, Fault):
                log.error("request %s failed", visit.id, exc_info=error)
            if visit.status is None:
                await visit.refuse(fault)
        finally:
            self._held -= visit.held
            self._metrics.requests.labels(visit.route, str(visit.status or 499)).inc()
            access.info("request", extra={"fields": visit.line})
            if self._tracing is not None:
                self._tracing.end(span, visit.line)

    def _check(self, visit: Visit) -> None:
        if visit.hosts > 1:
            raise Fault(400, "The request has more than one Host header.", code="invalid_http")
        if self._hosts and visit.host not in self._hosts:
            raise Fault(421, f"This server does not answer for the host '{visit.host:.80}'.", code="wrong_host")
        if self._keys and visit.guarded:
            key = find_key(self._keys, visit.header(b"authorization"))
            visit.visitor = Visitor(f"key:{key.name}", key)
        visit.scope["state"]["visitor"] = visit.visitor

    async def _body(self, visit: Visit, receive: Receive) -> Receive:
        """The body, read; the app gets it in one piece, and then what else comes from the client."""
        if visit.scope["method"] in ("GET", "OPTIONS"):
            return receive
        too_large = Fault(413, f"The body has more than {self._max_body:,} bytes.", code="body_too_large")
        length = visit.header(b"content-length")
        if length is not None and length.isascii() and length.isdigit() and int(length) > self._max_body:
            raise too_large
        parts: list[bytes] = []
        more = True
        try:
            async with asyncio.timeout(self._body_s):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Gone
                    parts.append(message.get("body", b""))
                    more = message.get("more_body", False)
                    self._held += len(parts[-1])
                    visit.held += len(parts[-1])
                    if visit.held > self._max_body:
                        raise too_large
                    if self._held > HELD_BODIES * self._max_body:
                        what = "Too many large requests are here already. Try again later."
                        raise Fault(503, what, code="overloaded", headers={"Retry-After": "5"})
        except TimeoutError:
            what = f"The body was not complete within {self._body_s:.0f} seconds."
            raise Fault(408, what, code="body_timeout") from None
        whole: Message | None = {"type": "http.request", "body": b"".join(parts), "more_body": False}

        async def replay() -> Message:
            nonlocal whole
            if whole is not None:
                message, whole = whole, None
                return message
            return await receive()

        return replay


class Visit:
    """A request as the doors see it."""

    def __init__(self, scope: MutableMapping[str, Any], send: Send) -> None:
        self.scope, self._send = scope, send
        self._headers = dict(reversed(scope["headers"]))
        given = self.header(b"x-request-id") or ""
        self.id = given if _ID.fullmatch(given) else secrets.token_hex(8)
        self.status: int | None = None
        self.held = 0  # bytes of its body
        self.began = time.perf_counter()
        self.visitor = Visitor("address:" + (scope["client"][0] if scope.get("client") else "?"))
        scope.setdefault("state", {})["request_id"] = self.id

    def header(self, name: bytes) -> str | None:
        """A header's value."""
        value = self._headers.get(name)
        return value.decode("latin-1") if value is not None else None

    @property
    def hosts(self) -> int:
        """How many Host headers there are."""
        return sum(name == b"host" for name, _ in self.scope["headers"])

    @property
    def host(self) -> str:
        """The name in the Host header, without a port."""
        return re.sub(r":\d*$", "", self.header(b"host") or "").lower()

    @property
    def guarded(self) -> bool:
        """Whether the path needs a key: the API and the figures do, the page and the probes do not."""
        path = self.scope["path"]
        return bool(path.startswith("/v1/") or path in ("/v1", "/metrics"))

    @property
    def route(self) -> str:
        """The route's pattern, for the figures: not a path, of which there may be any number."""
        found = getattr(self.scope.get("route"), "path", None)
        return found if found else "/"

    async def send(self, message: Message) -> None:
        """To the client, with our headers. Raises `Gone` where it does not take them."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = [*HEADERS, (b"x-request-id", self.id.encode())]
            if self.scope["path"].startswith("/v1"):
                own.append((b"cache-control", b"no-store"))
            given = {name for name, _ in message["headers"]}
            message = {**message, "headers": [*message["headers"], *(h for h in own if h[0] not in given)]}
        try:
            async with asyncio.timeout(SEND_S):
                await self._send(message)
        except TimeoutError:
            self.status = None
            raise Gone from None

    async def refuse(self, fault: Fault) -> None:
        """An error object, for a client that takes it."""
        body = to_json(fault.body())
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers += [(name.lower().encode(), value.encode()) for name, value in fault.headers.items()]
        if fault.status in (408, 413, 503):
            headers.append((b"connection", b"close"))  # the rest of the body is not waited for
        with suppress(Gone):
            await self.send({"type": "http.response.start", "status": fault.status, "headers": headers})
            await self.send({"type": "http.response.body", "body": body})

    @property
    def line(self) -> dict[str, Any]:
        """What the log says; of what was asked, nothing."""
        return {
            "id": self.id,
            "method": self.scope["method"],
            "route": self.route,
            "status": self.status or 499,
            "ms": round(1000 * (time.perf_counter() - self.began), 1),
            "client": self.visitor.client,
            **self.visitor.log,
        }
