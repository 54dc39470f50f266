"""The routes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response, StreamingResponse
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from reflective import __version__
from reflective.api import Reflective
from reflective.errors import ContextError
from reflective.serve import page, scoring
from reflective.serve.bodies import StrictRoute
from reflective.serve.chat import ChatWire
from reflective.serve.doors import OWN_NAMES, Doors, Gone
from reflective.serve.faults import ErrorBody, Fault, fault_of, invalid
from reflective.serve.feedback import Feedback
from reflective.serve.keys import Key
from reflective.serve.metrics import Metrics
from reflective.serve.prompts import Question
from reflective.serve.reference import reference
from reflective.serve.responses import ResponsesWire
from reflective.serve.responses_schema import ResponsesRequest
from reflective.serve.schemas import ChatRequest, Sampled
from reflective.serve.scoring import ScoreRequest
from reflective.serve.service import ServeSettings, Service
from reflective.serve.streaming import Wire, in_one_piece, stream
from reflective.serve.tracing import Tracing
from reflective.serve.visitor import Visitor

T = TypeVar("T")

logger = logging.getLogger("reflective.serve")


class EventStream(StreamingResponse):
    """Server-sent events, whose source is closed as soon as the client is gone."""

    media_type = "text/event-stream"

    def __init__(self, source: AsyncGenerator[bytes]) -> None:
        super().__init__(source, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._source.aclose()


class App(FastAPI):
    """FastAPI's, whose description names the model that is served, unless only a key's owner may know that."""

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI description."""
        description = super().openapi()
        if self.extra["guarded"]:
            return description
        for schema in description["components"]["schemas"].values():
            if "model" in schema.get("properties", ()):
                schema["properties"]["model"] = {"type": "string", "enum": [self.state.service.name]}
        return description


