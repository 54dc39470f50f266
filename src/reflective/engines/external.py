"""What engines share whose tokens are drawn elsewhere: in vLLM's own loop, or behind an address.

They get tokens with values (the token's and the slots', see `slots.py`), and make of them what the contract promises:
steps by the same rule as everywhere, scores in the pass that wrote them, text, trajectories. A token without a
readable score is an error, never an unscored step. What is held to a form is an answer: it has no steps and no scores.
"""

from __future__ import annotations

import hashlib
import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Final

from reflective.engines.base import Event, Request
from reflective.engines.sampled_token import SampledToken
from reflective.engines.sequence import TEXT_INTERVAL, Running
from reflective.engines.token_engine import TokenEngine
from reflective.engines.vllm.slots import read_logit, read_logprob, slots_of
from reflective.errors import EngineError, InputError
from reflective.models.metadata import Metadata
from reflective.types import FinishReason

HIGHEST_TEMPERATURE: Final = 2.0  # vLLM refuses more


class ExternalEngine(TokenEngine):
    """The contract over tokens that arrive; what sends requests is left to the engines."""

    def __init__(self, model: Metadata, *, context_length: int | None = None) -> None:
        super().__init__(
            model.name,
            model.tokenizer,
            model.judge.for_generation(model.name, knows_trajectories=False),
            context_length=context_length or model.context_length,
            vocabulary=model.vocabulary,
            eos_ids=model.eos_ids,
        )
        self.model = model
        self.slots = slots_of(model.tokenizer, model.model_config.get_text_config()) if model.judge.scores else None
        self._running: dict[int, Running] = {}

    # ---- the contract

    def submit(self, request: Request) -> int:
        """Queue a request (see `Engine.submit`)."""
        if request.sampling.temperature > HIGHEST_TEMPERATURE:
            raise InputError(
                f"temperature is {request.sampling.temperature}; vLLM draws with at most {HIGHEST_TEMPERATURE:g}."
            )
        sequence = self._open(request)
        self._send(sequence)  # what is refused here is not there
        self._running[sequence.id] = sequence
        return sequence.id

    def cancel(self, id: int) -> None:
        """Stop a trajectory, or forget a finished one (see `Engine.cancel`)."""
        if self._finished.pop(id, None) is not None:
            return
        sequence = self._running.pop(id, None)
        if sequence is not None:
            self._abort(sequence)
            self._cancelled.append(sequence)

    @property
    def busy(self) -> bool:
        """Whether any trajectory runs, or has a cancellation to report."""
        return bool(self._running or self._cancelled or self._events)

    def step(self) -> list[Event]:
        """Take in what has been written since the last step; waits for something where trajectories run."""
        self._finish_cancelled()
        if self._running and not self._events:
            self._receive()
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        """Forget every trajectory."""
        self._running.clear()
        self._finished.clear()
        self._cancelled.clear()

    def _unfinished(self) -> Iterable[Running]:
        return self._running.values()

    # ---- what an engine adds

    @abstractmethod
    def _send(self, sequence: Running) -> None:
        """Have the trajectory written, from its prompt and the tokens that it has."""

    @abstractmethod
    def _abort(self, sequence: Running) -> None:
        """Stop writing it; what arrives of it later is dropped."""

    @abstractmethod
    def _receive(self) -> None:
        """Wait for tokens, and hand them to `_take`."""

    def _stop_ids(self, sequence: Running) -> list[int]:
        stops = {*self._eos_ids, *sequence.request.stop_token_ids}
        if sequence.request.until != "eos":
            stops |= self.judge.format.closing_end_ids
        return sorted(stops)

    # ---- what arrives

    def _take(self, sequence: Running, sampled: Sequence[SampledToken], end: FinishReason | None = None) -> None:
        """Append tokens, score the steps that they end, and finish where they end the trajectory.

        `end` is the server's word that nothing follows; the engine's own rule finds the reason where it can.
        """
        reason: FinishReason | None = None
        for one in sampled:
            self._append(sequence, one)
            reason = sequence.finish_after(one.token, self._eos_ids)
            if reason is not None:
                break
            if len(sequence.token_ids) == sequence.next_mark:
                self._mark(sequence)
        reason = reason or end
        if len(sequence.token_ids) - sequence.emitted >= TEXT_INTERVAL and reason is None:
            self._emit_text(sequence)
        if reason is not None:
            self._running.pop(sequence.id, None)
            self._finish(sequence, reason)

    def _append(self, sequence: Running, one: SampledToken) -> None:
        if not 0 <= one.token < self.vocabulary:
            raise EngineError(f"the server wrote the token id {one.token}, which {self.name!r} does not have.")
        if self.scored and len(one.slots) < 2:
            raise EngineError(f"a token came with no step scores beside it, though {self.name!r} was served with them.")
        ends_step = self._append_token(sequence, one.token)
        logprob = None
        if sequence.request.constraint is None:  # else the form's mask covers the slots, too: nothing is in them
            logprob = read_logprob(one.value, *one.slots[1:]) if one.slots else min(one.value, 0.0)
        if logprob is not None and not math.isnan(logprob) and len(sequence.logprobs) == len(sequence.token_ids) - 1:
            sequence.logprobs.append(logprob)
        if ends_step and self.scored:
            self._take_score(sequence, read_logit(*one.slots[:2]))


def draw_seed(seed: int, written: int) -> int:
    """The seed for what follows `written` tokens, 63 bits.

    vLLM counts random numbers from the start of each request: a continuation with the same seed would draw again what
    the reasoning was drawn from. So the number of tokens already written is mixed in; with none, the seed does not
    change.
    """
    if not written:
        return seed
    return int.from_bytes(hashlib.blake2b(f"{seed}/{written}".encode(), digest_size=8).digest(), "big") >> 1
