"""The examples run against the real server: each is what a real client sends and what it makes of the response.

Packages that development does not need are brought from their registries into a folder that is removed again; those
tests are long, and skipped where the registry can't be reached.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ANSWER = "\\boxed{140}"
PACKAGES = {
    "langchain_chat.py": ["langchain-openai"],
    "litellm_chat.py": ["litellm"],
    "llm.sh": ["llm"],
    "inspect_task.py": ["inspect-ai", "openai"],
    "lm_eval.sh": ["lm-eval[api]", "transformers", "--extra-index-url", "https://download.pytorch.org/whl/cpu"],
}


def run(server, command, timeout=300, **environment):
    """What an example prints."""
    local = {"REFLECTIVE_URL": server.url, "REFLECTIVE_MODEL": "nano", "NO_PROXY": "127.0.0.1"}
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**kept, **local, **environment},
        cwd=EXAMPLES.parent,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_every_example_is_run():
    ours = {"openai_chat.py", "openai_async.py", "openai_responses.py", "open_webui.py", "curl.sh", "openai_node.mjs"}
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} == {*ours, *PACKAGES}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["openai_chat.py", "openai_async.py", "openai_responses.py"])
def test_the_official_python_package(nano_server, name):
    pytest.importorskip("openai")
    printed = run(nano_server, [sys.executable, str(EXAMPLES / name)])
    assert printed.count(ANSWER) == (1 if name == "openai_async.py" else 2)


@pytest.mark.slow
def test_what_open_webui_sends(nano_server):
    printed = run(nano_server, [sys.executable, str(EXAMPLES / "open_webui.py")])
    assert "title: " in printed and "\\boxed{" in printed and "tokens: " in printed


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_curl(nano_server):
    printed = run(nano_server, ["bash", str(EXAMPLES / "curl.sh")])
    assert '"type":"step"' in printed and "data: [DONE]" in printed and '"object":"score"' in printed


@pytest.mark.long
@pytest.mark.skipif(shutil.which("npm") is None, reason="no npm here")
def test_the_official_package_for_node(nano_server, tmp_path):
    shutil.copy(EXAMPLES / "openai_node.mjs", tmp_path)
    brought = subprocess.run(["npm", "install", "--silent", "openai"], cwd=tmp_path, check=False, timeout=300)
    if brought.returncode:
        pytest.skip("the network: npm can't bring openai")
    assert run(nano_server, ["node", str(tmp_path / "openai_node.mjs")]).count(ANSWER) == 2


@pytest.mark.long
@pytest.mark.parametrize("name", PACKAGES)
def test_other_clients(nano_server, tmp_path, name):
    venv.create(tmp_path / "venv", with_pip=True)
    programs = tmp_path / "venv" / "bin"
    brought = subprocess.run([programs / "pip", "install", "-q", *PACKAGES[name]], check=False, timeout=1200)
    if brought.returncode:
        pytest.skip(f"the network: pip can't bring {name}'s packages")
    environment = {"LLM": str(programs / "llm"), "LM_EVAL": str(programs / "lm_eval"), "HOME": str(tmp_path)}
    if name == "inspect_task.py":
        environment |= {"REFLECTIVE_BASE_URL": f"{nano_server.url}/v1", "REFLECTIVE_API_KEY": "none"}
        command = [str(programs / "inspect"), "eval", f"examples/{name}", "--model", "openai-api/reflective/nano"]
        printed = run(nano_server, [*command, "--log-dir", str(tmp_path), "--display", "plain"], **environment)
        assert "accuracy" in printed and "1.0" in printed
        return
    command = ["bash" if name.endswith(".sh") else str(programs / "python"), str(EXAMPLES / name)]
    printed = run(nano_server, command, timeout=900, **environment)
    assert ("exact_match" in printed and "1" in printed) if name == "lm_eval.sh" else ANSWER in printed
