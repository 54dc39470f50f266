"""Verdicts of users on answers, stored beside what was answered. Off unless it is switched on, since it keeps texts.

SQLite by default, PostgreSQL where the place is a URL (`postgresql://…`, with psycopg). Everything is deleted after the
retention time, and by id on request. One thread does all of it; a store that fails or is slow costs no answer: what it
has not taken in waits in memory, up to a limit, above which answers are not kept and verdicts are refused.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from reflective.errors import DependencyError, InputError
from reflective.serve.faults import Fault

log = logging.getLogger("reflective.serve")
T = TypeVar("T")

DAY_S = 86_400.0
SWEEP_S = 600.0  # between two looks for what is too old
MAX_COMMENT = 10_000
MAX_WAITING = 64 * 2**20  # characters that wait to be stored
STORE_S = 30.0  # for what a client asks of the store
CLOSE_S = 2.0  # for what still waits when the server ends
TABLES = (
    """CREATE TABLE IF NOT EXISTS answers (id TEXT PRIMARY KEY, at DOUBLE PRECISION NOT NULL, client TEXT,
    model TEXT, messages TEXT NOT NULL, content TEXT, reasoning TEXT, result TEXT NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS feedback (answer TEXT NOT NULL, at DOUBLE PRECISION NOT NULL,
    score DOUBLE PRECISION, comment TEXT)""",
    "CREATE INDEX IF NOT EXISTS feedback_answer ON feedback (answer)",
    "CREATE INDEX IF NOT EXISTS answers_at ON answers (at)",
)


class Feedback(BaseModel):
    """A verdict on the answer `id`: right, wrong, or a score in 0..1, and a comment.

    The shapes of Langfuse (`traceId`, `value`) and Open WebUI (`data.rating` of 1 or -1, `meta.message_id`) are taken.
    """

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)
    id: str = Field(min_length=1, max_length=128)
    verdict: Literal["right", "wrong"] | None = None
    score: float | None = Field(default=None, ge=0, le=1)
    comment: str | None = Field(default=None, max_length=MAX_COMMENT)

    @model_validator(mode="before")
    @classmethod
    def _shapes(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        if "traceId" in body:
            value = body.get("value")
            return {"id": body["traceId"], "score": float(value) if value in (True, False) else value, **_comment(body)}
        data, meta = body.get("data"), body.get("meta")
        if isinstance(data, dict) and "rating" in data:
            id = (meta if isinstance(meta, dict) else {}).get("message_id") or data.get("message_id") or body.get("id")
            rating = data["rating"]
            score = {1: 1.0, -1: 0.0, "1": 1.0, "-1": 0.0}.get(rating) if isinstance(rating, int | str) else None
            return {"id": id, "score": score, **_comment(data)}
        return body

    @model_validator(mode="after")
    def _says_something(self) -> Feedback:
        if self.verdict is None and self.score is None and not self.comment:
            raise ValueError("give a verdict, a score or a comment")
        return self

    @property
    def value(self) -> float | None:
        """The score; right is 1, wrong is 0."""
        return {"right": 1.0, "wrong": 0.0}.get(self.verdict or "", self.score)


def _comment(body: dict[str, Any]) -> dict[str, Any]:
    return {"comment": body.get("comment") or body.get("reason")}


class FeedbackStore:
    """Answers and what users said of them, in the database at `place`."""

    def __init__(self, place: str, retention_days: float) -> None:
        if retention_days <= 0:
            raise InputError(f"answers are kept for {retention_days} days; it must be more than 0.")
        self._place, self._postgres = place, place.startswith(("postgresql://", "postgres://"))
        self._retention_s = retention_days * DAY_S
        self._swept = 0.0
        self._waiting, self._lock = 0, threading.Lock()
        self._thread = ThreadPoolExecutor(1, "feedback")
        self._base = self._thread.submit(self._connect).result()

    def keep(self, id: str, client: str, model: str, messages: Any, content: str, reasoning: str, result: Any) -> None:
        """Keep an answer, soon. Never raises."""
        texts = (client, model, json.dumps(messages), content, reasoning, json.dumps(result))

        def work() -> None:
            try:
                self._write("INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (id, time.time(), *texts))
                self._sweep()
            except Exception:
                log.exception("an answer could not be kept for feedback")

        try:
            self._submit(work, sum(map(len, texts)))
        except Fault:
            log.warning("an answer was not kept for feedback: too many wait for the store")

    async def add(self, feedback: Feedback, client: str) -> None:
        """Store a verdict. Raises `Fault` where the answer is not known, or another key's."""

        def work() -> None:
            self._sweep(at_once=True)
            self._check(feedback.id, client)
            row = (feedback.id, time.time(), feedback.value, feedback.comment)
            self._write("INSERT INTO feedback VALUES (?, ?, ?, ?)", row)

        await self._run(work)

    async def read(self, id: str, client: str) -> dict[str, Any]:
        """An answer with its verdicts. Raises `Fault` where it is not known, or another key's."""

        def work() -> dict[str, Any]:
            self._sweep(at_once=True)
            self._check(id, client)
            found = self._read("SELECT at, model, messages, content, result FROM answers WHERE id = ?", (id,))
            at, model, messages, content, result = found[0]
            said = self._read("SELECT at, score, comment FROM feedback WHERE answer = ? ORDER BY at", (id,))
            return {
                "id": id,
                "at": at,
                "model": model,
                "messages": json.loads(messages),
                "content": content,
                "reflective": json.loads(result),
                "feedback": [{"at": at, "score": score, "comment": comment} for at, score, comment in said],
            }

        return await self._run(work)

    async def delete(self, id: str, client: str) -> None:
        """Forget an answer and its verdicts. Raises `Fault` where it is not known, or another key's."""

        def work() -> None:
            self._check(id, client)
            self._write("DELETE FROM feedback WHERE answer = ?", (id,))
            self._write("DELETE FROM answers WHERE id = ?", (id,))

        await self._run(work)

    def close(self) -> None:
        """Finish what is under way."""
        with suppress(TimeoutError):
            self._thread.submit(lambda: self._base.close()).result(CLOSE_S)
        self._thread.shutdown(wait=False, cancel_futures=True)

    # ---- on its thread

    def _submit(self, work: Callable[[], T], size: int) -> Future[T]:
        """Have it done; `size` characters wait meanwhile. Raises `Fault` where too many do already."""
        with self._lock:
            if self._waiting + size > MAX_WAITING:
                what = "The feedback store is too slow. Try again later."
                raise Fault(503, what, code="feedback_failed", headers={"Retry-After": "5"})
            self._waiting += size

        def done(_: Future[T]) -> None:
            with self._lock:
                self._waiting -= size

        future = self._thread.submit(work)
        future.add_done_callback(done)
        return future

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            async with asyncio.timeout(STORE_S):
                return await asyncio.wrap_future(self._submit(work, MAX_COMMENT))
        except Fault:
            raise
        except Exception as error:  # of either database: it is away, or busy for long
            log.exception("the feedback store failed")
            what = "The feedback store failed. Try again."
            raise Fault(503, what, code="feedback_failed", headers={"Retry-After": "5"}) from error

    def _connect(self) -> Any:
        place = self._place
        if self._postgres:
            try:
                import psycopg
            except ImportError as error:
                raise DependencyError("feedback in PostgreSQL needs psycopg: pip install 'psycopg[binary]'") from error
            try:
                base: Any = psycopg.connect(place, autocommit=True)
            except psycopg.Error as error:
                raise InputError("can't open the feedback database; is its URL right?") from error
        else:
            import sqlite3

            try:
                base = sqlite3.connect(Path(place).expanduser(), isolation_level=None)
                base.execute("PRAGMA journal_mode=WAL")
                base.execute("PRAGMA busy_timeout=5000")  # several servers may share the file
                base.execute("PRAGMA secure_delete=ON")
            except sqlite3.Error as error:
                raise InputError(f"can't keep feedback in {place!r}: {error}") from error
        for table in TABLES:
            base.execute(table)
        return base

    def _execute(self, text: str, values: Sequence[Any]) -> Any:
        if not self._postgres:
            return self._base.execute(text, values)
        if self._base.closed:  # the server has gone away since
            self._base = self._connect()
        # a text of PostgreSQL's holds no NUL
        values = [value.replace("\0", "") if isinstance(value, str) else value for value in values]
        return self._base.execute(re.sub(r"\?", "%s", text), values)

    def _check(self, id: str, client: str) -> None:
        found = self._read("SELECT client FROM answers WHERE id = ?", (id,))
        if not found or (client.startswith("key:") and found[0][0] != client):
            raise Fault(404, f"There is no answer '{id:.80}' here.", param="id", code="answer_not_found")

    def _read(self, text: str, values: Sequence[Any]) -> list[Any]:
        return list(self._execute(text, values).fetchall())

    def _write(self, text: str, values: Sequence[Any]) -> int:
        return int(self._execute(text, values).rowcount)

    def _sweep(self, *, at_once: bool = False) -> None:
        """Delete what is too old."""
        now = time.time()
        if not at_once and now - self._swept < SWEEP_S:
            return
        self._swept = now
        old = (now - self._retention_s,)
        self._write("DELETE FROM feedback WHERE answer IN (SELECT id FROM answers WHERE at < ?)", old)
        self._write("DELETE FROM answers WHERE at < ?", old)
