"""An engine that writes what a script says, token by token: for tests, without a model.

It holds the whole contract of `Engine`: steps are found by the same rule as in real engines, budgets, seeds,
cancellation, continuations and forks are honoured, and what was paid is counted. A continuation goes on with its
parent's script, a fork with the script that its own index and seed choose, from token `at` on. Tokens are words with
the space before them; `.` followed by an empty line is the step token.

    engine = ScriptedEngine([Scripted("2+2=4.\\n\\n</think>\\\\boxed{4}", logits=[2.0])])
"""

from __future__ import annotations

import re
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from reflective.engines.base import Engine, Event, Finished, Marked, Request, StepScored, Text
from reflective.engines.stops import before_stop, holds_stop, may_begin_stop
from reflective.errors import InputError
from reflective.judge.aggregate import aggregate
from reflective.judge.config import JudgeConfig
from reflective.judge.detection import STEP_TEXT
from reflective.judge.format import Format, Reader, between_marks, closing_span, whole_response
from reflective.judge.judge import Judge
from reflective.types import FinishReason, Step, Trajectory

EOS_ID, STEP_ID, THINK_ID, THINK_END_ID = 0, 1, 2, 3
FIRST_WORD_ID = 4
FILLER = " hmm"  # what an endless script goes on with
BETWEEN_MARKS = between_marks({STEP_ID}, THINK_ID, THINK_END_ID)
WHOLE_RESPONSE = whole_response({STEP_ID}, {EOS_ID})

_SPECIAL = {STEP_TEXT: STEP_ID, "<think>": THINK_ID, "</think>": THINK_END_ID}
_TOKEN = re.compile(r"</?think>|\.\n\n|\s*[^\s<.]+|\s*[<.]|\s+")


@dataclass(frozen=True, slots=True)
class Scripted:
    """One trajectory: its text behind the prompt's `<think>`, and a logit a step (missing ones are 0).

    `endless` goes on with filler after the text until the budget is used up. `logprob` is given to every token; None
    is an engine that does not keep them. `certainties` and `confidences` are given to the tokens round and round; empty
    is an engine that does not look at the whole distribution.
    """

    text: str
    logits: Sequence[float] = ()
    endless: bool = False
    logprob: float | None = -1.0
    certainties: Sequence[float] = ()
    confidences: Sequence[float] = ()


Script = Sequence[Scripted] | Callable[[str, int, int], Scripted]


@dataclass(slots=True)
class _Row:
    id: int
    request: Request
    scripted: Scripted
    reader: Reader
    limit: int
    pieces: list[str]
    written: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    logits: list[float] = field(default_factory=list)
    logprobs: list[float | None] = field(default_factory=list)
    certainties: list[float] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    told: int = 0  # pieces of `written` that have been told, or belong to the parent
    cancelled: bool = False
    stopped: bool = False  # a stop string is complete

    def stops_at(self, token: int) -> bool:
        """Whether `token`, the last one, ends the row by the request's own stops."""
        start = self.reader.answer_at
        if start is not None and self.request.stop:
            self.stopped = holds_stop("".join(self.written[start:]), self.request.stop)
        return self.stopped or token in self.request.stop_token_ids

    def unstopped(self, text: str) -> str:
        return before_stop(text, self.request.stop) if self.stopped else text

    def tell(self, events: list[Event], *, last: bool = False) -> None:
        """Tell the text that was not told yet, but for what may begin a stop string."""
        text = "".join(self.written[self.told :])
        if text and (last or self.stopped or not may_begin_stop(text, self.request.stop)):
            self.told = len(self.written)
            if delta := self.unstopped(text):
                events.append(Text(self.id, delta))


