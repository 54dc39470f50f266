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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reflective.engines.base import Engine, Event, Request
from reflective.engines.sequence import Running
from reflective.engines.token_engine import TokenEngine
from reflective.judge.config import JudgeConfig
from reflective.judge.detection import STEP_TEXT
from reflective.judge.format import Format, between_marks, whole_response
from reflective.judge.judge import Judge

EOS_ID, STEP_ID, THINK_ID, THINK_END_ID = 0, 1, 2, 3
FIRST_WORD_ID = 4
FILLER = " hmm"  # what an endless script goes on with
BETWEEN_MARKS = between_marks({STEP_ID}, THINK_ID, THINK_END_ID)
WHOLE_RESPONSE = whole_response({STEP_ID}, {EOS_ID})

_SPECIAL = {STEP_TEXT: STEP_ID, "<think>": THINK_ID, "</think>": THINK_END_ID}
_TOKEN = re.compile(r"</?think>|\.\n\n|\s*[^\s<.]+|\s*[<.]|\s+")


@dataclass(frozen=True, slots=True)
class Scripted:
    """One trajectory: its text behind the prompt's `<think>`, and a logit per step (missing ones are 0).

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


class ScriptedEngine(TokenEngine):
    """Writes the script's trajectories.

    `format` is `BETWEEN_MARKS` or `WHOLE_RESPONSE`. `script` is a list (a request's `index` chooses, round and round)
    or a function of problem text, index and seed. `on_step` is called with the number of each step before anything is
    written, and may raise. `max_rows` bounds how many are written at once. Counters: `steps`, `submitted`, `cancelled`,
    `tokens_written`, and `prefix_paid`, the tokens of prompts that a real engine would have had to read.
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
        super().__init__(
            name,
            self.tokenizer,
            Judge(JudgeConfig(1, format)),
            context_length=context_length,
            vocabulary=0,  # as many as there are words
            eos_ids=frozenset({EOS_ID}),
            decode=self._text,
        )
        self.script, self.scored, self.max_rows = script, scored, max_rows
        self.remark = self.unscored = ""
        self.end_ids = type(self).end_ids  # the end has no text
        self.steps = self.submitted = self.cancelled = self.tokens_written = self.prefix_paid = 0
        self.closed = False
        self._on_step = on_step
        self._words = {id: piece for piece, id in _SPECIAL.items()}
        self._scripts: dict[int, tuple[Scripted, list[str]]] = {}  # of each trajectory, with the pieces of its text
        self._waiting: deque[Running] = deque()
        self._running: list[Running] = []
        self._dropped: set[int] = set()  # what was cancelled and has not been told yet
        self._prompts_read: set[tuple[int, ...]] = set()

    # ---- text and tokens

    def encode(self, text: str) -> list[int]:
        """Token ids of a text. A word's id is a checksum of it, so that it is the same in every engine."""
        return [self._id(piece) for piece in _TOKEN.findall(text)]

    def encode_prompt(self, problem: str) -> tuple[int, ...]:
        """The problem's words, and the mark that opens the reasoning where it lies between marks."""
        return (*self.encode(problem), *self.judge.format.opening_ids)

    def encode_messages(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> tuple[int, ...]:
        """There is no chat template."""
        return Engine.encode_messages(self, messages, tools)

    def _text(self, ids: Sequence[int]) -> str:
        return "".join(self._words.get(i, "") for i in ids)

    def _id(self, piece: str) -> int:
        id = _SPECIAL[piece] if piece in _SPECIAL else FIRST_WORD_ID + zlib.crc32(piece.encode())
        self._words[id] = piece
        return id

    def _check_ids(self, ids: Sequence[int]) -> None:
        """Every id may be a word's."""

    # ---- the contract

    def submit(self, request: Request) -> int:
        """Queue a request (see `Engine.submit`)."""
        sequence = self._open(request)
        if request.parent is None and request.prompt_ids not in self._prompts_read:
            self._prompts_read.add(request.prompt_ids)
            self.prefix_paid += len(request.prompt_ids)
        if request.parent is not None and request.at is None:
            self._scripts[sequence.id] = self._scripts[request.parent]
        else:
            scripted = self._script_for(sequence)
            self._scripts[sequence.id] = scripted, _TOKEN.findall(scripted.text)
        self.submitted += 1
        self._waiting.append(sequence)
        return sequence.id

    def cancel(self, id: int) -> None:
        """Stop a trajectory, or forget a finished one (see `Engine.cancel`)."""
        if self._finished.pop(id, None) is not None:
            del self._scripts[id]
        elif any(sequence.id == id for sequence in self._unfinished()):
            self._dropped.add(id)
            self.cancelled += 1

    def step(self) -> list[Event]:
        """Write one token of every running trajectory."""
        number, self.steps = self.steps, self.steps + 1
        if self._on_step is not None:
            self._on_step(number)
        while self._waiting and len(self._running) < self.max_rows:
            self._running.append(self._waiting.popleft())
        self._running = [row for row in self._running if not self._write(row)]
        self._waiting = deque(row for row in self._waiting if not (row.id in self._dropped and self._write(row)))
        events, self._events = self._events, []
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

    def _unfinished(self) -> Iterable[Running]:
        return (*self._waiting, *self._running)

    # ---- what is written

    def _script_for(self, sequence: Running) -> Scripted:
        prompt, request = sequence.prompt_ids, sequence.request
        if callable(self.script):
            words = len(prompt) - len(self.judge.format.opening)
            return self.script(self.decode(prompt[:words]), request.index, request.seed)
        return self.script[request.index % len(self.script)]

    def _write(self, sequence: Running) -> bool:
        """Write the next token of a trajectory; True when that ended it."""
        if sequence.id in self._dropped:
            self._dropped.remove(sequence.id)
            self._finish(sequence, "cancelled")
            return True
        scripted, pieces = self._scripts[sequence.id]
        at = len(sequence.token_ids)
        piece = pieces[at] if at < len(pieces) else FILLER if scripted.endless else ""
        token = self._id(piece) if piece else EOS_ID
        if scripted.logprob is not None and len(sequence.logprobs) == at:
            sequence.logprobs.append(scripted.logprob)
        sequence.certainties += _in_turn(scripted.certainties, at)
        sequence.confidences += _in_turn(scripted.confidences, at)
        self.tokens_written += 1
        ends_step = self._append_token(sequence, token)
        self._emit_text(sequence)
        if ends_step and self.scored:
            given = scripted.logits[len(sequence.step_logits) :][:1]
            self._take_score(sequence, given[0] if given else 0.0)
        reason = sequence.finish_after(token, self._eos_ids)
        if reason is not None:
            self._finish(sequence, reason)
        elif at + 1 == sequence.next_mark:
            self._mark(sequence)
        return reason is not None


def _in_turn(values: Sequence[float], i: int) -> list[float]:
    """Value number i of those given round and round; [] where there is none."""
    return [values[i % len(values)]] if values else []
