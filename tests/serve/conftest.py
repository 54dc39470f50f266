"""A real server on a real socket, for all tests of a module."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from reflective import Reflective, ScriptedEngine
from reflective.serve.keys import Key
from reflective.serve.process import make_server
from reflective.serve.service import ServeSettings

os.environ["NO_PROXY"] = "127.0.0.1"
PROBLEM = "Find the Least Common Multiple (LCM) of these numbers: 14, 20"
MESSAGES = [{"role": "user", "content": PROBLEM}]


class Chatting(ScriptedEngine):
    """A scripted engine with a chat template that renders tools."""

    tokenizer = SimpleNamespace(chat_template="{{ tools }}")

    def encode_messages(self, messages, tools=None):
        return self.encode_prompt(" ".join(message["content"] for message in messages) + json.dumps(tools))


class Running:
    """A server that runs: its address, its service, itself."""

    def __init__(self, port: int, server: Any) -> None:
        self.port, self.server = port, server
        self.url = f"http://127.0.0.1:{port}"

    @property
    def service(self) -> Any:
        return self.server.config.app.state.service

    def idle(self, within_s: float = 1.0) -> bool:
        """Whether nothing is left of any request, soon."""
        until = time.monotonic() + within_s
        while time.monotonic() < until:
            admission, ledger = self.service.admission, self.service._driver.ledger
            if not (admission.inside or admission.waiting or admission.rows or self.service.running or ledger.busy):
                return True
            time.sleep(0.01)
        return False


@contextmanager
def serving(model: Reflective, settings: ServeSettings | None = None, keys: Sequence[Key] = ()) -> Iterator[Running]:
    server = make_server(model, settings or ServeSettings(), keys)
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            until = time.monotonic() + 60
            while not server.started and time.monotonic() < until:
                time.sleep(0.01)
            yield Running(listening.getsockname()[1], server)
        finally:
            server.should_exit = True
            thread.join(30)


@pytest.fixture(scope="module")
def nano_server() -> Iterator[Running]:
    with Reflective.from_pretrained("nano") as model, serving(model) as running:
        yield running
