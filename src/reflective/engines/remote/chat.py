"""Trajectories from servers that speak chat completions alone: llama.cpp's, Ollama, LM Studio, SGLang, and their like.

Messages go out and text comes back, so there are no token ids and no step scores: such a server serves majority votes,
single samples and, where it tells log-probabilities, selection by these. Token ids here are numbers of pieces of text,
about one a token; a prompt's are counted at four characters each, since the server alone knows its tokens.
"""

from __future__ import annotations

import json
import math
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from reflective.engines.base import Request
from reflective.engines.external import ExternalEngine
from reflective.engines.remote.chat_protocol import Piece, chat_request, read_delta, server_of
from reflective.engines.remote.endpoints import Arrived, Endpoint, Pool, api_key
from reflective.engines.remote.protocol import Chunk, base_url, refusal, said
from reflective.engines.sampled_token import SampledToken
from reflective.engines.sequence import Running
from reflective.engines.token_engine import TokenEngine
from reflective.errors import EngineError, InputError
from reflective.judge.config import JudgeConfig
from reflective.judge.detection import KNOWN_MARKS
from reflective.judge.format import Format, Reader, whole_response
from reflective.judge.judge import Judge
from reflective.settings import check_least
from reflective.types import FinishReason, Trajectory

CONTEXT: Final = 32_768  # where a server does not say: it cuts by itself what it has no room for
MAX_ROWS: Final = 8  # in flight by default; servers for one user write few at once, and let the others wait
SILENCE_S: Final = 600.0  # without a byte: a request that waits for its turn is silent
END_ID: Final = 0  # of no piece: what ends a response is not sent
CHARACTERS: Final = 4  # of a prompt that count as a token
PROBE: Final = [{"role": "user", "content": "Say yes."}]
PROBE_TOKENS: Final = 4
ENDS: Final[dict[str, FinishReason]] = {"stop": "eos", "eos": "eos", "tool_calls": "eos", "length": "length"}


def find_server(urls: Sequence[str]) -> str | None:
    """Which server of chat completions answers at the first address; None where it is vLLM, or does not say."""
    pool = Pool([base_url(url) for url in urls[:1]], api_key=api_key())
    try:
        status, text = pool.get(pool.endpoints[0], "/models")
    except EngineError:
        return None  # the engine that connects says why
    finally:
        pool.close()
    return server_of(text) if status == 200 else None


