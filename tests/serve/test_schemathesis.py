"""Schemathesis reads the server's own OpenAPI description and sends what it makes of it, for ten minutes: no status of
500 or more, nothing that hangs, and nothing left behind."""

from __future__ import annotations

import subprocess
import venv

import pytest

from reflective import Reflective
from reflective.serve.service import ServeSettings
from serve.conftest import serving

OPTIONS = ["--checks", "not_a_server_error", "--max-time", "600", "--request-timeout", "60", "--continue-on-failure"]


@pytest.mark.long(minutes=10)
@pytest.mark.timeout(2400)
def test_ten_minutes_of_requests_made_from_its_own_description(tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    programs = tmp_path / "venv" / "bin"
    if subprocess.run([programs / "pip", "install", "-q", "schemathesis"], check=False, timeout=600).returncode:
        pytest.skip("the network: pip can't bring schemathesis")
    settings = ServeSettings(effort=2, max_effort=4, feedback=str(tmp_path / "kept.sqlite"))
    with Reflective.from_pretrained("nano") as model, serving(model, settings) as running:
        command = [programs / "st", "run", f"{running.url}/openapi.json", *OPTIONS]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
        assert done.returncode == 0, done.stdout[-5000:]
        assert running.idle(2.0)
