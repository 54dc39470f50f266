"""What every engine shares that knows the model's tokenizer: requests in, tokens with scores in, events out.

A subclass writes tokens, wherever that happens; here they become what the contract promises: steps by the one rule,
scores with what the head adds from log-probabilities, text, trajectories. No torch.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from reflective.engines.base import Engine, Event, Finished, Marked, Request, StepScored, Text
from reflective.engines.sequence import Running
from reflective.engines.text import encode_chat, text_decoder
from reflective.errors import EngineError, InputError
from reflective.judge.aggregate import aggregate, sigmoid
from reflective.judge.format import Reader, closing_span
from reflective.judge.judge import Judge, no_head
from reflective.types import FinishReason, Trajectory


class TokenEngine(Engine):
    """Bookkeeping from requests to trajectories; what writes the tokens is left to the engines."""

    def __init__(
        self,
        name: str,
        tokenizer: Any,
        judge: Judge,
        *,
        context_length: int,
        vocabulary: int,
        eos_ids: frozenset[int],
        decode: Callable[[list[int]], str] | None = None,
    ) -> None:
        self.name, self.tokenizer, self.judge = name, tokenizer, judge
        self.scored = judge.scores
        self.unscored = self.remark = "" if judge.scores else no_head(name)
        self.context_length = context_length
        self._logprob_terms = judge.logprob_terms
        self.vocabulary, self.end_ids, self._eos_ids = vocabulary, eos_ids, eos_ids
        self._watched = judge.format.watched
        self._opened: tuple[tuple[int, ...], Reader] = (), judge.format.open()  # the last prompt, and what has read it
        self._decode = decode or text_decoder(tokenizer)
        self._ids = itertools.count()
        self._finished: dict[int, Running] = {}
        self._cancelled: list[Running] = []
        self._events: list[Event] = []  # of the step under way; kept when it fails, and told by the next one

    # ---- prompts

    def encode_prompt(self, problem: str) -> tuple[int, ...]:
        """The problem in the chat template, with the reasoning opened (see `text.encode_chat`)."""
        return self.encode_messages([{"role": "user", "content": problem}])

    def encode_messages(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> tuple[int, ...]:
        """Token ids of a chat in the model's template, with the reasoning opened."""
        return encode_chat(self.tokenizer, self.judge, messages, tools)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens included."""
        return self._decode(list(ids))

    # ---- requests

    def check(self, request: Request) -> None:
        """As `Engine.check`; also every token id of a prompt exists."""
        super().check(request)
        self._check_ids(request.stop_token_ids)
        if request.parent is None:
            self._check_ids(request.prompt_ids)

    def _open(self, request: Request) -> Running:
        """The trajectory that a request asks for; its limit never leads beyond the context."""
        self.check(request)
        sequence = self._start(request) if request.parent is None else self._branch(request, request.parent)
        written = len(sequence.token_ids)
        self.check_room(len(sequence.prompt_ids), written)
        room = self.context_length - len(sequence.prompt_ids) - written
        sequence.limit = min(sequence.limit, written + room)
        if request.every:
            sequence.next_mark = (written // request.every + 1) * request.every
        return sequence

    def _start(self, request: Request) -> Running:
        if self._opened[0] != request.prompt_ids:  # k trajectories have one prompt, which is read once
            self._opened = request.prompt_ids, self.judge.format.open(request.prompt_ids)
        prompt, reader = self._opened
        return Running(next(self._ids), request, prompt, reader.copy(), request.max_tokens)

    def _branch(self, request: Request, parent_id: int) -> Running:
        """A continuation, or a fork."""
        parent = self._held(parent_id)
        if parent is None or (request.at is None and parent.id not in self._finished):
            kind = "finished" if request.at is None else "finished or running"
            raise InputError(f"trajectory {parent_id} can't be continued: it is no {kind} one of this engine.")
        written = len(parent.token_ids)
        at = written if request.at is None else request.at
        if not 0 <= at <= written:
            raise InputError(f"trajectory {parent_id} has {written} tokens; it can't be forked at {at}.")
        reader = parent.reader.copy()
        if at < written:
            reader = self.judge.format.open(parent.prompt_ids)
            for token in parent.token_ids[:at]:
                reader.push(token)
        return parent.branch(next(self._ids), request, at, reader)

    def _held(self, id: int) -> Running | None:
        """The trajectory of that id, if it waits, runs, or is finished and not forgotten."""
        if id in self._finished:
            return self._finished[id]
        return next((s for s in (*self._unfinished(), *self._cancelled) if s.id == id), None)

    @abstractmethod
    def _unfinished(self) -> Iterable[Running]:
        """The trajectories that wait or run."""

    def _check_ids(self, ids: Sequence[int]) -> None:
        bad = next((t for t in ids if not 0 <= t < self.vocabulary), None)
        if bad is not None:
            raise InputError(f"token id {bad} does not exist; this model knows 0 to {self.vocabulary - 1}.")

    # ---- steps and text

    def _append_token(self, sequence: Running, token: int) -> bool:
        """Append a token; whether it ends a step. What is held to a form is an answer, without steps."""
        sequence.token_ids.append(token)
        ends_step = sequence.reader.push(token)
        if sequence.request.stops and sequence.stops_at(token, self.decode):
            ends_step = sequence.reader.end_at(len(sequence.token_ids) - 1) or ends_step
        ends_step = ends_step and sequence.request.constraint is None
        if ends_step:
            sequence.step_positions.append(len(sequence.token_ids) - 1)
        return ends_step

    def _take_score(self, sequence: Running, logit: float) -> None:
        """The head's MLP(h) of the step that the last token ended: its score, after its text."""
        if self._logprob_terms is not None:
            if len(sequence.logprobs) != len(sequence.token_ids):
                raise EngineError(
                    f"the head of {self.name!r} reads token log-probabilities, and what writes the tokens gives none "
                    "that can be used."
                )
            logit = self._logprob_terms.logit(logit, *sequence.last_step_logprobs())
        self._emit_text(sequence)
        sequence.end_step(logit, self.decode, ended=self._ends(sequence, sequence.token_ids[-1]))
        self._events.append(StepScored(sequence.id, len(sequence.step_logits) - 1, sigmoid(logit)))

    def _mark(self, sequence: Running) -> None:
        """The trajectory has come to its next mark."""
        tokens, every = len(sequence.token_ids), sequence.request.every
        sequence.next_mark = tokens + every
        confidences = tuple(sequence.confidences[tokens - every : tokens])
        self._events.append(Marked(sequence.id, tokens, len(sequence.step_logits), confidences))

    def _emit_text(self, sequence: Running, *, flush: bool = False) -> None:
        delta = sequence.take_text(self.decode, flush=flush)
        if delta:
            self._events.append(Text(sequence.id, delta))

    # ---- finish

    def _ends(self, sequence: Running, token: int) -> bool:
        """Whether a token ends the response, of whose text it is then no part."""
        return token in self._eos_ids or token in sequence.request.stop_token_ids

    def _finish(self, sequence: Running, reason: FinishReason) -> None:
        self._emit_text(sequence, flush=True)
        sequence.finish_reason = reason
        self._finished[sequence.id] = sequence
        self._events.append(Finished(sequence.id, self._trajectory(sequence, reason)))

    def _finish_cancelled(self) -> None:
        cancelled, self._cancelled = self._cancelled, []
        for sequence in cancelled:
            self._finish(sequence, "cancelled")

    def _trajectory(self, sequence: Running, reason: FinishReason) -> Trajectory:
        ids = sequence.token_ids
        thinking_stop, answer_start = len(ids), len(ids)
        if self.judge.format.is_whole:
            if reason == "eos":  # a response that was cut is reasoning without an answer
                thinking_stop, answer_start = 0, 0
        elif (span := closing_span(self.judge.format, ids)) is not None:
            thinking_stop, answer_start = span
        answer_stop = len(ids) - 1 if ids and self._ends(sequence, ids[-1]) else len(ids)
        return Trajectory(
            index=sequence.request.index,
            token_ids=tuple(ids),
            thinking=self.decode(ids[: min(thinking_stop, answer_stop)]),
            answer_text=sequence.unstopped(self.decode(ids[answer_start:answer_stop])).strip(),
            steps=sequence.steps() if self.scored else (),
            score=aggregate(sequence.step_logits, self.judge.aggregation),
            finish_reason=reason,
            token_logprobs=tuple(sequence.logprobs) if len(sequence.logprobs) == len(ids) else None,
            token_certainties=tuple(sequence.certainties),
            token_confidences=tuple(sequence.confidences),
            seed=sequence.request.seed,
        )
