"""Feedback: kept beside what was answered, for its time, deleted by id; and off where nobody switched it on."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest

from reflective import InputError, Reflective
from reflective.serve import feedback
from reflective.serve.faults import Fault
from reflective.serve.feedback import Feedback, FeedbackStore
from reflective.serve.service import ServeSettings
from serve.conftest import MESSAGES, serving

ASKED = {"model": "nano", "messages": MESSAGES, "reasoning_effort": "none", "max_tokens": 8}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("feedback") / "feedback.sqlite"


@pytest.fixture(scope="module")
def client(place):
    settings = ServeSettings(feedback=str(place), retention_days=1)
    with Reflective.from_pretrained("nano") as model, serving(model, settings) as running:
        yield openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)


def test_a_verdict_is_stored_beside_the_answer_and_both_can_be_deleted(client):
    id = client.chat.completions.create(**ASKED).id
    for body in ({"verdict": "right", "comment": "yes"}, {"score": 0.25}):
        client.post("/feedback", body={"id": id, **body}, cast_to=object)
    got = client.get(f"/feedback/{id}", cast_to=object)
    assert got["messages"] == MESSAGES
    assert [(said["score"], said["comment"]) for said in got["feedback"]] == [(1.0, "yes"), (0.25, None)]
    client.delete(f"/feedback/{id}", cast_to=object)
    for call in (client.get, client.delete):
        with pytest.raises(openai.NotFoundError):
            call(f"/feedback/{id}", cast_to=object)


def test_a_streamed_answer_and_a_response_are_kept_too(client):
    ids = [[chunk.id for chunk in client.chat.completions.create(**ASKED, stream=True)][-1]]
    ids.append(client.responses.create(model="nano", input="x", max_output_tokens=8, reasoning={"effort": "none"}).id)
    for id in ids:
        assert client.get(f"/feedback/{id}", cast_to=object)["feedback"] == []


@pytest.mark.parametrize(
    ("body", "score"),
    [
        ({"id": "a", "verdict": "wrong"}, 0.0),
        ({"traceId": "a", "name": "user", "value": 0.5, "comment": "so so"}, 0.5),
        ({"traceId": "a", "name": "user", "value": True, "dataType": "BOOLEAN"}, 1.0),
        ({"type": "rating", "data": {"rating": -1, "reason": "off"}, "meta": {"message_id": "a"}}, 0.0),
        ({"type": "rating", "data": {"rating": "1"}, "meta": {"message_id": "a", "chat_id": "b"}}, 1.0),
    ],
)
def test_the_shapes_of_others_are_taken(body, score):
    read = Feedback.model_validate(body)
    assert (read.id, read.value) == ("a", score)


@pytest.mark.parametrize(
    "body",
    [
        *({}, [], "x", None, {"id": "a"}, {"id": "", "score": 1}, {"id": "a", "score": 2}),
        *({"id": "a", "verdict": "maybe"}, {"traceId": "a", "value": "good"}),
        {"type": "rating", "data": {"rating": [1]}, "meta": 5},
    ],
)
def test_what_is_no_verdict_is_refused(client, body):
    with pytest.raises(openai.BadRequestError):
        client.post("/feedback", body=body, cast_to=object)


def test_an_answer_that_nobody_gave_is_not_found(client):
    with pytest.raises(openai.NotFoundError):
        client.post("/feedback", body={"id": "chatcmpl-0'; DROP TABLE answers", "verdict": "right"}, cast_to=object)


def test_what_is_too_old_is_gone(client, place):
    id = client.chat.completions.create(**ASKED).id
    client.post("/feedback", body={"id": id, "verdict": "right"}, cast_to=object)
    with sqlite3.connect(place) as base:
        base.execute("UPDATE answers SET at = ? WHERE id = ?", (time.time() - 86_401, id))
    with pytest.raises(openai.NotFoundError):
        client.get(f"/feedback/{id}", cast_to=object)
    with sqlite3.connect(place) as base:
        assert base.execute("SELECT count(*) FROM feedback WHERE answer = ?", (id,)).fetchone() == (0,)


def test_another_keys_answer_is_nobodys_business(tmp_path):
    store = FeedbackStore(str(tmp_path / "store.sqlite"), 1)
    store.keep("a", "key:alice", "nano", [], "x", "", {})

    async def run():
        await store.read("a", "key:alice")
        with pytest.raises(Exception, match="no answer"):
            await store.delete("a", "key:bob")

    asyncio.run(run())
    store.close()


def test_a_slow_store_is_waited_for_within_limits_and_costs_no_answer(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(feedback, "MAX_WAITING", feedback.MAX_COMMENT + 1000)
    monkeypatch.setattr(feedback, "STORE_S", 0.05)
    store, gate = FeedbackStore(str(tmp_path / "store.sqlite"), 1), threading.Event()
    store._thread.submit(gate.wait)
    store.keep("a", "key:alice", "nano", [], "x" * 500, "", {})
    store.keep("b", "key:alice", "nano", [], "x" * feedback.MAX_WAITING, "", {})
    told = caplog.text

    async def refused(id):
        with pytest.raises(Fault) as fault:
            await store.read(id, "key:alice")
        return fault.value.status, str(fault.value)

    async def run():
        assert await refused("a") == (503, "The feedback store failed. Try again.")  # not within its time
        store.keep("c", "key:alice", "nano", [], "x" * 900, "", {})
        assert await refused("a") == (503, "The feedback store is too slow. Try again later.")
        gate.set()
        while store._waiting:
            await asyncio.sleep(0.01)
        await store.read("a", "key:alice")
        assert (await refused("b"))[0] == 404

    try:
        asyncio.run(run())
    finally:
        gate.set()
    store.close()
    assert "not kept" in told


def test_a_store_that_hangs_does_not_hold_up_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(feedback, "CLOSE_S", 0.05)
    store, gate = FeedbackStore(str(tmp_path / "store.sqlite"), 1), threading.Event()
    store._thread.submit(gate.wait)
    began = time.monotonic()
    store.close()
    taken = time.monotonic() - began
    gate.set()
    assert taken < 5


def test_it_is_off_unless_it_is_switched_on(nano_server, tmp_path):
    client = openai.OpenAI(base_url=f"{nano_server.url}/v1", api_key="none", max_retries=0)
    with pytest.raises(openai.NotFoundError, match="keeps no answers"):
        client.post("/feedback", body={"id": "a", "verdict": "right"}, cast_to=object)
    for place in (tmp_path / "no" / "folder.sqlite", tmp_path):
        with pytest.raises(InputError):
            FeedbackStore(str(place), 1)
    with pytest.raises(InputError):
        FeedbackStore(str(tmp_path / "x"), 0)


@contextmanager
def postgresql():
    """The URL of a server that runs for a while, as a user that may run one."""
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)
    if programs is None:
        pytest.skip("no PostgreSQL here: apt-get install postgresql")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    become = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    with tempfile.TemporaryDirectory(dir="/tmp") as home:  # pytest's own folders are nobody else's
        if become:
            shutil.chown(home, "postgres")

        def run(name, *options):
            subprocess.run([*become, programs / name, "-D", f"{home}/data", *options], check=True, timeout=120)

        run("initdb", "-A", "trust", "-U", "postgres", "--no-sync")
        run("pg_ctl", "-w", "-l", f"{home}/log", "-o", f"-p {port} -k {home} -h 127.0.0.1", "start")
        try:
            yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-m", "immediate", "stop")


def keeps_what_it_should(place):
    """Everything that a store promises, in one life of it."""
    store = FeedbackStore(place, 1)

    async def run():
        store.keep("a", "key:alice", "nano", [{"role": "user", "content": "x\0%s?"}], "y\0", "", {"score": 0.5})
        store.keep("old", "key:alice", "nano", [], "x", "", {})
        await store.add(Feedback(id="a", verdict="right", comment="so\0so"), "key:alice")
        got = await store.read("a", "key:alice")
        assert got["messages"][0]["content"] == "x\0%s?" and got["reflective"] == {"score": 0.5}
        assert [(one["score"], one["comment"].replace("\0", "")) for one in got["feedback"]] == [(1.0, "soso")]
        for lost in (store.read("a", "key:bob"), store.delete("a", "key:bob"), store.read("\0", "key:alice")):
            with pytest.raises(Fault) as fault:
                await lost
            assert fault.value.status == 404
        await store._run(lambda: store._write("UPDATE answers SET at = ? WHERE id = ?", (time.time() - 86_401, "old")))
        with pytest.raises(Fault, match="no answer"):
            await store.read("old", "key:alice")
        if place.startswith("postgresql"):  # the server drops the connection: an error, and then it is there again
            with pytest.raises(Fault) as fault:
                await store._run(lambda: store._read("SELECT pg_terminate_backend(pg_backend_pid())", ()))
            assert (fault.value.status, fault.value.code) == (503, "feedback_failed")
        await store.delete("a", "key:alice")
        assert await store._run(lambda: store._read("SELECT * FROM feedback", ())) == []

    asyncio.run(run())
    store.close()


def test_sqlite_keeps_what_it_should(tmp_path):
    keeps_what_it_should(str(tmp_path / "store.sqlite"))


@pytest.mark.long
def test_postgresql_keeps_what_it_should(tmp_path, monkeypatch):
    command = [sys.executable, "-m", "pip", "install", "-q", "--target", tmp_path, "psycopg[binary]"]
    if subprocess.run(command, check=False, timeout=300).returncode:
        pytest.skip("the network: pip can't bring psycopg")
    monkeypatch.syspath_prepend(tmp_path)
    with postgresql() as place:
        keeps_what_it_should(place)
