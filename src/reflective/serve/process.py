"""The process that serves: its socket, its loop, its end."""

from __future__ import annotations

import uvicorn

from reflective.api import Reflective
from reflective.serve.app import make_app
from reflective.serve.service import ServeSettings


def serve(model: Reflective, settings: ServeSettings) -> None:
    """Serve until a signal comes."""
    config = uvicorn.Config(
        make_app(model, settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=8,
    )
    uvicorn.Server(config).run()
