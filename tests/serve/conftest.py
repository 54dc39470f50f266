"""A real server on a real socket, with nano, for all tests of a module."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn

from reflective import Reflective
from reflective.serve.app import make_app
from reflective.serve.service import ServeSettings

os.environ["NO_PROXY"] = "127.0.0.1"
PROBLEM = "Find the Least Common Multiple (LCM) of these numbers: 14, 20"


class Running:
    """A server that runs: its address, its application, its service."""

    def __init__(self, port: int, app: Any) -> None:
        self.port, self.app = port, app
        self.url = f"http://127.0.0.1:{port}"

    @property
    def service(self) -> Any:
        return self.app.state.service


@contextmanager
def serving(model: Reflective, settings: ServeSettings | None = None) -> Iterator[Running]:
    app = make_app(model, settings)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            until = time.monotonic() + 60
            while not server.started and time.monotonic() < until:
                time.sleep(0.01)
            yield Running(listening.getsockname()[1], app)
        finally:
            server.should_exit = True
            thread.join(30)


@pytest.fixture(scope="module")
def nano_server() -> Iterator[Running]:
    with Reflective.from_pretrained("nano") as model, serving(model) as running:
        yield running
