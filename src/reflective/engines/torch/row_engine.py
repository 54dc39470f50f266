"""Engines that draw their own tokens, a token of every running row in a step.

`step` is `admit → decode → draw → score → finish`. A step's score is computed when its step token is drawn, from the
hidden state that gave the logits of that draw: no second pass, no re-tokenisation. Prompts are prefilled once for all
trajectories that share them; finished rows leave the batch and waiting ones enter. What computes the logits is a
`Writer`, what holds keys and values a `RowKeeper`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from reflective.engines.base import Event, Request
from reflective.engines.sequence import TEXT_INTERVAL, Running
from reflective.engines.token_engine import TokenEngine
from reflective.engines.torch.backbones.base import Writer
from reflective.engines.torch.batch import Rows
from reflective.engines.torch.draws import Draws, SampledRows
from reflective.engines.torch.memory import is_out_of_memory
from reflective.engines.torch.reading import features_at, step_logits
from reflective.engines.torch.row_keeper import RowKeeper
from reflective.engines.torch.scheduler import Scheduler
from reflective.engines.torch.step_features import StepFeatures
from reflective.engines.torch.step_scores import StepScores
from reflective.errors import CheckpointError, ContextError, EngineError, InputError
from reflective.judge.format import step_positions
from reflective.judge.judge import Judge
from reflective.models.fingerprint import check_deviation, deviation, notice, tokens_and_positions
from reflective.settings import check_least
from reflective.types import FinishReason, Step


class RowEngine(TokenEngine):
    """The contract over a backbone and its keeper of rows.

    `kept` and `means` say which features `take_features` hands out, `keep_confidences` that those of every token are
    kept, also where a request does not ask for them.
    """

    reads = True
    constrains = True

    def __init__(
        self,
        name: str,
        tokenizer: Any,
        judge: Judge,
        backbone: Writer,
        keeper: RowKeeper,
        *,
        context_length: int,
        vocabulary: int,
        eos_ids: frozenset[int],
        max_rows: int,
        feature_layers: Sequence[int] = (),
        kept: bool = False,
        means: bool = False,
        keep_confidences: bool = False,
    ) -> None:
        check_least(1, max_rows=max_rows)
        super().__init__(
            name,
            tokenizer,
            judge.for_generation(name),
            context_length=context_length,
            vocabulary=vocabulary,
            eos_ids=eos_ids,
        )
        self.head = judge.head.eval() if judge.head is not None else None
        self.feature_layers = (judge.config.layer, *feature_layers)
        self._backbone, self._kv_manager = backbone, keeper
        self._scheduler = Scheduler(max_rows)
        self._rows = Rows(self.vocabulary, backbone.shape.device)
        self._draws = Draws(name, backbone, self._rows, keep_confidences=keep_confidences)
        self._reads_means = self.head is not None and judge.config.feature_position == "mean"
        self._features = StepFeatures(kept=kept, means=means, read=self._reads_means)
        self._scores = StepScores(backbone, self.head, self._features, reads_means=self._reads_means)

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
            self._kv_manager.drop(id)
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
        """Free the memory of keys and values; the model stays the caller's."""
        self._kv_manager.clear()
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
            end = position + (ids[position] not in self._eos_ids)
            steps.append(Step(position, logit, self.decode(ids[start:end]).strip()))
            start = position + 1
        return tuple(steps)

    @property
    def catch_means(self) -> bool:
        """Whether features are means over steps, too."""
        return self._features.means

    @property
    def max_rows(self) -> int:  # type: ignore[override]  # memory may allow less than was asked for
        """Trajectories written at once, at most."""
        return self._scheduler.max_rows

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
            self._kv_manager.park(sequence, row, last=row == len(self._scheduler.running) - 1)
        move = self._scheduler.leave(row)
        if move is not None:
            self._kv_manager.memory.move(move.source, move.target, self._scheduler.running[row].length)
            self._rows.move(move.source, move.target)
        self._rows.changed()

    # ---- advance

    def _advance(self, first: int, sampled: SampledRows, features: Tensor) -> None:
        """Append what the rows from `first` on drew, score the steps that it ends, let finished rows leave."""
        running = self._scheduler.running[first:]
        scored: list[int] = []  # indices into `running` of the rows whose step has just ended
        ended: list[tuple[int, FinishReason]] = []  # indices of the rows that are done, and why
        due: list[int] = []  # indices of the rows whose text or mark may be due
        watched, eos_ids = self._watched, self._eos_ids
        for i, (sequence, token, logprob) in enumerate(zip(running, sampled.tokens, sampled.logprobs, strict=True)):
            ids = sequence.token_ids
            ids.append(token)
            sequence.logprobs.append(logprob)
            at_length = len(ids) >= sequence.look_at
            if not at_length and token not in watched and token not in eos_ids:
                continue
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
            elif at_length:
                due.append(i)
        for sequence, certainty, confidence in zip(running, sampled.certainties, sampled.confidences):
            if self._draws.keeps_confidences(sequence):
                sequence.certainties.append(certainty)
                sequence.confidences.append(confidence)
        self._rows.saw(first, sampled.tokens)
        self._features.add_draws(running, features)
        if scored:
            self._score(scored, running, features)
        for i in due:
            sequence = running[i]
            if len(sequence.token_ids) - sequence.emitted >= TEXT_INTERVAL:
                self._emit_text(sequence)
            if len(sequence.token_ids) == sequence.next_mark:
                self._mark(sequence)
            sequence.look_again()
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
