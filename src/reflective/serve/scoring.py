"""/v1/score: the steps of responses that somebody else wrote, with their scores. Many at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from reflective.api import Given, Reflective
from reflective.errors import ContextError
from reflective.serve.faults import TOO_LONG, Fault
from reflective.serve.prompts import turn
from reflective.serve.schemas import MAX_MESSAGES, Message, Strict
from reflective.serve.visitor import Visitor
from reflective.types import ScoredResponse

if TYPE_CHECKING:
    from reflective.serve.service import Service

MAX_ITEMS = 256
BATCH_CHARACTERS = 16_384  # of responses that are read while what the engine writes stands still


class ScoreItem(Strict):
    """A conversation, and a response to it, as the model would have written it: with the reasoning's marks."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    response: str


class ScoreRequest(Strict):
    """The body of /v1/score: one item, or several in `items`."""

    model: str
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)] | None = None
    response: str | None = None
    items: Annotated[list[ScoreItem], Field(min_length=1, max_length=MAX_ITEMS)] | None = None

    def all(self) -> list[ScoreItem]:
        """The items."""
        single = self.messages is not None and self.response is not None
        if single == (self.items is not None):
            raise Fault(400, "Give either messages and response, or items.", param="items", code="invalid_value")
        if self.items is not None:
            return self.items
        return [ScoreItem(messages=self.messages or [], response=self.response or "")]


async def scores(service: Service, body: ScoreRequest, visitor: Visitor) -> Any:
    """The response: the scores of all items, by turns with what else the engine does. Raises `Fault`."""
    items = body.all()
    engine = service.engine
    if not (engine.reads and engine.scored):
        why = engine.unscored or f"the engine of {engine.name!r} only writes"
        raise Fault(400, f"Nothing can be scored here: {why}.", code="unsupported")
    several, loop = body.items is not None, asyncio.get_running_loop()
    found: list[dict[str, Any]] = []
    with service.place(visitor.client, 1) as place:
        try:
            async with asyncio.timeout(service.settings.time_limit_s):
                await place.came
                for batch in _batches(items):
                    number = len(found) if several else None
                    found += await loop.run_in_executor(service.reader, _score, service.model, batch, number)
                    visitor.pay(sum(one["tokens"] for one in found[-len(batch) :]))
        except TimeoutError:
            raise service.late from None
    return {"object": "list", "model": service.name, "data": found} if several else found[0]


def _batches(items: Sequence[ScoreItem]) -> Iterator[list[ScoreItem]]:
    """The items in order, in batches that the engine reads in one go: between two it writes for others."""
    batch: list[ScoreItem] = []
    length = 0
    for item in items:
        length += len(item.response)
        if batch and length > BATCH_CHARACTERS:
            yield batch
            batch, length = [], len(item.response)
        batch.append(item)
    yield batch


def _score(model: Reflective, items: Sequence[ScoreItem], first: int | None) -> list[dict[str, Any]]:
    """The scores of some items, number `first` of the request and on; None: there is only one. Waits for the engine."""
    pairs: list[Given] = []
    for number, item in enumerate(items, first or 0):
        where = "" if first is None else f"items[{number}]."
        messages = [turn(message, f"{where}messages[{i}]") for i, message in enumerate(item.messages)]
        pairs.append(Given(messages=messages, response=item.response))
    try:
        scored = model.score_many(pairs)
    except ContextError as error:
        raise Fault(400, str(error), param="messages" if first is None else "items", code=TOO_LONG) from error
    return [_told(model, *pair) for pair in zip(items, scored, strict=True)]


def _told(model: Reflective, item: ScoreItem, scored: ScoredResponse) -> dict[str, Any]:
    tokenizer = model.engine.tokenizer
    ids = model.engine.judge.format.completed(tokenizer.encode(item.response, add_special_tokens=False, verbose=False))
    steps, start = [], 0
    for position, value in zip(scored.step_positions, scored.step_scores, strict=True):
        text = model.engine.decode(ids[start : position + 1]).strip()
        steps.append({"position": position, "text": text, "score": value})
        start = position + 1
    return {"object": "score", "score": scored.score, "steps": steps, "tokens": len(ids)}
