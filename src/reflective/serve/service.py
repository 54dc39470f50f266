"""What all requests share: the model, its driver in a thread of its own, who is let in, the end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reflective.api import Reflective
from reflective.engines.driver import Driver
from reflective.errors import EngineError, InputError
from reflective.options import DEFAULT_EFFORT
from reflective.search import SearchEvent
from reflective.serve.admission import Admission, Place
from reflective.serve.faults import Fault, fault_of
from reflective.serve.feedback import FeedbackStore
from reflective.serve.forms import Forms
from reflective.serve.keys import Key
from reflective.serve.metrics import Metrics
from reflective.serve.prompts import Question, number_of, read
from reflective.serve.schemas import ChatRequest
from reflective.serve.session import Bell, Session
from reflective.serve.visitor import Visitor
from reflective.settings import at_least
from reflective.types import Trajectory

if TYPE_CHECKING:
    from reflective.serve.writing import Outcome

logger = logging.getLogger("reflective.serve")

BUSY = 2  # requests are let in until so many times the engine's rows of trajectories wait or run
MAX_BODY = 4 * 2**20  # bytes
MAX_PORT = 2**16 - 1


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """How a server behaves; the options of `reflective serve`.

    `effort` is that of requests that name none, `max_effort` the highest that one may ask for. `queue` requests may
    wait for room, one may take `time_limit_s` in the engine, its body `body_s` to come in. `reasoning_fields` are the
    names under which the reasoning is given. `feedback` is the database that keeps answers for `retention_days`, so
    that verdicts on them can be taken; None keeps nothing. `answer_prompt` asks models whose whole response is the
    reasoning for an answer in a given form. `grace_s` is how long requests may run on when the server is to end.
    With `log_prompts` the log holds what is asked.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    effort: str | int = DEFAULT_EFFORT
    max_effort: int = 64
    name: str | None = None
    hosts: tuple[str, ...] = ()
    queue: int = 1024
    time_limit_s: float = 600.0
    body_s: float = 30.0
    max_body: int = MAX_BODY
    grace_s: float = 5.0
    reasoning_fields: tuple[str, ...] = ("reasoning", "reasoning_content")
    answer_prompt: str = "Now give the final answer alone, as JSON.{schema}"
    feedback: str | None = None
    retention_days: float = 30.0
    log_prompts: bool = False

    def __post_init__(self) -> None:
        at_least(self, 0, "port", "queue", "retention_days")
        at_least(self, 1, "max_effort")
        if self.port > MAX_PORT:
            raise InputError(f"port is {self.port}; it must be {MAX_PORT} or less.")
        if not self.time_limit_s > 0:  # also for NaN
            raise InputError(f"the time limit is {self.time_limit_s:g} seconds; it must be more than 0.")
        k = number_of(self.effort)
        if isinstance(k, int) and k > self.max_effort:
            raise InputError(f"effort is {self.effort!r}, more than the {self.max_effort} that a request may ask for.")


