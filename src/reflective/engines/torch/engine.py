"""The embedded engine: trajectories written and scored in one pass, on CPU or GPU.

`step` is `admit → decode → draw → score → finish`. A step's score is computed when its step token is drawn, from the
hidden state that gave the logits of that draw: no second pass, no re-tokenisation. Prompts are prefilled once for all
trajectories that share them; finished rows leave the batch and waiting ones enter.

Departure from the reference: where it generates with one copy of the weights and re-reads every trajectory with
another, this holds one copy and reads every token once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from reflective.engines.base import Engine, Event, Finished, Request, StepScored, Text
from reflective.engines.torch.fused import FusedBackbone, can_fuse
from reflective.engines.torch.hf import DecodePlan, HFBackbone
from reflective.engines.torch.kv import KVMemory, Parked, ParkingLot
from reflective.engines.torch.memory import available_memory, is_out_of_memory
from reflective.engines.torch.native import NativeBackbone, can_run_native
from reflective.engines.torch.sampling import BROKEN, SamplingRows, drawn, sureness, uniforms
from reflective.engines.torch.scheduler import Scheduler
from reflective.engines.torch.sequence import Running
from reflective.errors import CheckpointError, ContextError, EngineError, InputError
from reflective.sprm.aggregate import aggregate
from reflective.sprm.head import SPRMHead
from reflective.sprm.segment import StepRule, StepTracker, step_positions
from reflective.types import FinishReason, Step, Trajectory

MAX_ROWS = 64  # trajectories written at once by default
TEXT_INTERVAL = 8  # tokens between two Text events of a trajectory; its end sends the rest
LENGTH_QUANTUM = 64  # KV memory grows in units of so many positions
KV_SHARE = 0.6  # of the memory that is free when generation starts, for keys and values
PARKING_SHARE = 0.25  # of that, for finished trajectories and shared prompts


class Drawn(NamedTuple):
    """What was drawn for some rows; the last two are empty unless they are kept."""

    tokens: list[int]
    logprobs: list[float]
    certainties: list[float] = []
    confidences: list[float] = []


class TorchEngine(Engine):
    """Writes scored trajectories with a Hugging Face causal LM and an SPRM head.

    `model` and `head` are taken as they are; without a head and a rule, trajectories carry no steps. The model's
    projections may be re-laid (values unchanged), so make the engine before an optimizer; when weights have changed in
    place, call `refresh`.

    `keep_confidences` keeps the self-certainty and the confidence of every token, for selectors that need no training
    (`reflective.confidence`). `fuse` and `compiled` allow the faster ways to decode, for comparisons.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        head: SPRMHead | None = None,
        rule: StepRule | None = None,
        *,
        name: str = "model",
        layer: int = -2,
        aggregation: str = "geometric_mean",
        calibration: Any = None,
        max_rows: int = MAX_ROWS,
        catch_features: bool = False,
        keep_confidences: bool = False,
        fuse: bool = True,
        compiled: bool = True,
    ) -> None:
        if head is not None and rule is None:
            raise CheckpointError("a head without a step rule can't score: pass rule=StepRule(...).")
        if max_rows < 1:
            raise InputError(f"max_rows is {max_rows}; it must be 1 or more.")
        self.name, self.tokenizer, self.rule, self.calibration = name, tokenizer, rule, calibration
        self.head = head.eval() if head is not None else None
        self.scored = head is not None
        self.aggregation = aggregation
        self.model = model
        self._backbone = _backbone(model, layer, fuse=fuse, compiled=compiled)
        self._device = self._backbone.shape.device
        self._decode = _decoder(tokenizer)
        self.context_length = _context_length(model)
        self._eos_ids = _eos_ids(model, tokenizer)
        self._ids = itertools.count()
        self._scheduler = Scheduler(max_rows)
        self._finished: dict[int, Running] = {}
        self._cancelled: list[Running] = []
        self._events: list[Event] = []  # of the step under way; kept when it fails, and told by the next one
        self._kv: KVMemory | None = None
        self._parking = ParkingLot(0)
        self._vocabulary = int(model.get_output_embeddings().weight.shape[0])
        self._catch_features, self._keep_confidences = catch_features, keep_confidences
        self._features: dict[int, list[Tensor]] = {}
        self._settings: SamplingRows | None = None
        self._common: list[tuple[int, int]] = []  # of the same rows as the settings
        self._seen: Tensor | None = None
        self._uniform = torch.empty(0, 0)

    @classmethod
    def from_checkpoint(cls, checkpoint: Any, **options: Any) -> TorchEngine:
        """An engine on a loaded `reflective.checkpoint.Checkpoint`."""
        config = checkpoint.config
        if config is None:
            return cls(checkpoint.model, checkpoint.tokenizer, name=checkpoint.name, **options)
        if config.feature_position != "before":
            raise CheckpointError(
                f"the head of {checkpoint.name!r} reads {config.feature_position!r} the step token; generation scores "
                "a step from the position before it. Train the head with feature_position 'before'."
            )
        return cls(
            checkpoint.model,
            checkpoint.tokenizer,
            checkpoint.head,
            config.rule,
            name=checkpoint.name,
            layer=config.layer,
            aggregation=config.aggregation,
            calibration=config.calibration,
            **options,
        )

    # ---- the contract

    def encode_prompt(self, problem: str) -> tuple[int, ...]:
        """Chat template with the thinking opened; a template that does not open it gets `<think>` appended."""
        messages = [{"role": "user", "content": problem}]
        return self.encode_messages(messages)

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
        id = next(self._ids)
        sequence = self._continue(id, request) if request.parent is not None else self._start(id, request)
        if sequence.reserve > self.context_length:
            room = self.context_length - len(sequence.prompt_ids) - len(sequence.token_ids)
            if room < 1:
                thinking = f" and what was written so far {len(sequence.token_ids):,}" if sequence.token_ids else ""
                raise ContextError(
                    f"the prompt has {len(sequence.prompt_ids):,} tokens{thinking}, but {self.name!r} reads at most "
                    f"{self.context_length:,} with the answer. Shorten the problem."
                )
            sequence.limit = len(sequence.token_ids) + room
        self._scheduler.submit(sequence)
        return id

    @torch.inference_mode()
    def cancel(self, id: int) -> None:
        """Stop a trajectory, or forget a finished one (see `Engine.cancel`)."""
        if self._finished.pop(id, None) is not None:
            self._parking.drop(id)
            self._features.pop(id, None)
            return
        waiting = self._scheduler.remove_waiting(id)
        if waiting is not None:
            self._cancelled.append(waiting)
            return
        for row, sequence in enumerate(self._scheduler.running):
            if sequence.id == id:
                self._leave(row, park=True)
                self._cancelled.append(sequence)
                return

    @property
    def busy(self) -> bool:
        """Whether any trajectory waits, runs, or has a cancellation to report."""
        return self._scheduler.busy or bool(self._cancelled) or bool(self._events)

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """Write one token of every running trajectory."""
        events = self._events
        cancelled, self._cancelled = self._cancelled, []
        for sequence in cancelled:
            self._emit_text(sequence, events, flush=True)
            self._finish(sequence, "cancelled", events)
        self._retry_when_full(lambda: self._admit(events))
        if self._scheduler.running:
            tokens, features = self._retry_when_full(self._write)
            self._advance(0, tokens, features, events)
        self._events = []
        return events

    def close(self) -> None:
        """Free the KV memory; the model stays the caller's."""
        self._kv = None
        self._parking.clear()
        self._finished.clear()
        self._features.clear()

    def refresh(self) -> None:
        """Go on with weights that an optimizer has changed in place; what is held of finished trajectories goes."""
        if self.busy:
            raise EngineError("the weights changed while trajectories were being written; let them finish first.")
        self._backbone.refresh()
        self._parking.clear()
        self._finished.clear()
        self._features.clear()

    # ---- scoring given text

    @torch.inference_mode()
    def score(self, prompt_ids: Sequence[int], response_ids: Sequence[int]) -> tuple[Step, ...]:
        """Steps and their scores of a given response, by one forward over prompt and response.

        Raises `ContextError` when both are longer than the context.
        """
        if self.head is None or self.rule is None:
            raise CheckpointError(f"{self.name!r} has no SPRM head, so nothing can be scored.")
        ids = (*prompt_ids, *response_ids)
        self._check_ids(ids)
        if len(ids) > self.context_length:
            raise ContextError(f"prompt and response have {len(ids):,} tokens; the context is {self.context_length:,}.")
        positions = step_positions(self.rule, response_ids, prompt_ids)
        if not positions:
            return ()
        begin, wanted = len(prompt_ids), self.head.uses_logprobs
        ids = ids[: begin + positions[-1] + wanted]  # the last step token is read for its log-probability alone
        try:
            kv = KVMemory(self._backbone.shape, 1, len(ids))
            features, logprobs = self._backbone.read(ids, kv, [begin + p - 1 for p in positions], logprobs=wanted)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise EngineError(f"out of memory while reading {len(ids):,} tokens. Use a smaller model.") from error
            raise
        extra = None
        if wanted:
            first = 0 if begin else 1  # without a prompt, nothing stands before the response's first token
            extra = self._logprob_features(logprobs[begin + first - 1 :], [p - first for p in positions])
        logits = self.head(features, extra).tolist()
        return self._steps(response_ids, positions, logits)

    def take_features(self, id: int) -> tuple[list[int], Tensor]:
        """Step token positions and features (n, H) of the n steps of a finished trajectory.

        The engine must have been made with `catch_features`. The features are handed out once, on the CPU: for a
        continuation, those of its parent come along unless they were taken before it was submitted.
        """
        sequence = self._finished.get(id)
        if sequence is None or not self._catch_features:
            raise InputError(f"no features are held for trajectory {id}: it is not finished, or nothing was caught.")
        rows = self._features.pop(id, [])
        width = self.model.get_input_embeddings().weight.shape[1]
        features = torch.stack(rows) if rows else torch.empty(0, width, dtype=self._backbone.shape.dtype)
        return sequence.step_positions[len(sequence.step_positions) - len(rows) :], features

    @property
    def max_rows(self) -> int:
        """Trajectories written at once, at most."""
        return self._scheduler.max_rows

    # ---- making sequences

    def _start(self, id: int, request: Request) -> Running:
        if not request.prompt_ids:
            raise InputError("the prompt is empty; there must be at least one token.")
        self._check_ids(request.prompt_ids)
        tracker = StepTracker(self.rule, request.prompt_ids) if self.rule is not None else None
        return Running(id, request, request.prompt_ids, tracker, request.max_tokens)

    def _check_ids(self, ids: Sequence[int]) -> None:
        bad = next((t for t in ids if not 0 <= t < self._vocabulary), None)
        if bad is not None:
            raise InputError(f"token id {bad} does not exist; this model knows 0 to {self._vocabulary - 1}.")

    def _continue(self, id: int, request: Request) -> Running:
        parent = self._finished.get(request.parent) if request.parent is not None else None
        if parent is None:
            raise InputError(f"trajectory {request.parent} can't be continued: it is no finished one of this engine.")
        if request.parent in self._features:
            self._features[id] = list(self._features[request.parent])
        return Running(
            id,
            request,
            parent.prompt_ids,
            parent.tracker.copy() if parent.tracker is not None else None,
            len(parent.token_ids) + request.max_tokens,
            token_ids=list(parent.token_ids),
            logprobs=list(parent.logprobs),
            certainties=list(parent.certainties),
            confidences=list(parent.confidences),
            step_positions=list(parent.step_positions),
            step_logits=list(parent.step_logits),
            emitted=len(parent.token_ids),
            emit_from=len(parent.token_ids),
        )

    # ---- admit

    def _admit(self, events: list[Event]) -> None:
        """Give free rows to waiting trajectories; fresh ones draw their first token from the prompt's logits."""
        if not self._scheduler.admits:
            return
        self._reserve_memory()
        while (first_row := len(self._scheduler.running)) < self._scheduler.max_rows:
            group = self._scheduler.next_group()
            if not group:
                break
            fresh = not group[0].token_ids
            try:
                if fresh:
                    logits, feature = self._prefill_group(group, first_row)
                    self._load_rows(first_row)
                    tokens = self._draw_first(first_row, logits)
                else:
                    self._resume(group[0], first_row)
                    self._load_rows(first_row)
            except Exception:
                self._scheduler.preempt_from(first_row)
                self._settings = None
                raise
            if fresh:
                self._advance(first_row, tokens, feature.expand(len(group), -1), events)

    def _prefill_group(self, group: list[Running], first_row: int) -> tuple[Tensor, Tensor]:
        """Fill the rows of trajectories that share a prompt; returns its last logits (1, V) and feature (1, H)."""
        kv, prompt = self._memory, group[0].prompt_ids
        parked = self._parking.get(prompt)
        if parked is not None and parked.logits is not None and parked.feature is not None:
            kv.restore(parked.kv, first_row)
            logits, feature = parked.logits, parked.feature
        else:
            logits, feature = self._backbone.prefill(prompt, kv, first_row)
            if self._scheduler.waits_for(prompt):
                self._parking.put(prompt, Parked(kv.park(first_row, len(prompt)), logits, feature))
        for row in range(first_row + 1, first_row + len(group)):
            kv.move(first_row, row, len(prompt))
        if not self._scheduler.waits_for(prompt):
            self._parking.drop(prompt)
        return logits.unsqueeze(0), feature.unsqueeze(0)

    def _resume(self, sequence: Running, row: int) -> None:
        """Bring back the keys and values of a trajectory that goes on: parked, or by another prefill."""
        parked = self._parking.get(sequence.request.parent) if sequence.request.parent is not None else None
        if parked is not None and parked.kv.shape[3] == sequence.length:
            self._memory.restore(parked.kv, row)
        else:
            ids = (*sequence.prompt_ids, *sequence.token_ids[:-1])
            self._backbone.prefill(ids, self._memory, row)

    @property
    def _memory(self) -> KVMemory:
        if self._kv is None:
            raise EngineError("the engine was used before memory was reserved, or after close().")
        return self._kv

    def _reserve_memory(self) -> None:
        """Make KV memory that holds the longest trajectory; rows are as many as asked for and as memory allows."""
        need = -(-self._scheduler.longest_reserve() // LENGTH_QUANTUM) * LENGTH_QUANTUM
        need = min(need, -(-self.context_length // LENGTH_QUANTUM) * LENGTH_QUANTUM)
        wanted = min(self._scheduler.max_rows, len(self._scheduler.running) + self._scheduler.waiting)
        if wanted == 0 or (self._kv is not None and self._kv.length >= need and self._kv.rows >= wanted):
            return
        old, running = self._kv, len(self._scheduler.running)
        budget = int(available_memory(self._device) * KV_SHARE)
        shape = self._backbone.shape
        length = max(need, old.length if old is not None else 0)
        fit = budget // (length * shape.bytes_per_position)
        if fit < max(running, 1):
            raise EngineError(
                f"{length:,} tokens need {length * shape.bytes_per_position / 2**30:.1f} GiB a row and "
                f"{budget / 2**30:.1f} GiB are free for them. Use a lower --max-tokens or a smaller model."
            )
        room = max(wanted, min(2 * old.rows, self._scheduler.max_rows)) if old is not None else wanted
        rows = max(min(room, fit), old.rows if old is not None else 1)
        self._scheduler.max_rows = min(self._scheduler.max_rows, max(fit, rows))
        if self._parking.capacity == 0:
            self._parking.capacity = int(budget * PARKING_SHARE)
        self._kv = KVMemory(shape, rows, length)
        if old is not None and running:
            self._kv.take_over(old, running)
        self._load_rows(0)

    # ---- rows

    def _load_rows(self, first: int) -> None:
        """Per-row tensors for the running rows from `first` on; called when the batch changes."""
        kv, running = self._memory, self._scheduler.running
        if self._uniform.shape != (kv.rows, kv.length):
            self._uniform = torch.zeros((kv.rows, kv.length), device=self._device)
            self._seen = None
            first = 0
        for row in range(first, len(running)):
            sequence = running[row]
            drawn = len(sequence.token_ids)
            numbers = uniforms(sequence.request.seed, drawn, max(sequence.limit - drawn, 1))
            begin = len(sequence.prompt_ids) + drawn  # column = the position that the drawn token will take
            count = min(len(numbers), kv.length - begin)
            if count > 0:
                self._uniform[row, begin : begin + count] = numbers[:count].to(self._device)
            self._mark_seen(row, (*sequence.prompt_ids, *sequence.token_ids))
        self._settings = None

    def _mark_seen(self, row: int, ids: Sequence[int]) -> None:
        """Note the tokens that a repetition penalty punishes; memory for it is made when one asks."""
        if self._seen is None:
            if self._scheduler.running[row].request.sampling.repetition_penalty == 1.0:
                return
            self._seen = torch.zeros((self._memory.rows, self._vocabulary), dtype=torch.bool, device=self._device)
            for other, sequence in enumerate(self._scheduler.running):
                self._seen[other, [*sequence.prompt_ids, *sequence.token_ids]] = True
        self._seen[row] = False
        self._seen[row, list(ids)] = True

    def _leave(self, row: int, *, park: bool) -> None:
        """Take a row out of the batch; the last row moves into its place."""
        sequence, kv = self._scheduler.running[row], self._memory
        if park and sequence.token_ids:
            self._parking.put(sequence.id, Parked(kv.park(row, sequence.length)))
        move = self._scheduler.leave(row)
        if move is not None:
            kv.move(move.source, move.target, self._scheduler.running[row].length)
            self._uniform[move.target] = self._uniform[move.source]
            if self._seen is not None:
                self._seen[move.target] = self._seen[move.source]
        self._settings = None

    # ---- decode, draw, score

    def _write(self) -> tuple[Drawn, Tensor]:
        """A token for each running row, and the features (B, H) that gave it."""
        running = self._scheduler.running
        if self._settings is None:
            self._settings, self._common = self._settings_of(running), _common_prompts(running)
        plan = DecodePlan(
            [s.token_ids[-1] for s in running],
            [len(s.prompt_ids) + len(s.token_ids) - 1 for s in running],
            self._common,
        )
        if self._keep_confidences:  # they need all logits
            logits, features = self._backbone.decode(plan, self._memory)
            places = torch.tensor(plan.positions, device=self._device).unsqueeze(1) + 1
            uniform = self._uniform[: len(running)].gather(1, places).squeeze(1)
            return self._draw(0, logits, self._settings, uniform), features
        seen = self._seen[: len(running)] if self._seen is not None else None
        tokens, logprobs, features = self._backbone.write(plan, self._memory, self._settings, self._uniform, seen)
        self._refuse_broken(tokens, running)
        return Drawn(tokens, logprobs), features

    def _draw_first(self, first: int, logits: Tensor) -> Drawn:
        """Draw the first token of each row from `first` on, from the logits (1, V) of their prompt."""
        running = self._scheduler.running[first:]
        uniform = self._uniform[first : first + len(running), len(running[0].prompt_ids)]
        return self._draw(first, logits.expand(len(running), -1), self._settings_of(running), uniform)

    def _draw(self, first: int, logits: Tensor, settings: SamplingRows, uniform: Tensor) -> Drawn:
        """Draw a token for each row from `first` on, by logits (B, V) and numbers (B,); changes no trajectory."""
        running = self._scheduler.running[first:]
        seen = self._seen[first : first + len(running)] if self._seen is not None else None
        tokens, logprobs = drawn(logits, settings, uniform, seen)
        self._refuse_broken(tokens, running)
        if not self._keep_confidences:
            return Drawn(tokens, logprobs)
        certainties, confidences = sureness(logits)
        return Drawn(tokens, logprobs, certainties.tolist(), confidences.tolist())

    def _settings_of(self, running: Sequence[Running]) -> SamplingRows:
        return SamplingRows.of([s.request.sampling for s in running], self._vocabulary, self._device)

    def _refuse_broken(self, tokens: Sequence[int], running: Sequence[Running]) -> None:
        if BROKEN in tokens:
            raise EngineError(
                f"{self.name!r} gave NaN or infinite logits at token {len(running[tokens.index(BROKEN)].token_ids)} of "
                "a trajectory: its weights overflow or are damaged. Try --dtype float32."
            )

    def _advance(self, first: int, drawn: Drawn, features: Tensor, events: list[Event]) -> None:
        """Append what the rows from `first` on drew, score the steps that it ends, let finished rows leave."""
        running = self._scheduler.running[first:]
        scored: list[int] = []  # indices into `running` of the rows whose step has just ended
        ended: list[tuple[int, FinishReason]] = []  # indices of the rows that are done, and why
        telling: list[int] = []  # indices of the rows whose text is due
        think_end = self.rule.think_end_id if self.rule is not None else -1
        for i, (sequence, token, logprob) in enumerate(zip(running, drawn.tokens, drawn.logprobs, strict=True)):
            ids = sequence.token_ids
            ids.append(token)
            sequence.logprobs.append(logprob)
            if sequence.tracker is not None and sequence.tracker.push(token):
                sequence.step_positions.append(len(ids) - 1)
                scored.append(i)
            if reason := sequence.finish_after(token, think_end, self._eos_ids):
                ended.append((i, reason))
            elif len(ids) - sequence.emitted >= TEXT_INTERVAL:
                telling.append(i)
        for sequence, certainty, confidence in zip(running, drawn.certainties, drawn.confidences):
            sequence.certainties.append(certainty)
            sequence.confidences.append(confidence)
        if self._seen is not None:
            self._seen[list(range(first, first + len(running))), drawn.tokens] = True
        if scored:
            self._score(scored, running, features, events)
        for i in telling:
            self._emit_text(running[i], events)
        for i, reason in reversed(ended):  # from the last row up, so that a move never touches a row still to go
            self._leave(first + i, park=reason == "think_end")
            self._emit_text(running[i], events, flush=True)
            self._finish(running[i], reason, events)

    def _score(self, scored: list[int], running: list[Running], features: Tensor, events: list[Event]) -> None:
        """s for the rows whose step has just ended, from the hidden state that drew the step token."""
        if self._catch_features:
            for i, row in zip(scored, features[scored].cpu(), strict=True):  # (n, H)
                self._features.setdefault(running[i].id, []).append(row)
        if self.head is None:
            return
        weights = self.head.logprob_weight.tolist() if self.head.logprob_weight is not None else None
        for i, logit in zip(scored, self._backbone.score(self.head, features, scored), strict=True):
            sequence = running[i]
            if weights is not None:  # s = MLP(h) + w · c
                mean, lowest = step_logprobs(sequence.logprobs, sequence.step_positions[-2:])[-1]
                logit += weights[0] * mean + weights[1] * lowest
            sequence.step_logits.append(logit)
            step = Step(sequence.step_positions[-1], logit)
            events.append(StepScored(sequence.id, len(sequence.step_logits) - 1, step.score))

    def _logprob_features(self, logprobs: Sequence[float], positions: Sequence[int]) -> Tensor:
        return torch.tensor(step_logprobs(logprobs, positions), dtype=torch.float32, device=self._device)

    # ---- finish

    def _emit_text(self, sequence: Running, events: list[Event], *, flush: bool = False) -> None:
        delta = sequence.take_text(self._decode_text, flush=flush)
        if delta:
            events.append(Text(sequence.id, delta))

    def _decode_text(self, ids: Sequence[int]) -> str:
        return self._decode(list(ids))

    def _finish(self, sequence: Running, reason: FinishReason, events: list[Event]) -> None:
        sequence.finish_reason = reason
        self._finished[sequence.id] = sequence
        events.append(Finished(sequence.id, self._trajectory(sequence, reason)))

    def _trajectory(self, sequence: Running, reason: FinishReason) -> Trajectory:
        ids = sequence.token_ids
        thinking_stop = len(ids)
        answer_start = len(ids)
        if self.rule is not None and self.rule.think_end_id in ids:
            thinking_stop = ids.index(self.rule.think_end_id)
            answer_start = thinking_stop + 1
        answer_stop = len(ids) - 1 if ids and ids[-1] in self._eos_ids else len(ids)
        if self.rule is None:
            thinking_stop, answer_start = 0, 0
        return Trajectory(
            index=sequence.request.index,
            token_ids=tuple(ids),
            thinking=self._decode_text(ids[: min(thinking_stop, answer_stop)]),
            answer_text=self._decode_text(ids[answer_start:answer_stop]).strip(),
            steps=self._steps(ids, sequence.step_positions, sequence.step_logits) if self.scored else (),
            score=aggregate(sequence.step_logits, self.aggregation),
            finish_reason=reason,
            token_logprobs=tuple(sequence.logprobs),
            token_certainties=tuple(sequence.certainties),
            token_confidences=tuple(sequence.confidences),
            seed=sequence.request.seed,
        )

    def _steps(self, ids: Sequence[int], positions: Sequence[int], logits: Sequence[float]) -> tuple[Step, ...]:
        steps, start = [], 0
        for position, logit in zip(positions, logits, strict=True):
            steps.append(Step(position, logit, self._decode_text(ids[start : position + 1]).strip()))
            start = position + 1
        return tuple(steps)

    # ---- memory

    def _retry_when_full(self, work: Callable[[], Any]) -> Any:
        """Run `work`; out of memory halves the rows, and those that left start again from their tokens."""
        while True:
            try:
                return work()
            except RuntimeError as error:
                rows = len(self._scheduler.running)
                if not is_out_of_memory(error) or rows <= 1:
                    if is_out_of_memory(error):
                        raise EngineError("out of memory with a single trajectory. Use a smaller model.") from error
                    raise
                self._scheduler.preempt(rows // 2)
                self._settings = None


def _common_prompts(running: Sequence[Running]) -> list[tuple[int, int]]:
    """For each row the first row with the same prompt, and the prompt's length; empty where no prompt is shared."""
    first: dict[tuple[int, ...], int] = {}
    found = [(first.setdefault(s.prompt_ids, row), len(s.prompt_ids)) for row, s in enumerate(running)]
    return found if len(first) < len(running) else []


def step_logprobs(logprobs: Sequence[float], positions: Sequence[int]) -> list[tuple[float, float]]:
    """Mean and lowest token log-probability of each step, its step token included; for heads that `uses_logprobs`."""
    rows, start = [], 0
    for position in positions:
        step = logprobs[start : position + 1]
        rows.append((sum(step) / len(step), min(step)))
        start = position + 1
    return rows


def _backbone(model: Any, layer: int, *, fuse: bool, compiled: bool) -> HFBackbone:
    """The fastest way to run the model, of those that are allowed."""
    if fuse and compiled and can_run_native(model):
        return NativeBackbone(model, layer)
    return FusedBackbone(model, layer) if fuse and can_fuse(model) else HFBackbone(model, layer)


def _decoder(tokenizer: Any) -> Callable[[list[int]], str]:
    """Token ids to text, special tokens included; around the checks of every call that `transformers` makes."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and type(tokenizer)._decode is PreTrainedTokenizerFast._decode:
        return partial(backend.decode, skip_special_tokens=False)
    return lambda ids: str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _context_length(model: Any) -> int:
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not positions:
        raise EngineError(
            f"{type(model).__name__} does not say how many positions it reads; use another engine (vllm)."
        )
    return int(positions)


def _eos_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Every token that ends an answer: the generation config's and the tokenizer's."""
    found: set[int] = set()
    for source in (getattr(model, "generation_config", None), model.config, tokenizer):
        ids = getattr(source, "eos_token_id", None)
        found.update([ids] if isinstance(ids, int) else ids or [])
    return frozenset(found)
