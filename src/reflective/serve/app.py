"""The routes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response, StreamingResponse
from pydantic_core import to_json
from starlette.exceptions import HTTPException

from reflective import __version__
from reflective.api import Reflective
from reflective.serve import chat, page
from reflective.serve.faults import Fault, fault_of, invalid
from reflective.serve.prompts import read
from reflective.serve.schemas import ChatRequest
from reflective.serve.service import ServeSettings, Service

log = logging.getLogger("reflective.serve")


def answer(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON response."""
    return Response(to_json(value, inf_nan_mode="null"), status, headers, "application/json")


def make_app(model: Reflective, settings: ServeSettings | None = None) -> FastAPI:
    """The application that serves a model."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.service = Service(model, settings or ServeSettings())
        yield

    app = FastAPI(title="reflective", version=__version__, lifespan=lifespan)
    _add_faults(app)
    _add_routes(app)
    _add_page(app)
    return app


def _add_page(app: FastAPI) -> None:
    """The page at /, and what it asks for."""

    def offer() -> dict[str, Any]:
        service: Service = app.state.service
        return page.offered(service.name, effort=service.settings.effort, scored=service.engine.scored, feedback=False)

    app.include_router(page.files())
    app.include_router(page.routes(offer))


def _add_routes(app: FastAPI) -> None:
    @app.post("/v1/chat/completions")
    async def completions(body: ChatRequest, request: Request) -> Response:
        """Answer a conversation."""
        service: Service = request.app.state.service
        _check_model(service, body.model)
        question = await asyncio.to_thread(read, body, service.model, service.settings.effort)
        if body.stream:
            return StreamingResponse(chat.stream(service, body, question), media_type="text/event-stream")
        return answer(await chat.complete(service, body, question))

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        """The model that is served."""
        service: Service = request.app.state.service
        return answer({"object": "list", "data": [service.card]})

    @app.get("/v1/models/{name:path}")
    async def model_card(name: str, request: Request) -> Response:
        """The model of that name."""
        service: Service = request.app.state.service
        _check_model(service, name)
        return answer(service.card)

    @app.get("/health")
    async def health() -> Response:
        """Whether the process answers."""
        return answer({"status": "ok"})

    @app.get("/ready")
    async def ready(request: Request) -> Response:
        """Whether requests are taken."""
        service: Service = request.app.state.service
        return answer({"status": "ok"}) if service.ready else answer({"status": "stopping"}, 503)


def _check_model(service: Service, name: str) -> None:
    if name != service.name:
        raise Fault(
            404,
            f"The model '{name:.80}' does not exist here; this server has '{service.name}'.",
            param="model",
            code="model_not_found",
        )


def _add_faults(app: FastAPI) -> None:
    """Every error as OpenAI's error object."""

    @app.exception_handler(RequestValidationError)
    async def refused(request: Request, error: RequestValidationError) -> Response:
        return _told(invalid(list(error.errors())))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        what = {404: f"There is nothing at {request.method} {request.url.path:.200}."}
        return _told(Fault(error.status_code, what.get(error.status_code, str(error.detail))))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        fault = fault_of(error)
        if fault.status >= 500:
            log.exception("request failed", exc_info=error)
        return _told(fault)

    app.add_exception_handler(Fault, failed)


def _told(fault: Fault) -> Response:
    return answer(fault.body(), fault.status, fault.headers)
