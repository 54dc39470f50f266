"""Under load: turns between clients, a bounded queue, clients that go away, time limits, slow readers, the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time

import openai
import pytest

from reflective import EngineError, Reflective, Scripted
from reflective.serve import process
from reflective.serve.admission import Admission
from reflective.serve.faults import Fault
from reflective.serve.service import ServeSettings
from reflective.serve.session import Session
from serve.conftest import MESSAGES, Chatting, serving


def asked(**more):
    return {"model": "nano", "messages": MESSAGES, "reasoning_effort": "low", "seed": 5, **more}


@pytest.fixture(scope="module")
def narrow():
    """Four rows, a queue of three."""
    with Reflective.from_pretrained("nano", max_rows=4) as model, serving(model, ServeSettings(queue=3)) as running:
        yield running


def client_of(running, **options):
    return openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0, **options)


def test_clients_come_in_by_turns():
    async def order():
        admission = Admission(rows=2, waiting=10)
        first = admission.ask("a", 2)
        places = [admission.ask(name, 2) for name in "aaabbc"]
        assert admission.waiting == 6 and first.came.done()
        came = []
        admission.leave(first)
        for _ in range(len(places)):
            (place,) = [p for p in places if p.came.done() and p not in came]
            came.append(place)
            admission.leave(place)
        assert admission.rows == admission.waiting == admission.inside == 0
        return "".join(place.client for place in came)

    assert asyncio.run(order()) == "abcaba"


def test_who_waits_no_longer_is_forgotten_and_a_full_queue_says_when_to_come_again():
    async def run():
        admission = Admission(rows=1, waiting=2)
        first, second, third = (admission.ask(name, 1) for name in "abb")
        with pytest.raises(Fault) as full:
            admission.ask("c", 1)
        assert full.value.status == 429 and int(full.value.headers["Retry-After"]) >= 1
        admission.leave(second)
        assert admission.waiting == 1
        admission.leave(first)
        assert third.came.done() and admission.rows == 1
        admission.leave(third)
        assert admission.rows == 0

    asyncio.run(run())


def test_a_full_queue_is_429_and_what_waits_is_answered(narrow):
    async def run():
        async with client_of(narrow) as client:
            jobs = [client.chat.completions.create(**asked(reasoning_effort="medium")) for _ in range(8)]
            return await asyncio.gather(*jobs, return_exceptions=True)

    got = asyncio.run(run())
    refused = [g for g in got if isinstance(g, openai.RateLimitError)]
    assert len(refused) == 4  # one is inside with its 8 trajectories, three wait
    assert all(int(g.response.headers["retry-after"]) >= 1 for g in refused)
    assert len([g for g in got if not isinstance(g, Exception)]) == 4
    assert narrow.idle()


def test_clients_that_go_away_leave_nothing_behind(narrow):
    async def run():
        async with client_of(narrow) as client:
            stream = await client.chat.completions.create(**asked(reasoning_effort="high"), stream=True)
            await anext(aiter(stream))
            waiting = asyncio.create_task(client.chat.completions.create(**asked()))
            whole = asyncio.create_task(client.chat.completions.create(**asked(reasoning_effort="high")))
            await asyncio.sleep(0.3)
            assert narrow.service.admission.rows
            await stream.close()
            for task in (waiting, whole):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, openai.APIConnectionError):
                    await task

    asyncio.run(run())
    assert narrow.idle(1.0)
    assert not narrow.service.engine.busy


def test_half_of_the_clients_cut_at_random_leave_no_row_place_or_task_and_the_rest_is_answered(narrow):
    draw = random.Random(0)

    async def one(client, index):
        stream = await client.chat.completions.create(**asked(), stream=True)
        text, left = "", draw.randrange(12) if index % 2 else None
        async for chunk in stream:
            text += "".join(choice.delta.content or "" for choice in chunk.choices)
            if left is not None and (left := left - 1) < 0:
                await stream.close()
                return None
        return text

    async def run():
        async with client_of(narrow) as client:
            return await asyncio.gather(*(one(client, i) for i in range(24)))

    service = narrow.service
    object.__setattr__(service.admission, "_limit", 100)
    try:
        before = len(asyncio.all_tasks(service._loop))
        got = asyncio.run(run())
    finally:
        object.__setattr__(service.admission, "_limit", 3)
    assert all("140" in text for text in got[::2])
    assert narrow.idle(1.0) and not service.engine.busy
    until = time.monotonic() + 2
    while len(asyncio.all_tasks(service._loop)) > before and time.monotonic() < until:
        time.sleep(0.01)
    assert len(asyncio.all_tasks(service._loop)) <= before


def test_a_request_has_its_time(narrow):
    settings = narrow.service.settings
    object.__setattr__(settings, "time_limit_s", 0.05)
    try:
        client = openai.OpenAI(base_url=f"{narrow.url}/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.InternalServerError) as error:
            client.chat.completions.create(**asked(reasoning_effort="high"))
        assert error.value.status_code == 504
        with pytest.raises(openai.APIError, match="within"):
            list(client.chat.completions.create(**asked(reasoning_effort="high"), stream=True))
    finally:
        object.__setattr__(settings, "time_limit_s", 600.0)
    assert narrow.idle()


def test_a_slow_reader_loses_progress_and_not_its_answer(narrow, monkeypatch):
    monkeypatch.setattr("reflective.serve.session.MAX_EVENTS", 4)
    notify = Session._notify
    monkeypatch.setattr(Session, "_notify", lambda self: notify(self) if self.attempt.done else None)
    client = openai.OpenAI(base_url=f"{narrow.url}/v1", api_key="none", max_retries=0)
    body = asked(stream=True, reasoning_effort="medium", extra_body={"reflective": {"events": True}})
    chunks = list(client.chat.completions.create(**body))
    told = [chunk.reflective for chunk in chunks if hasattr(chunk, "reflective")]
    assert [event["events"] for event in told if event["type"] == "lost"] > [10]
    assert {event["trajectory"] for event in told if event["type"] == "finished"} == set(range(8))
    assert "140" in "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


def test_an_engine_that_fails_is_an_error_and_the_server_goes_on(narrow, monkeypatch):
    engine = narrow.service.engine
    real = type(engine).step

    def broken(self):
        raise EngineError("NaN in /secret/weights")

    client = openai.OpenAI(base_url=f"{narrow.url}/v1", api_key="none", max_retries=0)
    monkeypatch.setattr(type(engine), "step", broken)
    with pytest.raises(openai.InternalServerError) as error:
        client.chat.completions.create(**asked())
    assert error.value.status_code == 503 and "secret" not in str(error.value)
    with pytest.raises(openai.APIError, match="engine failed"):
        list(client.chat.completions.create(**asked(), stream=True))
    monkeypatch.setattr(type(engine), "step", real)
    assert client.chat.completions.create(**asked()).choices[0].message.content


def test_what_comes_while_the_server_stops_gets_an_error_object(monkeypatch):
    monkeypatch.setattr(process, "LATE_S", 5.0)
    with Reflective(Chatting([Scripted("A.")])) as model, serving(model) as running:
        running.server.should_exit = True
        until = time.monotonic() + 10
        while not running.service.stopping and time.monotonic() < until:
            time.sleep(0.01)
        client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.InternalServerError) as error:
            client.chat.completions.create(**asked(model="scripted"))
        assert (error.value.status_code, error.value.code) == (503, "stopping")
        monkeypatch.setattr(process, "LATE_S", 0.0)


@pytest.mark.slow
def test_a_signal_under_load_ends_every_request_cleanly(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = (tmp_path / "log").open("w+")
    started = subprocess.Popen(
        [sys.executable, "-m", "reflective", "serve", "--port", str(port)],
        stderr=log,
        env=os.environ | {"NO_PROXY": "*"},
    )
    try:
        until = time.monotonic() + 60
        while "serving" not in (tmp_path / "log").read_text() and time.monotonic() < until:
            time.sleep(0.1)

        async def run():
            client = openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
            jobs = [
                asyncio.create_task(client.chat.completions.create(**asked(reasoning_effort=effort)))
                for effort in ["high"] * 24 + ["low"] * 8
            ]
            await asyncio.sleep(2)
            began = time.monotonic()
            started.send_signal(signal.SIGTERM)
            got = await asyncio.gather(*jobs, return_exceptions=True)
            return got, began

        got, began = asyncio.run(run())
        assert started.wait(15) == 0
        assert time.monotonic() - began < 10
        for g in got:
            clean = isinstance(g, openai.InternalServerError) and g.status_code == 503
            assert clean or g.choices[0].message.content is not None, g
        assert "Traceback" not in (tmp_path / "log").read_text()
    finally:
        started.kill()
        started.wait()