class ScriptedEngine(Engine):
    """Writes the script's trajectories.

    `format` is `BETWEEN_MARKS` or `WHOLE_RESPONSE`. `script` is a list (a request's `index` chooses, round and round)
    or a function of problem text, index and seed. `on_step` is called with the number of each step before anything is
    written, and may raise. `max_rows` bounds how many are written at once. Counters: `steps`, `submitted`, `cancelled`,
    `tokens_written`, and `prefix_paid`, the tokens of prompts and parents that a real engine would have had to read.
    """

    def __init__(
        self,
        script: Script,
        *,
        scored: bool = True,
        format: Format = BETWEEN_MARKS,
        name: str = "scripted",
        context_length: int = 4096,
        max_rows: int = 64,
        on_step: Callable[[int], None] | None = None,
    ) -> None:
        self.script, self.scored, self.name = script, scored, name
        self.judge = Judge(JudgeConfig(1, format))
        self.context_length, self.max_rows = context_length, max_rows
        self.steps = self.submitted = self.cancelled = self.tokens_written = self.prefix_paid = 0
        self.closed = False
        self._on_step = on_step
        self._vocabulary: dict[str, int] = {}
        self._waiting: deque[_Row] = deque()
        self._running: list[_Row] = []
        self._finished: dict[int, _Row] = {}
        self._prompts_read: set[tuple[int, ...]] = set()

    # ---- text and tokens

    def encode(self, text: str) -> list[int]:
        """Token ids of a text. A word's id is a checksum of it, so that it is the same in every engine."""
        return [self._id(piece) for piece in _TOKEN.findall(text)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids."""
        words = {i: piece for piece, i in (_SPECIAL | self._vocabulary).items()}
        return "".join(words.get(i, "") for i in ids)

    def encode_prompt(self, problem: str) -> tuple[int, ...]:
        """The problem's words, and the mark that opens the reasoning where it lies between marks."""
        return (*self.encode(problem), *self.judge.format.opening_ids)

    def _id(self, piece: str) -> int:
        if piece in _SPECIAL:
            return _SPECIAL[piece]
        return self._vocabulary.setdefault(piece, FIRST_WORD_ID + zlib.crc32(piece.encode()))

    # ---- the contract

    def submit(self, request: Request) -> int:
        """Queue a request (see `Engine.submit`)."""
        self.check(request)
        row = self._start(request) if request.parent is None else self._branch(request, request.parent)
        self.check_room(len(row.request.prompt_ids), len(row.ids))
        room = self.context_length - len(row.request.prompt_ids) - len(row.ids)
        row.limit = len(row.ids) + min(request.max_tokens, room)
        self.submitted += 1
        self._waiting.append(row)
        return row.id

    def cancel(self, id: int) -> None:
        """Stop a trajectory, or forget a finished one (see `Engine.cancel`)."""
        if self._finished.pop(id, None) is not None:
            return
        for row in (*self._waiting, *self._running):
            if row.id == id:
                row.cancelled = True
                self.cancelled += 1

    def step(self) -> list[Event]:
        """Write one token of every running trajectory."""
        number, self.steps = self.steps, self.steps + 1
        if self._on_step is not None:
            self._on_step(number)
        while self._waiting and len(self._running) < self.max_rows:
            self._running.append(self._waiting.popleft())
        events: list[Event] = []
        self._running = [row for row in self._running if not self._write(row, events)]
        self._waiting = deque(row for row in self._waiting if not (row.cancelled and self._write(row, events)))
        return events

    @property
    def busy(self) -> bool:
        """Whether any request is waiting or running."""
        return bool(self._waiting or self._running)

    def close(self) -> None:
        """Forget everything."""
        self.closed = True
        self._waiting.clear()
        self._running.clear()
        self._finished.clear()

    # ---- rows

    def _start(self, request: Request) -> _Row:
        if request.prompt_ids not in self._prompts_read:
            self._prompts_read.add(request.prompt_ids)
            self.prefix_paid += len(request.prompt_ids)
        scripted = self._script_for(request)
        pieces = _TOKEN.findall(scripted.text)
        return _Row(self.submitted, request, scripted, Reader(self.judge.format, request.prompt_ids), 0, pieces)

    def _script_for(self, request: Request) -> Scripted:
        if callable(self.script):
            words = len(request.prompt_ids) - len(self.judge.format.opening)
            return self.script(self.decode(request.prompt_ids[:words]), request.index, request.seed)
        return self.script[request.index % len(self.script)]

    def _branch(self, request: Request, parent_id: int) -> _Row:
        """A continuation, or a fork."""
        held = {row.id: row for row in (*self._waiting, *self._running)} if request.at is not None else {}
        parent = (held | self._finished).get(parent_id)
        if parent is None:
            raise InputError(f"trajectory {parent_id} is not held by this engine; it can't be continued.")
        at = len(parent.ids) if request.at is None else request.at
        if not 0 <= at <= len(parent.ids):
            raise InputError(f"trajectory {parent_id} has {len(parent.ids)} tokens; it can't be forked at {at}.")
        request = replace(request, prompt_ids=parent.request.prompt_ids)
        scripted = parent.scripted if request.at is None else self._script_for(request)
        reader = self.judge.format.open(request.prompt_ids)
        steps = sum(reader.push(token) for token in parent.ids[:at])
        return _Row(
            self.submitted,
            request,
            scripted,
            reader,
            0,
            _TOKEN.findall(scripted.text),
            written=parent.written[:at],
            told=at,
            ids=parent.ids[:at],
            positions=parent.positions[:steps],
            logits=parent.logits[:steps],
            logprobs=parent.logprobs[:at],
            certainties=parent.certainties[:at],
            confidences=parent.confidences[:at],
        )

    def _write(self, row: _Row, events: list[Event]) -> bool:
        """Write the row's next token; True when that ended it."""
        if row.cancelled:
            return self._finish(row, "cancelled", events)
        piece = row.pieces[len(row.ids)] if len(row.ids) < len(row.pieces) else FILLER if row.scripted.endless else ""
        token = self._id(piece) if piece else EOS_ID
        row.logprobs.append(row.scripted.logprob)
        row.certainties += _in_turn(row.scripted.certainties, len(row.ids))
        row.confidences += _in_turn(row.scripted.confidences, len(row.ids))
        row.ids.append(token)
        row.written.append(piece)
        self.tokens_written += 1
        ends_step = row.reader.push(token)
        if stopped := row.stops_at(token):
            ends_step = row.reader.end_at(len(row.ids) - 1) or ends_step
        row.tell(events)
        if ends_step:
            given = row.scripted.logits[len(row.positions) :][:1]
            row.positions.append(len(row.ids) - 1)
            row.logits.append(given[0] if given else 0.0)
            if self.scored:
                step = self._steps(row)[-1]
                events.append(StepScored(row.id, len(row.positions) - 1, step.score))
        if token == EOS_ID or stopped:
            return self._finish(row, "eos", events)
        if token == THINK_END_ID and row.request.until != "eos":
            return self._finish(row, "think_end", events)
        if ends_step and row.request.until == "step":
            return self._finish(row, "step", events)
        if len(row.ids) >= row.limit:
            return self._finish(row, "length", events)
        tokens, every = len(row.ids), row.request.every
        if every and tokens % every == 0:
            steps = len(row.positions) if self.scored else 0
            events.append(Marked(row.id, tokens, steps, tuple(row.confidences[tokens - every : tokens])))
        return False

    def _finish(self, row: _Row, reason: FinishReason, events: list[Event]) -> bool:
        start, stop = self._reasoning_end(row, reason)
        ended = len(row.ids) - bool(row.ids and row.ids[-1] in row.request.stop_token_ids)
        steps = self._steps(row) if self.scored else ()
        logprobs = [logprob for logprob in row.logprobs if logprob is not None]
        trajectory = Trajectory(
            index=row.request.index,
            token_ids=tuple(row.ids),
            thinking="".join(row.written[:start]),
            answer_text=row.unstopped("".join(row.written[stop:ended])).strip(),
            steps=steps,
            score=aggregate(step.logit for step in steps),
            finish_reason=reason,
            token_logprobs=tuple(logprobs) if len(logprobs) == len(row.ids) else None,
            seed=row.request.seed,
            token_certainties=tuple(row.certainties),
            token_confidences=tuple(row.confidences),
        )
        row.tell(events, last=True)
        self._finished[row.id] = row
        events.append(Finished(row.id, trajectory))
        return True

    def _reasoning_end(self, row: _Row, reason: FinishReason) -> tuple[int, int]:
        """Where the reasoning ends and where the answer begins; a whole response that was cut is reasoning."""
        if self.judge.format.is_whole:
            return (0, 0) if reason == "eos" else (len(row.ids), len(row.ids))
        return closing_span(self.judge.format, row.ids) or (len(row.ids), len(row.ids))

    def _steps(self, row: _Row) -> tuple[Step, ...]:
        steps, start = [], 0
        for i, position in enumerate(row.positions):
            steps.append(Step(position, row.logits[i], "".join(row.written[start : position + 1]).strip()))
            start = position + 1
        return tuple(steps)


def _in_turn(values: Sequence[float], i: int) -> list[float]:
    """Value number i of those given round and round; [] where there is none."""
    return [values[i % len(values)]] if values else []
