"""A question's answer in the objects of an API: in one piece, or as a stream of events while it is being computed.

A `Wire` writes the objects of one API; what happens, in which order and when it goes wrong, is here for all of them. An
error in the middle of a stream is the last thing in it. Where nothing is to be said for a while, a comment keeps the
connection open.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Any, Protocol

from reflective.serve.faults import Fault
from reflective.serve.prompts import Question
from reflective.serve.service import Service
from reflective.serve.visitor import Visitor
from reflective.serve.writing import Delta, Outcome, Told, write

KEEP_ALIVE = b": keep-alive\n\n"


class Wire(Protocol):
    """One response in the objects of an API; the parts of a stream are bytes of server-sent events."""

    id: str

    def whole(self, outcome: Outcome) -> dict[str, Any]:
        """The response in one piece."""

    def begin(self) -> Iterable[bytes]:
        """How a stream begins."""

    def told(self, value: Any) -> Iterable[bytes]:
        """An object for the `reflective` member."""

    def more(self, delta: Delta) -> Iterable[bytes]:
        """More of an answer."""

    def end(self, outcome: Outcome) -> Iterable[bytes]:
        """How it ends."""

    def failed(self, fault: Fault) -> Iterable[bytes]:
        """How it ends where it failed."""


async def in_one_piece(service: Service, wire: Wire, question: Question, visitor: Visitor) -> dict[str, Any]:
    """The response of a request without a stream."""
    async with aclosing(write(service, question, visitor, deltas=False)) as items:
        async for item in items:
            if isinstance(item, Outcome):
                service.answered(wire.id, question, item, visitor)
                return wire.whole(item)
    raise AssertionError("a question ended without an outcome")


async def stream(service: Service, wire: Wire, question: Question, visitor: Visitor) -> AsyncGenerator[bytes]:
    """The events of a streaming request."""
    for part in wire.begin():
        yield part
    try:
        async with aclosing(write(service, question, visitor, deltas=True)) as items:
            async for item in items:
                parts: Iterable[bytes]
                match item:
                    case None:
                        parts = [KEEP_ALIVE]
                    case Told(value):
                        parts = wire.told(value)
                    case Delta():
                        parts = wire.more(item)
                    case Outcome():
                        service.answered(wire.id, question, item, visitor)
                        parts = wire.end(item)
                for part in parts:
                    yield part
    except Exception as error:
        for part in wire.failed(service.failed(error, visitor.log)):
            yield part
