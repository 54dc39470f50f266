"""vLLM over several processes: tensor and pipeline parallel, and a backend that changes classes where it runs."""

import contextlib
import json
import os
import signal
import subprocess
import sys

import pytest

from engines.serving import serving_folder, write
from engines.vllm_runs import NEEDS_VLLM, assert_same, embedded, greedy_requests, prepare
from reflective.engines.vllm.engine import VLLMEngine

pytestmark = [pytest.mark.long, NEEDS_VLLM]


@pytest.fixture(scope="module", autouse=True)
def prepared():
    prepare()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return serving_folder(tmp_path_factory.mktemp("parallel") / "tiny", "llama")


@pytest.mark.parametrize("how", ["tensor_parallel_size", "pipeline_parallel_size"])
def test_two_ranks_score_as_one(folder, how, monkeypatch):
    """Three layers in two stages: the head's layer begins the last stage, so the feature crosses the boundary.

    vLLM 0.32 runs stages on the CPU compiled only: eager ones find no buffer for what the stage before sends.
    """
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    engine = VLLMEngine.from_source(
        folder,
        dtype="float32",
        enforce_eager=how != "pipeline_parallel_size",
        max_rows=8,
        max_model_len=256,
        **{how: 2},
    )
    try:
        requests = greedy_requests(engine, 3)
        assert_same(write(engine, requests), write(embedded(folder), requests))
    finally:
        engine.close()


# the command line, which in the midst of a search does what a terminal does: Ctrl-C for all of its processes
SEARCHING = """
import os, signal, sys
from reflective.cli import main
from reflective.engines.vllm.engine import VLLMEngine

step, load, steps = VLLMEngine.step, VLLMEngine.from_source, []

def watched(engine):
    steps.append(1)
    if len(steps) == 40:
        os.killpg(0, signal.SIGINT)
    return step(engine)

VLLMEngine.step = watched
VLLMEngine.from_source = classmethod(lambda cls, *given, **options: load(*given, enforce_eager=True, **options))
sys.exit(main(sys.argv[1:]))
"""


def test_ctrl_c_on_a_terminal_ends_a_search_and_keeps_what_is_there(folder):
    """A terminal sends it to every process of the command, vLLM's included."""
    argv = ["solve", "What is 3 * 4?", "--engine", "vllm", "--dtype", "float32", "--model", str(folder), "--json"]
    argv += ["--effort", "32", "--temperature", "2", "--max-tokens", "470"]
    process = subprocess.Popen(
        [sys.executable, "-c", SEARCHING, *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"},
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=240)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    found = json.loads(out)
    assert process.returncode == 130 and found["interrupted"] and "Traceback" not in err
    stopped = [t for t in found["trajectories"] if t["finish_reason"] == "cancelled"]
    assert stopped and all(t["tokens"] >= 20 and t["steps"] for t in stopped)


def test_classes_without_the_hook_are_scored_by_the_transformers_backend(tmp_path, monkeypatch):
    """In a process of its own: the backend changes classes of `transformers` where it runs."""
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    path = serving_folder(tmp_path / "gemma", "gemma")
    engine = VLLMEngine.from_source(
        path, dtype="float32", enforce_eager=True, max_rows=8, max_model_len=256, model_impl="transformers"
    )
    try:
        assert engine.verified
        requests = greedy_requests(engine, 3)
        assert_same(write(engine, requests), write(embedded(path), requests))
    finally:
        engine.close()
