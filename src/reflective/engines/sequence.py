"""One trajectory while it is being written: tokens, steps, text, and when it ends. No torch."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from reflective.engines.base import Request
from reflective.engines.constraint import Matcher
from reflective.engines.stops import before_stop, holds_stop, may_begin_stop, window
from reflective.judge.format import Reader
from reflective.judge.logprobs import step_logprobs
from reflective.types import FinishReason, Step

INCOMPLETE = "\ufffd"  # what a tokenizer decodes half a character to
CONTEXT_TOKENS = 6  # tokens decoded again before new ones, since a token's text depends on its neighbours
LONGEST_CONTEXT = 24  # so many are decoded again rather than decoding fewer twice
TEXT_INTERVAL = 8  # tokens between two Text events of a trajectory; a step's end and its own end send the rest

Decode = Callable[[Sequence[int]], str]


@dataclass(slots=True)
class Running:
    """A running, waiting or finished trajectory.

    `token_ids` holds all sampled tokens, those of the parent included; the last one has not been through the model
    yet. `limit` is the length of `token_ids` at which the request's budget is used up.
    """

    id: int
    request: Request
    prompt_ids: tuple[int, ...]
    reader: Reader
    limit: int
    next_mark: float = math.inf  # tokens at which the next mark falls
    look_at: float = 0  # tokens before which no length matters to it (see `look_again`)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    certainties: list[float] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    step_positions: list[int] = field(default_factory=list)
    step_logits: list[float] = field(default_factory=list)
    step_texts: list[str] = field(default_factory=list)
    head_states: list[Any] = field(default_factory=list)  # after each step, where the head keeps one
    finish_reason: FinishReason | None = None
    matcher: Matcher | None = None  # holds what the request adds to its constraint
    stopped: bool = False  # a stop string of the request is complete
    emitted: int = 0  # tokens whose text has been sent
    emit_from: int = 0  # where this request's text begins
    _context: int = 0  # the token from which on text is decoded
    _sent: int | None = None  # characters from there on that have been sent; None: not known
    _pieces: list[str] = field(default_factory=list)  # what has been sent since `_pieces_from`
    _pieces_from: int = 0  # a token: the one after the last step, unless half a character was held back there

    @property
    def length(self) -> int:
        """Positions whose keys and values exist once the sequence runs: everything but the last sampled token."""
        return len(self.prompt_ids) + max(len(self.token_ids) - 1, 0)

    @property
    def shared(self) -> int:
        """Positions that it has in common with its parent: the prompt, and the tokens that it began with."""
        return len(self.prompt_ids) + self.emit_from

    @property
    def unended_draws(self) -> range:
        """Where the tokens of the step under way were drawn, in prompt and tokens together."""
        begin, last = len(self.prompt_ids), self.step_positions[-1] if self.step_positions else -1
        return range(begin + last, begin + len(self.token_ids) - 1)

    @property
    def reserve(self) -> int:
        """Positions that the sequence may need at most."""
        return len(self.prompt_ids) + self.limit

    def look_again(self) -> None:
        """Set `look_at`: before so many tokens none has to be looked at but those that the format watches."""
        if self.matcher is not None or self.request.stops:
            self.look_at = 0
        else:
            self.look_at = min(self.limit, self.next_mark, self.emitted + TEXT_INTERVAL)

    def stops_at(self, token: int, decode: Decode) -> bool:
        """Whether `token`, the last one, which the reader has seen, ends the sequence by the request's own stops."""
        if token in self.request.stop_token_ids:
            return True
        answer = self.reader.answer_at
        if not self.request.stop or answer is None:
            return False
        start = max(answer, len(self.token_ids) - window(self.request.stop))
        self.stopped = holds_stop(decode(self.token_ids[start:]), self.request.stop)
        return self.stopped

    def finish_after(self, token: int, eos_ids: frozenset[int]) -> FinishReason | None:
        """Why the sequence ends with `token`, which the reader and `step_positions` know, or None when it goes on."""
        if token in eos_ids or self.stopped or token in self.request.stop_token_ids:
            return "eos"
        if self.request.until != "eos" and self.reader.closed_at == len(self.token_ids) - 1:
            return "think_end"
        if self.request.until == "step" and self.step_positions[-1:] == [len(self.token_ids) - 1]:
            return "step"
        if len(self.token_ids) >= self.limit:
            return "length"
        return None

    def branch(self, id: int, request: Request, at: int, reader: Reader) -> Running:
        """What begins with this trajectory's first `at` tokens, which `reader` has read, with `request`'s budget."""
        steps = bisect_left(self.step_positions, at)
        return Running(
            id,
            request,
            self.prompt_ids,
            reader,
            at + request.max_tokens,
            token_ids=self.token_ids[:at],
            logprobs=self.logprobs[:at],
            certainties=self.certainties[:at],
            confidences=self.confidences[:at],
            step_positions=self.step_positions[:steps],
            step_logits=self.step_logits[:steps],
            step_texts=self.step_texts[:steps],
            head_states=self.head_states[:steps],
            emitted=at,
            emit_from=at,
            _pieces_from=at,
        )

    def last_step_logprobs(self) -> tuple[float, float]:
        """Mean and lowest token log-probability of the step that the last token ended (see `step_logprobs`)."""
        start = self.step_positions[-2] + 1 if len(self.step_positions) > 1 else 0
        return step_logprobs(self.logprobs[start:], [len(self.logprobs) - start - 1])[0]

    def take_text(self, decode: Decode, *, flush: bool = False) -> str:
        """Text of the tokens that were not sent yet; half a character is held back unless `flush`.

        So is what may begin a stop string, and from a complete one on there is no text.
        """
        if self.emitted >= len(self.token_ids):
            return ""
        if self.emitted - self._context > LONGEST_CONTEXT:
            self._context, self._sent = self.emitted - CONTEXT_TOKENS, None
        self._context = max(self.emit_from, self._context)
        if self._sent is None:
            self._sent = len(decode(self.token_ids[self._context : self.emitted]))
        text = decode(self.token_ids[self._context :])
        if not flush and (text.endswith(INCOMPLETE) or self._may_stop(text)):
            return ""
        sent, self._sent, self.emitted = self._sent, len(text), len(self.token_ids)
        delta = self.unstopped(text[sent:])
        self._pieces.append(delta)
        return delta

    def _may_stop(self, text: str) -> bool:
        stop = self.request.stop
        return bool(stop) and not self.stopped and may_begin_stop(text, stop)

    def end_step(self, logit: float, decode: Decode, *, ended: bool = False) -> None:
        """Note the step that the last token ends; its text is what was sent since the one before, where that is whole.

        With `ended` that token ends the response, and is no part of its text. Call it when the text has been taken.
        """
        start = self.step_positions[-2] + 1 if len(self.step_positions) > 1 else 0
        whole = self._pieces_from == start and self.emitted == len(self.token_ids)
        if ended:
            text = decode(self.token_ids[start:-1])
        else:
            text = "".join(self._pieces) if whole else self.unstopped(decode(self.token_ids[start:]))
        self.step_logits.append(logit)
        self.step_texts.append(text.strip())
        self._pieces, self._pieces_from = [], self.emitted

    def unstopped(self, text: str) -> str:
        """A text of the answer up to the stop string that ended it."""
        return before_stop(text, self.request.stop) if self.stopped else text

    def steps(self) -> tuple[Step, ...]:
        """The steps so far."""
        parts = zip(self.step_positions, self.step_logits, self.step_texts, strict=True)
        return tuple(Step(position, logit, text) for position, logit, text in parts)
