"""The page in a Chromium, before a server that plays back recorded events, so that each test sees what it wrote."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recorded import Recorded

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
AXE = "4.10.3"


@pytest.fixture(scope="session")
def _recorded() -> Iterator[Recorded]:
    uvicorn = pytest.importorskip("uvicorn")
    recorded = Recorded()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(recorded.app(), log_config=None, access_log=False))
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        until = time.monotonic() + 30
        while not server.started and time.monotonic() < until:
            time.sleep(0.01)
        recorded.url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        yield recorded
        server.should_exit = True
        thread.join(10)


@pytest.fixture
def recorded(_recorded: Recorded) -> Recorded:
    _recorded.reset()
    return _recorded


@pytest.fixture(scope="module")  # Playwright keeps an event loop in this thread, in which no other test can run its own
def chromium() -> Iterator[Any]:
    if BROWSER is None:
        pytest.skip("no Chromium here")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any, recorded: Recorded) -> Iterator[Any]:
    """A fresh page; an error in its scripts, or something that the content-security policy forbids, fails the test."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    shown = context.new_page()
    faults: list[str] = []
    shown.on("pageerror", lambda error: faults.append(str(error)))
    # a refused request is told in the console, too, and is what some tests are about
    shown.on("console", lambda m: faults.append(m.text) if m.type == "error" and "status of 4" not in m.text else None)
    shown.set_default_timeout(15_000)
    yield shown
    context.close()
    assert faults == []


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core, from npm's registry."""
    if shutil.which("npm") is None:
        pytest.skip("no npm here, which brings axe-core")
    folder = tmp_path_factory.mktemp("axe")
    got = subprocess.run(
        ["npm", "pack", f"axe-core@{AXE}", "--silent"], cwd=folder, capture_output=True, text=True, timeout=120
    )
    if got.returncode:
        pytest.skip("the network: npm can't bring axe-core")
    with tarfile.open(folder / Path(got.stdout.strip()).name) as archive:
        source = archive.extractfile("package/axe.min.js")
        assert source is not None
        return source.read().decode()