class Pieces:
    """Pieces of text by number, for both ways; used by two threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers: dict[tuple[str, bool], int] = {}
        self._pieces: list[Piece] = []

    def number(self, piece: Piece) -> int:
        """The number of a piece; the same text has the same one."""
        key = (piece.text, piece.reasoning)
        with self._lock:
            if key not in self._numbers:
                self._numbers[key] = len(self._pieces) + 1  # 0 is the end
                self._pieces.append(replace(piece, logprob=None))
            return self._numbers[key]

    def piece(self, number: int) -> Piece:
        """The piece of a number."""
        return self._pieces[number - 1] if number != END_ID else Piece("")

    def numbers(self, text: str) -> tuple[int, ...]:
        """A text in pieces of a few characters."""
        return tuple(self.number(Piece(text[i : i + CHARACTERS])) for i in range(0, len(text), CHARACTERS))

    def text(self, numbers: Sequence[int], *, reasoning: bool | None = None) -> str:
        """The text of numbers: all of it, or one kind."""
        pieces = map(self.piece, numbers)
        return "".join(piece.text for piece in pieces if reasoning in (None, piece.reasoning))


class _AnswerReader(Reader):
    """A reader that knows where the answer begins behind reasoning that came in a field of its own."""

    __slots__ = ("_pieces", "_seen", "_start")

    def __init__(self, format: Format, pieces: Pieces) -> None:
        super().__init__(format)
        self._pieces, self._seen = pieces, 0
        self._start: int | None = None

    @property
    def answer_at(self) -> int | None:
        return self._start

    def push(self, token_id: int) -> bool:
        if self._start is None and not self._pieces.piece(token_id).reasoning:
            self._start = self._seen
        self._seen += 1
        return super().push(token_id)


class ChatEngine(ExternalEngine):
    """Writes trajectories with servers of the chat completions API, without scores.

    `name` is the model's name there; where the server has one model alone, it is that one. `server` says in words what
    the server is. `max_rows` says how many responses are in flight.
    """

    def __init__(
        self,
        name: str,
        urls: Sequence[str],
        server: str,
        *,
        max_rows: int = MAX_ROWS,
        tries: int = 3,
        silence_s: float = SILENCE_S,
    ) -> None:
        check_least(1, max_rows=max_rows, tries=tries)
        self._pieces, self._server = Pieces(), server
        judge = Judge(JudgeConfig(1, whole_response((), end_ids=[END_ID])))
        TokenEngine.__init__(
            self,
            name,
            None,
            judge,
            context_length=CONTEXT,
            vocabulary=2**31,
            eos_ids=frozenset({END_ID}),
            decode=self._pieces.text,
        )
        self.slots, self._running, self.max_rows = None, {}, max_rows
        self._unsent: deque[Running] = deque()
        self._flying: set[int] = set()
        self._pool = Pool(
            [base_url(url) for url in urls],
            api_key=api_key(),
            tries=tries,
            silence_s=silence_s,
            path="/chat/completions",
            read=lambda line, _: self._read(line),
            resumes=False,
        )
        try:
            names = {self._meet(endpoint) for endpoint in self._pool.endpoints}
            if len(names) > 1:
                raise EngineError(f"the endpoints serve different models: {', '.join(sorted(names))}.")
            (self.name,) = names
            self._logprobs = all(self._tells_logprobs(endpoint) for endpoint in self._pool.endpoints)
        except BaseException:
            self._pool.close()
            raise
        use = "majority, logprob and single" if self._logprobs else "majority and single"
        self.unscored = self.remark = f"{server} with {self.name!r} sends no step scores: the strategies are {use}"

    # ---- prompts

    def encode_messages(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> tuple[int, ...]:
        """The messages, which the server puts into the model's template, as numbers of pieces."""
        if tools:
            raise InputError(f"{self.name!r} is served by chat completions, to which no tools are passed on here.")
        return self._pieces.numbers(json.dumps([dict(message) for message in messages], ensure_ascii=False))

    def check(self, request: Request) -> None:
        """As `Engine.check`; there are no token ids, and nothing can be continued."""
        super().check(request)
        if request.stop_token_ids:
            raise InputError("chat completions know no token ids; name stop strings instead (stop).")
        if request.parent is not None:
            raise InputError(f"chat completions can't continue a response, so {self.name!r} has no forks.")

    # ---- requests

    def submit(self, request: Request) -> int:
        """Queue a request (see `Engine.submit`)."""
        sequence = self._open(request)
        self._running[sequence.id] = sequence
        self._unsent.append(sequence)
        self._send_next()
        return sequence.id

    def cancel(self, id: int) -> None:
        """Stop a trajectory, or forget a finished one (see `Engine.cancel`)."""
        super().cancel(id)
        self._land(id)

    def close(self) -> None:
        """Close the connections."""
        super().close()
        self._pool.close()

    def _start(self, request: Request) -> Running:
        reader = _AnswerReader(self.judge.format, self._pieces)
        return Running(next(self._ids), request, request.prompt_ids, reader, request.max_tokens)

    def _send_next(self) -> None:
        while self._unsent and len(self._flying) < self.max_rows:
            sequence = self._unsent.popleft()
            if sequence.id in self._running:
                self._flying.add(sequence.id)
                self._send(sequence)

    def _send(self, sequence: Running) -> None:
        messages = json.loads(self._pieces.text(sequence.prompt_ids))
        request = replace(sequence.request, max_tokens=sequence.limit)

        def body(_: Sequence[SampledToken], model: str) -> dict[str, Any]:
            return chat_request(model, messages, request, server=self._server, logprobs=self._logprobs)

        self._pool.start(sequence.id, body, None)

    def _abort(self, sequence: Running) -> None:
        self._pool.stop(sequence.id)

    def _land(self, id: int) -> None:
        """Stream `id` has ended: the next one may begin."""
        self._pool.homes.pop(id, None)
        self._flying.discard(id)
        self._send_next()

    # ---- what arrives

    def _receive(self) -> None:
        for arrived in self._pool.arrivals():
            self._arrive(arrived)

    def _arrive(self, arrived: Arrived) -> None:
        sequence = self._running.get(arrived.id)
        if sequence is None:
            return
        if arrived.error is not None:
            del self._running[arrived.id]
            self._land(arrived.id)
        arrived.check()
        end = None if arrived.end is None else ENDS.get(arrived.end, "cancelled")
        self._take(sequence, arrived.sampled, end)
        if arrived.id not in self._running:
            if arrived.end is None:
                self._pool.stop(arrived.id)  # our rule found the end before the server said so
            self._land(arrived.id)

    def _trajectory(self, sequence: Running, reason: FinishReason) -> Trajectory:
        """As every engine's; reasoning in a field of its own, or between marks, is no part of the answer."""
        found = super()._trajectory(sequence, reason)
        thinking = self._pieces.text(sequence.token_ids, reasoning=True)
        text = sequence.unstopped(self._pieces.text(sequence.token_ids, reasoning=False))
        marks = next((pair for pair in KNOWN_MARKS if pair[1] in text), None)
        if marks is not None:
            inside, _, text = text.partition(marks[1])
            thinking += inside.replace(marks[0], "", 1)
        if reason != "eos":  # a response that was cut is reasoning without an answer
            thinking, text = thinking + text, ""
        return replace(found, thinking=thinking, answer_text=text.strip())

    def _read(self, line: str) -> Chunk | None:
        delta = read_delta(line)
        if delta is None:
            return None
        sampled = [
            SampledToken(self._pieces.number(piece), math.nan if piece.logprob is None else piece.logprob, ())
            for piece in delta.pieces
        ]
        return Chunk(tuple(sampled), delta.end)

    # ---- the handshake

    def _meet(self, endpoint: Endpoint) -> str:
        """The model's name at an endpoint."""
        status, text = self._pool.get(endpoint, "/models")
        if status != 200:
            raise refusal(status, text, endpoint.where)
        try:
            names = [str(entry["id"]) for entry in json.loads(text)["data"]]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise EngineError(f"{endpoint.where} lists no models: {said(text)!r:.80}.") from None
        if self.name not in names and len(names) != 1:
            known = said(", ".join(names)) or "none"
            raise EngineError(f"{endpoint.where} has no model {self.name!r}, but {known}. Name one as the model.")
        endpoint.model = self.name if self.name in names else names[0]
        return endpoint.model

    def _tells_logprobs(self, endpoint: Endpoint) -> bool:
        """Whether the server tells log-probabilities; a server that refuses to be asked for them tells none."""
        request = Request((), max_tokens=PROBE_TOKENS)
        for logprobs in (True, False):
            body = chat_request(endpoint.model, PROBE, request, server=self._server, logprobs=logprobs)
            try:
                chunks = self._pool.read(endpoint, body, None)
            except EngineError:
                if not logprobs:
                    raise
                continue
            sampled = [one for chunk in chunks for one in chunk.sampled]
            return logprobs and bool(sampled) and not any(math.isnan(one.value) for one in sampled)
        raise AssertionError
