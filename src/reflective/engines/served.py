"""What engines share whose tokens are drawn elsewhere: in vLLM's own loop, or behind an address.

They get tokens with values (the token's and the slots', see `slots.py`), and make of them what the contract promises:
steps by the same rule as everywhere, scores in the pass that wrote them, text, trajectories. A token without a
readable score is an error, never an unscored step.
"""

from __future__ import annotations

import hashlib
import itertools
from abc import abstractmethod
from collections.abc import Sequence
from typing import Final

from reflective.engines.base import Engine, Event, Finished, Request, StepScored, Text
from reflective.engines.described import Described
from reflective.engines.drawn import Drawn
from reflective.engines.slots import read_logit, read_logprob
from reflective.engines.torch.engine import TEXT_INTERVAL, step_logprobs
from reflective.engines.torch.sequence import Running
from reflective.errors import ContextError, EngineError, InputError
from reflective.sprm.aggregate import DEFAULT_AGGREGATION, aggregate
from reflective.sprm.segment import StepRule, StepTracker
from reflective.types import FinishReason, Step, Trajectory

HIGHEST_TEMPERATURE: Final = 2.0  # vLLM refuses more


class ServedEngine(Engine):
    """The contract over tokens that arrive; what sends requests is left to the engines."""

    def __init__(self, model: Described, *, scored: bool, context_length: int | None = None) -> None:
        self.model = model
        self.name, self.tokenizer = model.name, model.tokenizer
        self.scored = scored
        self.rule: StepRule | None = model.config.rule if model.config is not None else None
        self.aggregation = model.config.aggregation if model.config is not None else DEFAULT_AGGREGATION
        self.calibration = model.config.calibration if model.config is not None and scored else None
        self.context_length = context_length or model.context_length
        self._ids = itertools.count()
        self._running: dict[int, Running] = {}
        self._finished: dict[int, Running] = {}
        self._cancelled: list[Running] = []
        self._events: list[Event] = []

    # ---- the contract

    def encode_prompt(self, problem: str) -> tuple[int, ...]:
        """Chat template with the thinking opened; a template that does not open it gets `<think>` appended."""
        return self.encode_messages([{"role": "user", "content": problem}])

    def encode_messages(self, messages: Sequence[dict[str, str]]) -> tuple[int, ...]:
        """Token ids of a chat in the model's template, with the thinking opened."""
        if getattr(self.tokenizer, "chat_template", None):
            text = self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        else:
            text = "\n\n".join(message["content"] for message in messages) + "\n"
        ids = list(self.tokenizer.encode(text, add_special_tokens=False))
        if self.rule is not None and not StepTracker(self.rule, ids).thinking:
            ids.append(self.rule.think_id)
        return tuple(ids)

    def submit(self, request: Request) -> int:
        """Queue a request (see `Engine.submit`)."""
        if request.max_tokens < 1:
            raise InputError(f"max_tokens is {request.max_tokens}; it must be 1 or more.")
        if request.sampling.temperature > HIGHEST_TEMPERATURE:
            raise InputError(
                f"temperature is {request.sampling.temperature}; vLLM draws with at most {HIGHEST_TEMPERATURE:g}."
            )
        id = next(self._ids)
        sequence = self._start(id, request) if request.parent is None else self._continue(id, request)
        room = self.context_length - len(sequence.prompt_ids) - len(sequence.token_ids)
        if room < 1:
            thinking = f" and what was written so far {len(sequence.token_ids):,}" if sequence.token_ids else ""
            raise ContextError(
                f"the prompt has {len(sequence.prompt_ids):,} tokens{thinking}, but {self.name!r} reads at most "
                f"{self.context_length:,} with the answer. Shorten the problem."
            )
        sequence.limit = min(sequence.limit, len(sequence.token_ids) + room)
        self._running[id] = sequence
        self._send(sequence)
        return id

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
        cancelled, self._cancelled = self._cancelled, []
        for sequence in cancelled:
            self._finish(sequence, "cancelled")
        if self._running and not self._events:
            self._receive()
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        """Forget every trajectory."""
        self._running.clear()
        self._finished.clear()
        self._cancelled.clear()

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

    # ---- sequences

    def _start(self, id: int, request: Request) -> Running:
        if not request.prompt_ids:
            raise InputError("the prompt is empty; there must be at least one token.")
        bad = next((t for t in request.prompt_ids if not 0 <= t < self.model.vocabulary), None)
        if bad is not None:
            raise InputError(f"token id {bad} does not exist; this model knows 0 to {self.model.vocabulary - 1}.")
        tracker = StepTracker(self.rule, request.prompt_ids) if self.rule is not None else None
        return Running(id, request, request.prompt_ids, tracker, request.max_tokens)

    def _continue(self, id: int, request: Request) -> Running:
        parent = self._finished.get(request.parent) if request.parent is not None else None
        if parent is None:
            raise InputError(f"trajectory {request.parent} can't be continued: it is no finished one of this engine.")
        return Running(
            id,
            request,
            parent.prompt_ids,
            parent.tracker.copy() if parent.tracker is not None else None,
            len(parent.token_ids) + request.max_tokens,
            token_ids=list(parent.token_ids),
            logprobs=list(parent.logprobs),
            step_positions=list(parent.step_positions),
            step_logits=list(parent.step_logits),
            emitted=len(parent.token_ids),
            emit_from=len(parent.token_ids),
        )

    def _stop_ids(self, sequence: Running) -> list[int]:
        stops = set(self.model.eos_ids)
        if self.rule is not None and sequence.request.until == "think_end":
            stops.add(self.rule.think_end_id)
        return sorted(stops)

    # ---- what arrives

    def _take(self, sequence: Running, drawn: Sequence[Drawn], end: FinishReason | None = None) -> None:
        """Append tokens, score the steps that they end, and finish where they end the trajectory.

        `end` is the server's word that nothing follows; the engine's own rule finds the reason where it can.
        """
        think_end = self.rule.think_end_id if self.rule is not None else -1
        reason: FinishReason | None = None
        for one in drawn:
            self._append(sequence, one)
            reason = sequence.finish_after(one.token, think_end, self.model.eos_ids)
            if reason is not None:
                break
        reason = reason or end
        if len(sequence.token_ids) - sequence.emitted >= TEXT_INTERVAL and reason is None:
            self._emit_text(sequence)
        if reason is not None:
            self._running.pop(sequence.id, None)
            self._finish(sequence, reason)

    def _append(self, sequence: Running, one: Drawn) -> None:
        if not 0 <= one.token < self.model.vocabulary:
            raise EngineError(f"the server wrote the token id {one.token}, which {self.name!r} does not have.")
        if self.scored and len(one.slots) < 2:
            raise EngineError(f"a token came with no step scores beside it, though {self.name!r} was served with them.")
        sequence.token_ids.append(one.token)
        logprob = read_logprob(one.value, *one.slots[1:]) if one.slots else min(one.value, 0.0)
        if logprob is not None and len(sequence.logprobs) == len(sequence.token_ids) - 1:
            sequence.logprobs.append(logprob)
        if sequence.tracker is None or not sequence.tracker.push(one.token):
            return
        sequence.step_positions.append(len(sequence.token_ids) - 1)
        if not self.scored:
            return
        # s = MLP(h) from the slots, plus w · c from the tokens of the step
        logit = read_logit(*one.slots[:2]) + self._logprob_part(sequence)
        sequence.step_logits.append(logit)
        self._emit_text(sequence)
        score = Step(sequence.step_positions[-1], logit).score
        self._events.append(StepScored(sequence.id, len(sequence.step_logits) - 1, score))

    def _logprob_part(self, sequence: Running) -> float:
        weight = self.model.logprob_weight
        if weight is None:
            return 0.0
        if len(sequence.logprobs) != len(sequence.token_ids):
            raise EngineError(
                f"the head of {self.name!r} reads token log-probabilities, and the server sends none that can be used."
            )
        mean, lowest = step_logprobs(sequence.logprobs, sequence.step_positions)[-1]
        return weight[0] * mean + weight[1] * lowest

    def _emit_text(self, sequence: Running, *, flush: bool = False) -> None:
        delta = sequence.take_text(self._decode, flush=flush)
        if delta:
            self._events.append(Text(sequence.id, delta))

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    # ---- finish

    def _finish(self, sequence: Running, reason: FinishReason) -> None:
        self._emit_text(sequence, flush=True)
        sequence.finish_reason = reason
        self._finished[sequence.id] = sequence
        self._events.append(Finished(sequence.id, self._trajectory(sequence, reason)))

    def _trajectory(self, sequence: Running, reason: FinishReason) -> Trajectory:
        ids = sequence.token_ids
        thinking_stop, answer_start = len(ids), len(ids)
        if self.rule is None:
            thinking_stop, answer_start = 0, 0
        elif self.rule.think_end_id in ids:
            thinking_stop = ids.index(self.rule.think_end_id)
            answer_start = thinking_stop + 1
        answer_stop = len(ids) - 1 if ids and ids[-1] in self.model.eos_ids else len(ids)
        return Trajectory(
            index=sequence.request.index,
            token_ids=tuple(ids),
            thinking=self._decode(ids[: min(thinking_stop, answer_stop)]),
            answer_text=self._decode(ids[answer_start:answer_stop]).strip(),
            steps=self._steps(sequence) if self.scored else (),
            score=aggregate(sequence.step_logits, self.aggregation),
            finish_reason=reason,
            token_logprobs=tuple(sequence.logprobs) if len(sequence.logprobs) == len(ids) else None,
            seed=sequence.request.seed,
        )

    def _steps(self, sequence: Running) -> tuple[Step, ...]:
        steps, start = [], 0
        for position, logit in zip(sequence.step_positions, sequence.step_logits, strict=True):
            steps.append(Step(position, logit, self._decode(sequence.token_ids[start : position + 1]).strip()))
            start = position + 1
        return tuple(steps)


def draw_seed(seed: int, written: int) -> int:
    """The seed for what follows `written` tokens, 63 bits.

    vLLM counts random numbers from the start of each request: a continuation with the same seed would draw again what
    the thinking was drawn from. So the number of tokens that are there is mixed in; none leaves the seed as it is.
    """
    if not written:
        return seed
    return int.from_bytes(hashlib.blake2b(f"{seed}/{written}".encode(), digest_size=8).digest(), "big") >> 1
