"""The embedded engine: trajectories written and scored in one pass, on CPU or GPU.

`step` is `admit → decode → draw → score → finish`. A step's score is computed when its step token is drawn, from the
hidden state that gave the logits of that draw: no second pass, no re-tokenisation. Prompts are prefilled once for all
trajectories that share them; finished rows leave the batch and waiting ones enter.

Departure from the reference: where it generates with one copy of the weights and re-reads every trajectory with
another, this holds one copy and reads every token once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from reflective.engines.base import MAX_ROWS, Event, Request
from reflective.engines.sequence import TEXT_INTERVAL, Running
from reflective.engines.token_engine import TokenEngine
from reflective.engines.torch import precision
from reflective.engines.torch.backbones import choose, packed_name, packed_obstacle
from reflective.engines.torch.batch import Rows
from reflective.engines.torch.draws import Draws, SampledRows
from reflective.engines.torch.kv_manager import KVManager
from reflective.engines.torch.memory import is_out_of_memory
from reflective.engines.torch.reading import features_at, step_logits
from reflective.engines.torch.scheduler import Scheduler
from reflective.engines.torch.step_features import StepFeatures
from reflective.engines.torch.step_scores import StepScores
from reflective.errors import CheckpointError, ContextError, EngineError, InputError
from reflective.judge.format import step_positions
from reflective.judge.judge import Judge, headless_judge
from reflective.models.fingerprint import (
    check_deviation,
    deviation,
    make_fingerprint,
    notice,
    tokens_and_positions,
)
from reflective.models.metadata import eos_ids_of
from reflective.models.stored import StoredWeights
from reflective.types import FinishReason, Step


class TorchEngine(TokenEngine):
    """Writes scored trajectories with a Hugging Face causal LM and an SPRM head.

    `model` and the judge's head are taken as they are; without a judge, the format is found from the tokenizer, and
    trajectories carry no scores. The model's
    projections may be re-laid (values unchanged), so make the engine before an optimizer; when weights have changed in
    place, call `refresh`.

    `catch_features` keeps the hidden states at the steps for `take_features`: of the judge's layer, behind it of
    further `layers`, and with `catch_means` of all of them again the mean over the positions that drew a step's tokens.

    `keep_confidences` keeps the self-certainty and the confidence of every token, for selectors that need no training
    (`reflective.confidence`), also where a request does not ask for them. `weights` are packed for the compiled step;
    the model then is a form without memory. `fuse` and `compiled` allow the faster ways to decode, for comparisons.
    `remark` says why one that is allowed can't be taken, "" where none is closed.
    """

    reads = True
    constrains = True

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        judge: Judge | None = None,
        *,
        name: str = "model",
        max_rows: int = MAX_ROWS,
        catch_features: bool = False,
        layers: Sequence[int] = (),
        catch_means: bool = False,
        keep_confidences: bool = False,
        weights: StoredWeights | None = None,
        fuse: bool = True,
        compiled: bool = True,
    ) -> None:
        if max_rows < 1:
            raise InputError(f"max_rows is {max_rows}; it must be 1 or more.")
        eos_ids = eos_ids_of((getattr(model, "generation_config", None), model.config, tokenizer))
        judge = judge or headless_judge(model.config, tokenizer, end_ids=eos_ids)
        super().__init__(
            name,
            tokenizer,
            judge.for_generation(name),
            context_length=_context_length(model),
            vocabulary=int(model.get_output_embeddings().weight.shape[0]),
            eos_ids=eos_ids,
        )
        self.model, self._weights = model, weights
        self.head = judge.head.eval() if judge.head is not None else None
        self.feature_layers = (judge.config.layer, *layers)
        self._backbone, slow = choose(
            model, judge.config.layer, further=layers, weights=weights, fuse=fuse, compiled=compiled
        )
        self.remark = " ".join(filter(None, (slow, self.remark)))
        self._scheduler = Scheduler(max_rows)
        self._rows = Rows(self.vocabulary, self._backbone.shape.device)
        self._kv_manager = KVManager(self._backbone, self.context_length)
        self._draws = Draws(name, self._backbone, self._rows, keep_confidences=keep_confidences)
        self._reads_means = self.head is not None and judge.config.feature_position == "mean"
        self._features = StepFeatures(kept=catch_features, means=catch_means, read=self._reads_means)
        self._scores = StepScores(self._backbone, self.head, self._features, reads_means=self._reads_means)

    @classmethod
    def from_checkpoint(cls, checkpoint: Any, **options: Any) -> TorchEngine:
        """An engine on a loaded `reflective.models.Checkpoint`; packs the weights that it has left in their files."""
        if checkpoint.weights is not None and (reason := packed_obstacle(checkpoint.model)):
            kind = checkpoint.weights.kind
            engine = cls.from_checkpoint(checkpoint.dense(), **options)
            held = str(engine.model.dtype).removeprefix("torch.")
            engine.remark = " ".join(filter(None, (f"weights in {held}, not in {kind}: {reason}.", engine.remark)))
            return engine
        checkpoint, chosen = precision.settled(checkpoint) if checkpoint.undecided else (checkpoint, "")
        options = {"weights": checkpoint.weights, **options}
        engine = cls(checkpoint.model, checkpoint.tokenizer, checkpoint.judge, name=checkpoint.name, **options)
        deviation = engine._compare_fingerprint() if checkpoint.unchecked else ""
        engine.remark = " ".join(filter(None, (checkpoint.remark, chosen, deviation, engine.remark)))
        return engine

    def fingerprint(self, layer: int | None = None) -> dict[str, Any]:
        """The fingerprint of the model for heads that read this one of `feature_layers`, by default the judge's."""
        place = 0 if layer is None else self.feature_layers.index(layer)

        def read(ids: list[int], positions: list[int], _: int) -> Tensor:
            return self._fixed_features(ids, positions, place)

        return make_fingerprint(self.model, self.tokenizer, self.feature_layers[place], read)

    def _compare_fingerprint(self) -> str:
        """Raise `CheckpointError` where the head is another model's; says how far from its own this one is."""
        fingerprint = self.judge.config.fingerprint or {}
        found = deviation(fingerprint, self._fixed_features(*tokens_and_positions(fingerprint)))
        check_deviation(found, self.name)
        return notice(found)

    def _fixed_features(self, ids: list[int], positions: list[int], place: int = 0) -> Tensor:
        features = features_at(self._backbone, ids, positions)  # (n, F)
        return features.chunk(len(self.feature_layers), -1)[place]

    # ---- the contract

    def submit(self, request: Request) -> int:
        """Queue a request (see `Engine.submit`)."""
        sequence = self._open(request)
        if request.constraint is not None:
            sequence.matcher = request.constraint.start()
        if self.catch_means and request.parent is not None:
            raise InputError("the means over steps are caught of trajectories that begin at a prompt alone.")
        if request.parent is not None and (parent := self._held(request.parent)) is not None:
            self._features.inherit(sequence, parent)
        if self._reads_means and (drawn := sequence.unended_draws):
            ids = (*sequence.prompt_ids, *sequence.token_ids[:-1])
            self._features.begin(sequence, features_at(self._backbone, ids, drawn).float().sum(0).cpu())
        self._scheduler.submit(sequence)
        return sequence.id

    @torch.inference_mode()
    def cancel(self, id: int) -> None:
        """Stop a trajectory, or forget a finished one (see `Engine.cancel`)."""
        if self._finished.pop(id, None) is not None:
            self._kv_manager.parking.drop(id)
            self._features.drop(id)
            return
        waiting = self._scheduler.remove_waiting(id)
        if waiting is not None:
            self._cancelled.append(waiting)
            return
        for row, sequence in enumerate(self._scheduler.running):
            if sequence.id == id:
                self._leave(row)
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
            tokens, features = self._retry_when_full(
                lambda: self._draws.next(self._scheduler.running, self._kv_manager.memory)
            )
            self._advance(0, tokens, features)
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        """Free the KV memory; the model stays the caller's."""
        self._kv_manager.clear()
        self._finished.clear()
        self._features.clear()

    def refresh(self) -> None:
        """Go on with weights that an optimizer has changed in place; what is held of finished trajectories goes."""
        if self.busy:
            raise EngineError("the weights changed while trajectories were being written; let them finish first.")
        self._backbone.refresh()
        self._logprob_terms = self.head.logprob_terms if self.head is not None else None
        self._kv_manager.parking.clear()
        self._finished.clear()
        self._features.clear()

    def _unfinished(self) -> Iterable[Running]:
        return self._scheduler.everything()

    # ---- scoring given text

    def score_many(self, prompt_ids: Sequence[int], responses: Sequence[Sequence[int]]) -> list[tuple[Step, ...]]:
        """Steps and their scores of given responses to a prompt, which is read once.

        Raises `ContextError` where prompt and a response are longer than the context.
        """
        if self.head is None:
            raise CheckpointError(f"{self.name!r} has no SPRM head, so nothing can be scored.")
        self._check_ids(prompt_ids)
        for response in responses:
            self._check_ids(response)
            tokens = len(prompt_ids) + len(response)
            if tokens > self.context_length:
                raise ContextError(
                    f"prompt and response have {tokens:,} tokens; the context is {self.context_length:,}."
                )
        steps = [step_positions(self.judge.format, response, prompt_ids) for response in responses]
        stepped = [each for each in zip(responses, steps, strict=True) if each[1]]
        if not stepped:
            return [()] * len(responses)
        logits = iter(step_logits(self._backbone, self.head, prompt_ids, stepped, means=self._reads_means))
        return [self._steps(ids, found, next(logits)) if found else () for ids, found in zip(responses, steps)]

    def _steps(self, ids: Sequence[int], positions: Sequence[int], logits: Sequence[float]) -> tuple[Step, ...]:
        steps, start = [], 0
        for position, logit in zip(positions, logits, strict=True):
            steps.append(Step(position, logit, self.decode(ids[start : position + 1]).strip()))
            start = position + 1
        return tuple(steps)

    def take_features(self, id: int) -> tuple[list[int], Tensor]:
        """Step token positions and features (n, H) of the n steps of a finished trajectory.

        Features are (n, F·H) where the engine catches F layers or means of layers: see the class.
        The engine must have been made with `catch_features`. The features are handed out once, on the CPU: for a
        continuation, those of its parent come along unless they were taken before it was submitted.
        """
        sequence = self._finished.get(id)
        if sequence is None or not self._features.kept:
            raise InputError(f"no features are held for trajectory {id}: it is not finished, or nothing was caught.")
        rows = self._features.take(id)
        width = self.model.get_input_embeddings().weight.shape[1] * len(self.feature_layers) * (1 + self.catch_means)
        features = torch.stack(rows) if rows else torch.empty(0, width, dtype=self.model.dtype)
        return sequence.step_positions[len(sequence.step_positions) - len(rows) :], features

    @property
    def catch_means(self) -> bool:
        """Whether features are means over steps, too."""
        return self._features.means

    @property
    def max_rows(self) -> int:  # type: ignore[override]  # memory may allow less than was asked for
        """Trajectories written at once, at most."""
        return self._scheduler.max_rows

    @property
    def dtype(self) -> str:  # type: ignore[override]
        """The number type of the model's weights."""
        return str(self.model.dtype) if self._weights is None else packed_name(self._weights.kind)

    # ---- admit

    def _admit(self) -> None:
        """Give free rows to waiting trajectories; fresh ones draw their first token from the prompt's logits."""
        if not self._scheduler.admits:
            return
        if self._kv_manager.reserve(self._scheduler):
            self._load(0)
        while (first_row := len(self._scheduler.running)) < self._scheduler.max_rows:
            group = self._scheduler.next_group()
            if not group:
                break
            fresh = not group[0].token_ids
            try:
                if fresh:
                    keep = self._scheduler.waits_for(group[0].prompt_ids)
                    running = self._scheduler.running
                    logits, feature = self._kv_manager.fill(group, first_row, running, keep=keep)
                    self._load(first_row)
                    tokens = self._draws.first(first_row, group, logits)
                else:
                    self._kv_manager.bring_back(group[0], first_row, self._scheduler.running)
                    self._load(first_row)
            except Exception:
                self._scheduler.preempt_from(first_row)
                self._rows.changed()
                raise
            if fresh:
                self._advance(first_row, tokens, feature.expand(len(group), -1))

    def _load(self, first: int) -> None:
        kv = self._kv_manager.memory
        self._rows.load(self._scheduler.running, first, kv.rows, kv.length)

    def _leave(self, row: int) -> None:
        """Take a row out of the batch, parked for continuations and forks; the last row moves into its place."""
        sequence = self._scheduler.running[row]
        if sequence.token_ids:
            self._kv_manager.park(sequence, row)
        move = self._scheduler.leave(row)
        if move is not None:
            self._kv_manager.memory.move(move.source, move.target, self._scheduler.running[row].length)
            self._rows.move(move.source, move.target)
        self._rows.changed()

    # ---- advance

    def _advance(self, first: int, drawn: SampledRows, features: Tensor) -> None:
        """Append what the rows from `first` on drew, score the steps that it ends, let finished rows leave."""
        running = self._scheduler.running[first:]
        scored: list[int] = []  # indices into `running` of the rows whose step has just ended
        ended: list[tuple[int, FinishReason]] = []  # indices of the rows that are done, and why
        due: list[int] = []  # indices of the rows whose text is due
        marked: list[int] = []  # indices of the rows that have come to a mark
        watched, eos_ids = self._watched, self._eos_ids
        for i, (sequence, token, logprob) in enumerate(zip(running, drawn.tokens, drawn.logprobs, strict=True)):
            ids = sequence.token_ids
            ids.append(token)
            sequence.logprobs.append(logprob)
            if sequence.matcher is not None:
                sequence.matcher.push(token)
            ends_step = token in watched and sequence.reader.push_at(len(ids) - 1, token)
            if sequence.request.stops and sequence.stops_at(token, self.decode):
                ends_step = sequence.reader.end_at(len(ids) - 1) or ends_step
            if ends_step:
                sequence.step_positions.append(len(ids) - 1)
                scored.append(i)
            if reason := sequence.finish_after(token, eos_ids):
                ended.append((i, reason))
                continue
            if len(ids) == sequence.next_mark:
                marked.append(i)
            if len(ids) - sequence.emitted >= TEXT_INTERVAL:
                due.append(i)
        for sequence, certainty, confidence in zip(running, drawn.certainties, drawn.confidences):
            if self._draws.keeps_confidences(sequence):
                sequence.certainties.append(certainty)
                sequence.confidences.append(confidence)
        self._rows.saw(first, drawn.tokens)
        self._features.add_draws(running, features)
        if scored:
            self._score(scored, running, features)
        for i in due:
            self._emit_text(running[i])
        for i in marked:
            self._mark(running[i])
        for i, reason in reversed(ended):  # from the last row up, so that a move never touches a row still to go
            self._leave(first + i)
            self._finish(running[i], reason)

    def _score(self, scored: list[int], running: list[Running], features: Tensor) -> None:
        """s for the rows whose step has just ended, from the hidden state that drew the step token."""
        logits = self._scores.logits(scored, running, features)
        for i, logit in zip(scored, logits or ()):
            self._take_score(running[i], logit)

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


def _context_length(model: Any) -> int:
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not positions:
        raise EngineError(
            f"{type(model).__name__} does not say how many positions it reads; use another engine (vllm)."
        )
    return int(positions)