class Service:
    """A model that is being served. Made in the event loop that serves it."""

    def __init__(self, model: Reflective, settings: ServeSettings, metrics: Metrics) -> None:
        self.model, self.settings, self.engine, self.metrics = model, settings, model.engine, metrics
        self.name = settings.name or Path(model.engine.name).name
        # what errors call it: a folder's path is nobody's business
        self.engine.unscored = self.engine.unscored.replace(self.engine.name, self.name)
        self.engine.name = self.name
        self.format = model.engine.judge.format
        self.ends = tuple(model.engine.decode([id]) for id in sorted(model.engine.end_ids))
        self.created = int(time.time())
        self.admission = Admission(BUSY * model.engine.max_rows, settings.queue)
        self.stopping = False
        self._driver = Driver.of(model.engine)
        self._driver.start()
        self._loop = asyncio.get_running_loop()
        self._bell = Bell(self._loop)
        self._store = FeedbackStore(settings.feedback, settings.retention_days) if settings.feedback else None
        self._forms = Forms(model.engine)
        self.reader = ThreadPoolExecutor(1, "reader")
        """Reads given text: in a thread of its own, so that requests are read while it waits for the engine."""
        self._sessions: set[Session] = set()
        metrics.waiting.set_function(lambda: self.admission.waiting)
        metrics.active.set_function(lambda: self.admission.inside)
        metrics.rows.set_function(lambda: self.admission.rows)

    # ---- requests

    def read(self, request: ChatRequest) -> Question:
        """What a request asks. Raises what `prompts.read` raises; takes as long as the prompt is long."""
        try:
            return read(request, self.model, self.settings.effort, self._forms)
        except EngineError as error:  # nothing has been written yet: it asks for what this engine can't do
            raise Fault(400, str(error), code="unsupported") from error

    def check(self, question: Question, key: Key | None) -> None:
        """Raise `Fault` for what may not be asked now, or not by this client."""
        most = min(self.settings.max_effort, key.highest_effort if key is not None and key.highest_effort else 10**9)
        if question.k > most:
            raise Fault(
                400,
                f"an effort of {question.k} is more than the {most} trajectories that are allowed here.",
                param="reasoning_effort",
                code="invalid_value",
            )
        self.admit(key)

    def expect(self, key: Key | None) -> None:
        """Raise `Fault` where no request is taken now, or none of this client's: nothing of it need be read."""
        if self.stopping:
            raise stopping()
        self.admission.expect()
        if key is not None:
            key.check()

    def admit(self, key: Key | None) -> None:
        """Count a request. Raises `Fault` where none is taken now, or none of this client's."""
        self.expect(key)
        if key is not None:
            key.requests.take(1)

    @contextmanager
    def place(self, client: str, rows: int) -> Iterator[Place]:
        """A place of so many rows among those who wait or are inside; `came` is done when it is its turn."""
        began = time.monotonic()
        place = self.admission.ask(client, rows)
        place.came.add_done_callback(lambda _: self.metrics.queued_s.observe(time.monotonic() - began))
        try:
            yield place
        finally:
            self.admission.leave(place)

    @contextmanager
    def session(
        self,
        question: Question,
        visitor: Visitor,
        wanted: frozenset[type[SearchEvent]] = frozenset(),
        answer_of: Callable[[Trajectory], str | None] | None = None,
    ) -> Iterator[Session]:
        """A session under the time limit. What was written of one that is not finished is paid for, too."""
        session = Session(
            self._driver,
            self._bell,
            question,
            calibration=self.model.calibration,
            wanted=wanted,
            answer_of=answer_of,
        )
        timer = self._loop.call_later(self.settings.time_limit_s, session.fail, self.late)
        self._sessions.add(session)
        try:
            with session:
                yield session
        except BaseException as error:
            written = session.written
            visitor.pay(len(question.prompt_ids) + written)
            self.metrics.cancelled.inc(written)
            if isinstance(error, GeneratorExit | asyncio.CancelledError):
                self.metrics.cut.labels("client").inc()
            raise
        finally:
            timer.cancel()
            self._sessions.discard(session)

    def answered(self, id: str, question: Question, outcome: Outcome, visitor: Visitor) -> None:
        """An answer goes out: the log line says so, and it is kept where answers are."""
        prompt, written = outcome.usage["prompt_tokens"], outcome.usage["completion_tokens"]
        visitor.log.update(response=id, k=question.k, prompt=prompt, tokens=written)
        if self._store is not None:
            best = outcome.answers[0]
            self._store.keep(
                id, visitor.client, self.name, question.messages, best.content, best.reasoning or "", outcome.summary
            )

    def failed(self, error: Exception, log: dict[str, Any]) -> Fault:
        """The error that a streaming client receives; the log has the whole of it."""
        fault = fault_of(error)
        log["error"] = fault.code or fault.kind
        if not isinstance(error, Fault) and fault.status >= 500:
            logger.error("a stream failed", exc_info=error)
        self.metrics.cut.labels(fault.code or fault.kind).inc()
        return fault

    @property
    def late(self) -> Fault:
        """The error for what takes longer than a request may."""
        limit = self.settings.time_limit_s
        return Fault(504, f"The answer was not there within {limit:.0f} seconds.", code="timeout")

    @property
    def feedback(self) -> FeedbackStore:
        """Where verdicts go. Raises `Fault` where none are taken."""
        if self._store is None:
            what = "This server keeps no answers, so it takes no feedback (reflective serve --feedback FILE)."
            raise Fault(404, what, code="feedback_off")
        return self._store

    # ---- what clients receive

    @property
    def card(self) -> dict[str, Any]:
        """The model as /v1/models shows it."""
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "reflective",
            "max_model_len": self.engine.context_length,
            "reflective": {
                "scored": self.engine.scored,
                "reasoning": "whole" if self.format.is_whole else "marks",
                "effort": self.settings.effort,
                "max_effort": self.settings.max_effort,
                "feedback": self.settings.feedback is not None,
            },
        }

    def reasoning(self, text: str | None) -> dict[str, Any]:
        """The reasoning under the names that it is to have; nothing where there is none."""
        return dict.fromkeys(self.settings.reasoning_fields, text) if text else {}

    @property
    def running(self) -> Sequence[Session]:
        """The sessions under way."""
        return tuple(self._sessions)

    # ---- the end

    def stop(self) -> None:
        """Take nothing new; what runs may run on for a while, then it gets an error."""
        if not self.stopping:
            self.stopping = True
            self.admission.close(stopping())
            self._loop.call_later(self.settings.grace_s, self._cut)

    def _cut(self) -> None:
        for session in self.running:
            session.fail(stopping())

    def close(self) -> None:
        """Give back the engine."""
        self.stopping = True
        self.reader.shutdown(cancel_futures=True)
        self._driver.close()
        if self._store is not None:
            self._store.close()


def stopping() -> Fault:
    """The error for requests that a stopping server refuses or ends."""
    return Fault(503, "The server is stopping. Try again.", code="stopping", headers={"Retry-After": "10"})
