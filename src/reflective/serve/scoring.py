"""/v1/score: the steps of responses that somebody else wrote, with their scores. Many at once."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from reflective.api import Reflective
from reflective.serve.faults import Fault
from reflective.serve.prompts import turn
from reflective.serve.schemas import MAX_MESSAGES, Message, Strict

MAX_ITEMS = 256


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


def score(model: Reflective, item: ScoreItem) -> dict[str, Any]:
    """Positions, texts and scores of the steps. Waits for the engine: not for the event loop."""
    messages = [turn(message, f"messages[{i}]") for i, message in enumerate(item.messages)]
    scored = model.score(messages=messages, response=item.response)
    tokenizer = model.engine.tokenizer
    ids = model.engine.judge.format.completed(tokenizer.encode(item.response, add_special_tokens=False, verbose=False))
    steps, start = [], 0
    for position, value in zip(scored.step_positions, scored.step_scores, strict=True):
        text = model.engine.decode(ids[start : position + 1]).strip()
        steps.append({"position": position, "text": text, "score": value})
        start = position + 1
    return {"object": "score", "score": scored.score, "steps": steps, "tokens": len(ids)}
