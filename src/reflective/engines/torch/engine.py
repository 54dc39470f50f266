"""The embedded engine: trajectories written and scored in one pass, on CPU or GPU.

`step` is `admit → decode → draw → score → finish`. A step's score is computed when its step token is drawn, from the
hidden state that gave the logits of that draw: no second pass, no re-tokenisation. Prompts are prefilled once for all
trajectories that share them; finished rows leave the batch and waiting ones enter.

Departure from the reference: where it generates with one copy of the weights and re-reads every trajectory with
another, this holds one copy and reads every token once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from reflective.engines.base import Event, Request
from reflective.engines.sequence import TEXT_INTERVAL, Running, step_logprobs
from reflective.engines.tokens import TokenEngine
from reflective.engines.torch.fused import FusedBackbone, can_fuse
from reflective.engines.torch.hf import DecodePlan, HFBackbone
from reflective.engines.torch.kv import KVMemory, Parked, ParkingLot
from reflective.engines.torch.memory import available_memory, is_out_of_memory
from reflective.engines.torch.native import NativeBackbone, can_run_native
from reflective.engines.torch.rows import Rows
from reflective.engines.torch.sampling import BROKEN, SamplingRows, drawn, sureness
from reflective.engines.torch.scheduler import Scheduler
from reflective.errors import CheckpointError, ContextError, EngineError, InputError
from reflective.sprm.head import SPRMHead
from reflective.sprm.segment import StepRule, step_positions
from reflective.types import FinishReason, Step

MAX_ROWS = 64  # trajectories written at once by default
LENGTH_QUANTUM = 64  # KV memory grows in units of so many positions
KV_SHARE = 0.6  # of the memory that is free when generation starts, for keys and values
PARKING_SHARE = 0.25  # of that, for finished trajectories and shared prompts


class Drawn(NamedTuple):
    """What was drawn for some rows; the last two are empty unless they are kept."""

    tokens: list[int]
    logprobs: list[float]
    certainties: list[float] = []
    confidences: list[float] = []


class TorchEngine(TokenEngine):
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
        super().__init__(
            name,
            tokenizer,
            rule,
            scored=head is not None,
            aggregation=aggregation,
            calibration=calibration,
            context_length=_context_length(model),
            vocabulary=int(model.get_output_embeddings().weight.shape[0]),
            eos_ids=_eos_ids(model, tokenizer),
        )
        self.model = model
        self.head = head.eval() if head is not None else None
        self._backbone = _backbone(model, layer, fuse=fuse, compiled=compiled)
        self._device = self._backbone.shape.device
        self._scheduler = Scheduler(max_rows)
        self._rows = Rows(self._vocabulary, self._device)
        self._kv: KVMemory | None = None
        self._parking = ParkingLot(0)
        self._catch_features, self._keep_confidences = catch_features, keep_confidences
        self._features: dict[int, list[Tensor]] = {}

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

    def submit(self, request: Request) -> int:
        """Queue a request (see `Engine.submit`)."""
        sequence = self._open(request)
        if request.parent in self._features:
            self._features[sequence.id] = list(self._features[request.parent])
        self._scheduler.submit(sequence)
        return sequence.id

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
        self._finish_cancelled()
        self._retry_when_full(self._admit)
        if self._scheduler.running:
            tokens, features = self._retry_when_full(self._write)
            self._advance(0, tokens, features)
        events, self._events = self._events, []
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

    def _steps(self, ids: Sequence[int], positions: Sequence[int], logits: Sequence[float]) -> tuple[Step, ...]:
        steps, start = [], 0
        for position, logit in zip(positions, logits, strict=True):
            steps.append(Step(position, logit, self._decode_text(ids[start : position + 1]).strip()))
            start = position + 1
        return tuple(steps)

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

    # ---- admit

    def _admit(self) -> None:
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
                    self._load(first_row)
                    tokens = self._draw_first(first_row, logits)
                else:
                    self._resume(group[0], first_row)
                    self._load(first_row)
            except Exception:
                self._scheduler.preempt_from(first_row)
                self._rows.changed()
                raise
            if fresh:
                self._advance(first_row, tokens, feature.expand(len(group), -1))

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
        self._load(0)

    def _load(self, first: int) -> None:
        self._rows.load(self._scheduler.running, first, self._memory.rows, self._memory.length)

    def _leave(self, row: int, *, park: bool) -> None:
        """Take a row out of the batch; the last row moves into its place."""
        sequence, kv = self._scheduler.running[row], self._memory
        if park and sequence.token_ids:
            self._parking.put(sequence.id, Parked(kv.park(row, sequence.length)))
        move = self._scheduler.leave(row)
        if move is not None:
            kv.move(move.source, move.target, self._scheduler.running[row].length)
            self._rows.move(move.source, move.target)
        self._rows.changed()

    # ---- decode, draw, score

    def _write(self) -> tuple[Drawn, Tensor]:
        """A token for each running row, and the features (B, H) that gave it."""
        running = self._scheduler.running
        settings, common = self._rows.settled(running)
        plan = DecodePlan(
            [s.token_ids[-1] for s in running],
            [len(s.prompt_ids) + len(s.token_ids) - 1 for s in running],
            common,
        )
        if self._keep_confidences:  # they need all logits
            logits, features = self._backbone.decode(plan, self._memory)
            places = torch.tensor(plan.positions, device=self._device).unsqueeze(1) + 1
            uniform = self._rows.uniform[: len(running)].gather(1, places).squeeze(1)
            return self._draw(0, logits, settings, uniform), features
        seen = self._rows.seen(0, len(running))
        tokens, logprobs, features = self._backbone.write(plan, self._memory, settings, self._rows.uniform, seen)
        self._refuse_broken(tokens, running)
        return Drawn(tokens, logprobs), features

    def _draw_first(self, first: int, logits: Tensor) -> Drawn:
        """Draw the first token of each row from `first` on, from the logits (1, V) of their prompt."""
        running = self._scheduler.running[first:]
        uniform = self._rows.uniform[first : first + len(running), len(running[0].prompt_ids)]
        return self._draw(first, logits.expand(len(running), -1), self._rows.settings_of(running), uniform)

    def _draw(self, first: int, logits: Tensor, settings: SamplingRows, uniform: Tensor) -> Drawn:
        """Draw a token for each row from `first` on, by logits (B, V) and numbers (B,); changes no trajectory."""
        running = self._scheduler.running[first:]
        tokens, logprobs = drawn(logits, settings, uniform, self._rows.seen(first, len(running)))
        self._refuse_broken(tokens, running)
        if not self._keep_confidences:
            return Drawn(tokens, logprobs)
        certainties, confidences = sureness(logits)
        return Drawn(tokens, logprobs, certainties.tolist(), confidences.tolist())

    def _refuse_broken(self, tokens: Sequence[int], running: Sequence[Running]) -> None:
        if BROKEN in tokens:
            raise EngineError(
                f"{self.name!r} gave NaN or infinite logits at token {len(running[tokens.index(BROKEN)].token_ids)} of "
                "a trajectory: its weights overflow or are damaged. Try --dtype float32."
            )

    def _advance(self, first: int, drawn: Drawn, features: Tensor) -> None:
        """Append what the rows from `first` on drew, score the steps that it ends, let finished rows leave."""
        running = self._scheduler.running[first:]
        scored: list[int] = []  # indices into `running` of the rows whose step has just ended
        ended: list[tuple[int, FinishReason]] = []  # indices of the rows that are done, and why
        telling: list[int] = []  # indices of the rows whose text is due
        think_end, marks = self._think_end_id, self._marks
        for i, (sequence, token, logprob) in enumerate(zip(running, drawn.tokens, drawn.logprobs, strict=True)):
            ids = sequence.token_ids
            ids.append(token)
            sequence.logprobs.append(logprob)
            if token in marks and sequence.tracker is not None and sequence.tracker.push_at(len(ids) - 1, token):
                sequence.step_positions.append(len(ids) - 1)
                scored.append(i)
            if reason := sequence.finish_after(token, think_end, self._eos_ids):
                ended.append((i, reason))
            elif len(ids) - sequence.emitted >= TEXT_INTERVAL:
                telling.append(i)
        for sequence, certainty, confidence in zip(running, drawn.certainties, drawn.confidences):
            sequence.certainties.append(certainty)
            sequence.confidences.append(confidence)
        self._rows.saw(first, drawn.tokens)
        if scored:
            self._score(scored, running, features)
        for i in telling:
            self._emit_text(running[i])
        for i, reason in reversed(ended):  # from the last row up, so that a move never touches a row still to go
            self._leave(first + i, park=reason == "think_end")
            self._finish(running[i], reason)

    def _score(self, scored: list[int], running: list[Running], features: Tensor) -> None:
        """s for the rows whose step has just ended, from the hidden state that drew the step token."""
        if self._catch_features:
            for i, row in zip(scored, features[scored].cpu(), strict=True):  # (n, H)
                self._features.setdefault(running[i].id, []).append(row)
        if self.head is None:
            return
        for i, logit in zip(scored, self._backbone.score(self.head, features, scored), strict=True):
            self._take_score(running[i], logit)

    @property
    def _logprob_weights(self) -> tuple[float, float] | None:
        return self.head.logprob_weights if self.head is not None else None

    def _logprob_features(self, logprobs: Sequence[float], positions: Sequence[int]) -> Tensor:
        return torch.tensor(step_logprobs(logprobs, positions), dtype=torch.float32, device=self._device)

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
                self._rows.changed()


def _backbone(model: Any, layer: int, *, fuse: bool, compiled: bool) -> HFBackbone:
    """The fastest way to run the model, of those that are allowed."""
    if fuse and compiled and can_run_native(model):
        return NativeBackbone(model, layer)
    return FusedBackbone(model, layer) if fuse and can_fuse(model) else HFBackbone(model, layer)


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
