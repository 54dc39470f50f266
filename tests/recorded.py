"""Runs as a server tells them, and a server that plays them back, for tests of the page."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

import anyio
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from reflective.serve.page import files, offered, routes

Event = dict[str, Any]


def lane(index: int, steps: Sequence[tuple[str, float]], answer: str | None, said: str | None = None) -> list[Event]:
    """What is told of a trajectory that writes its steps, then its answer."""
    events: list[Event] = []
    logs = 0.0
    for i, (text, score) in enumerate(steps):
        logs += math.log(score)
        half = len(text) // 2
        events += [{"type": "text", "trajectory": index, "delta": part} for part in (text[:half], text[half:] + "\n\n")]
        running = math.exp(logs / (i + 1))
        events.append({"type": "step", "trajectory": index, "index": i, "score": score, "running": running})
    final = math.exp(logs / len(steps)) if steps else None
    end = {"type": "finished", "trajectory": index, "score": final, "tokens": 40 + index}
    events.append({**end, "reason": "think_end", "answer": None})
    if answer is not None:
        events.append({"type": "answering", "trajectory": index})
        events.append({"type": "text", "trajectory": index, "delta": said or f"\\boxed{{{answer}}}"})
        events.append({**end, "reason": "eos", "answer": answer})
    return events


def solved(selected: int | None, answer: str | None, majority: str | None, **more: Any) -> Event:
    """The outcome."""
    return {
        "type": "solved",
        "selected": selected,
        "score": 0.5,
        "confidence": 0.8523,
        "strategy": "best_of_n",
        "effort": 3,
        "seed": 1,
        "answer": answer,
        "majority": majority,
        "usage": {"prompt_tokens": 31, "completion_tokens": 1234},
        "timing": {"total_s": 1.5},
        "trajectories": [],
        "notes": [],
        **more,
    }


def run(k: int, *parts: Sequence[Event]) -> list[Event]:
    """Events from the start on."""
    return [
        {"type": "started", "k": k, "strategy": "best_of_n", "prompt_tokens": 31},
        *(event for part in parts for event in part),
    ]


class Recorded:
    """A server whose answers are set by the test: `events`, `pause` (seconds between them), `key`.

    An event whose type is in `held` is sent when its gate is set.
    """

    def __init__(self) -> None:
        self.reset()
        self.url = ""

    def reset(self) -> None:
        self.events: list[Event] = []
        self.pause = 0.0
        self.held: dict[str, threading.Event] = {}
        self.key: str | None = None
        self.asked: list[dict[str, Any]] = []
        self.feedback: list[dict[str, Any]] = []
        self.told = threading.Event()
        self.gone = threading.Event()
        self.model = "nano"

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.middleware("http")
        async def door(request: Request, go_on: Any) -> Response:
            closed = self.key and request.url.path.startswith("/v1/")
            if closed and request.headers.get("authorization") != f"Bearer {self.key}":
                return JSONResponse({"error": {"message": "Incorrect API key."}}, 401)
            return await go_on(request)

        @app.post("/v1/chat/completions")
        async def chat(request: Request) -> Response:
            self.asked.append(await request.json())
            return Told(self)

        @app.post("/v1/feedback")
        async def feedback(request: Request) -> Response:
            self.feedback.append(await request.json())
            return JSONResponse({})

        app.include_router(files())
        app.include_router(routes(lambda: offered(self.model, effort="medium", scored=True, feedback=True)))
        return app

    async def stream(self) -> AsyncIterator[str]:
        yield ": keep-alive\n\n"
        for event in self.events:
            if event["type"] in self.held:
                await anyio.to_thread.run_sync(self.held[event["type"]].wait, 30)
            content = {"content": event["delta"]} if event["type"] == "content" else {}
            chunk = {"id": "chatcmpl-1", "choices": [{"index": 0, "delta": content}]}
            yield f"data: {json.dumps(chunk if content else {**chunk, 'reflective': event})}\r\n\r\n"
            await anyio.sleep(self.pause)
        yield "data: [DONE]\n\n"
        self.told.set()


class Told(StreamingResponse):
    """The stream of a recorded run; says when its client is gone, be it met while it waits or while it sends."""

    def __init__(self, recorded: Recorded) -> None:
        super().__init__(recorded.stream(), media_type="text/event-stream")
        self.recorded = recorded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            if not self.recorded.told.is_set():
                self.recorded.gone.set()