def answer(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON response."""
    return Response(to_json(value, inf_nan_mode="null"), status, headers, "application/json")


def make_app(model: Reflective, settings: ServeSettings | None = None, keys: Sequence[Key] = ()) -> FastAPI:
    """The application that serves a model."""
    settings = settings or ServeSettings()
    metrics, tracing = Metrics(), Tracing.find()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.service = service = Service(model, settings, metrics)
        yield
        await asyncio.to_thread(service.close)
        if tracing is not None:
            await asyncio.to_thread(tracing.close)

    error = {"description": "what is wrong", "model": ErrorBody}
    # no redirects: their target would be made of the Host header
    app = App(
        title="reflective",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses={"4XX": error, "5XX": error},
        guarded=bool(keys),
    )
    app.router.route_class = StrictRoute
    hosts = frozenset(map(str.lower, settings.hosts)) | (
        OWN_NAMES if settings.host in OWN_NAMES or settings.hosts else frozenset()
    )
    app.add_middleware(
        Doors,
        keys=keys,
        hosts=hosts,
        max_body=settings.max_body,
        body_s=settings.body_s,
        metrics=metrics,
        tracing=tracing,
    )
    _add_faults(app)
    _add_routes(app)
    _add_page(app)
    return app


def _add_page(app: FastAPI) -> None:
    """The page at /, what it asks for, and the reference at /docs."""

    def offer() -> dict[str, Any]:
        service: Service = app.state.service
        return page.offered(
            service.name,
            effort=service.settings.effort,
            scored=service.engine.scored,
            feedback=service.settings.feedback is not None,
        )

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return Response(reference(app.openapi()), media_type="text/html; charset=utf-8", headers=dict(page.HEADERS))

    app.include_router(page.files())
    app.include_router(page.routes(offer))


def _add_routes(app: FastAPI) -> None:
    @app.post("/v1/chat/completions")
    async def completions(body: ChatRequest, request: Request) -> Response:
        """Answer a conversation."""
        service, visitor = _visit(request)
        _check_model(service, body.model)
        service.expect(visitor.key)
        question = await asyncio.to_thread(service.read, body)
        usage = body.stream_options is not None and body.stream_options.include_usage
        return await _reply(request, ChatWire(service, usage), question, body, visitor)

    @app.post("/v1/responses")
    async def respond(body: ResponsesRequest, request: Request) -> Response:
        """Answer a conversation, as the newer API has it. Nothing is kept."""
        service, visitor = _visit(request)
        _check_model(service, body.model)
        service.expect(visitor.key)
        try:
            question = await asyncio.to_thread(service.read, body.as_chat())
            return await _reply(request, ResponsesWire(service, body, question), question, body, visitor)
        except (Fault, ContextError) as error:
            fault = fault_of(error)
            fault.rename(body.renamed(fault.param))
            raise fault from error

    @app.post("/v1/score")
    async def scores(body: ScoreRequest, request: Request) -> Response:
        """Score the steps of given responses."""
        service, visitor = _visit(request)
        _check_model(service, body.model)
        service.admit(visitor.key)
        return answer(await while_there(request, scoring.scores(service, body, visitor)))

    @app.post("/v1/feedback")
    async def say(body: Feedback, request: Request) -> Response:
        """Say what an earlier answer was worth."""
        service, visitor = _visit(request)
        await service.feedback.add(body, visitor.client)
        return answer({"object": "feedback", "id": body.id, "score": body.value}, 201)

    @app.get("/v1/feedback/{id}")
    async def said(id: str, request: Request) -> Response:
        """An answer that was kept, and what was said of it."""
        service, visitor = _visit(request)
        return answer(await service.feedback.read(id, visitor.client))

    @app.delete("/v1/feedback/{id}")
    async def forget(id: str, request: Request) -> Response:
        """Forget an answer, and what was said of it."""
        service, visitor = _visit(request)
        await service.feedback.delete(id, visitor.client)
        return answer({"object": "feedback", "id": id, "deleted": True})

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        """The model that is served."""
        return answer({"object": "list", "data": [_visit(request)[0].card]})

    @app.get("/v1/models/{name:path}")
    async def model_card(name: str, request: Request) -> Response:
        """The model of that name."""
        service = _visit(request)[0]
        _check_model(service, name)
        return answer(service.card)

    @app.get("/health")
    async def health() -> Response:
        """Whether the process answers."""
        return answer({"status": "ok"})

    @app.get("/ready")
    async def ready(request: Request) -> Response:
        """Whether requests are taken."""
        stopping = _visit(request)[0].stopping
        return answer({"status": "stopping" if stopping else "ok"}, 503 if stopping else 200)

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        """Figures for Prometheus."""
        text = _visit(request)[0].metrics.text()
        return Response(text, media_type="text/plain; version=0.0.4")


def _visit(request: Request) -> tuple[Service, Visitor]:
    """The service, and who asks."""
    return request.app.state.service, request.scope["state"]["visitor"]


async def _reply(request: Request, wire: Wire, question: Question, body: Sampled, visitor: Visitor) -> Response:
    """The answer to a question, in one piece or as a stream."""
    service, _ = _visit(request)
    service.check(question, visitor.key)
    if service.settings.log_prompts:
        fields = {"id": request.scope["state"]["request_id"], "messages": question.messages}
        logger.info("prompt", extra={"fields": fields})
    if body.stream:
        return EventStream(stream(service, wire, question, visitor))
    return answer(await while_there(request, in_one_piece(service, wire, question, visitor)))


async def while_there(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What the work comes to; it is given up when the client goes away."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Gone
        return task.result()
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _check_model(service: Service, name: str) -> None:
    if name != service.name:
        raise Fault(
            404,
            f"The model '{name:.80}' does not exist here; this server has '{service.name}'.",
            param="model",
            code="model_not_found",
        )


def _add_faults(app: FastAPI) -> None:
    """Every error as OpenAI's error object; what nobody expected is for the doors, which log it."""

    @app.exception_handler(RequestValidationError)
    async def refused(request: Request, error: RequestValidationError) -> Response:
        return _response(invalid(list(error.errors())))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        asked, headers = f"{request.method} {request.url.path:.200}", dict(error.headers or {})
        told = {404: f"There is nothing at {asked}.", 405: f"{asked} can't be; what can: {headers.get('Allow')}."}
        what = told.get(error.status_code, str(error.detail))
        code = {405: "method_not_allowed"}.get(error.status_code)
        return _response(Fault(error.status_code, what, code=code, headers=headers))

    @app.exception_handler(Fault)
    async def fault(request: Request, error: Fault) -> Response:
        return _response(error)


def _response(fault: Fault) -> Response:
    return answer(fault.body(), fault.status, fault.headers)
