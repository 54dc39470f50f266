"""The remote engine against servers that work, and against those that don't."""

import logging
import socket
import threading
import time
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest

from engines.serving import fake_server, serving_folder, write
from reflective.api import Reflective
from reflective.engines import serve_engine
from reflective.engines.base import Finished, Request, Sampling, StepScored, Text
from reflective.engines.remote.engine import OpenAIEngine, tokens_together
from reflective.engines.torch import TorchEngine
from reflective.errors import EngineError, InputError
from reflective.models import load_checkpoint

GREEDY = Sampling(temperature=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return serving_folder(tmp_path_factory.mktemp("served") / "tiny", logprob_features=True)


@pytest.fixture(scope="module")
def server(folder):
    with fake_server(folder) as made:
        yield made


def connect(folder, *servers, **options):
    return OpenAIEngine.from_source(folder, [server.url for server in servers], **options)


def requests(engine, count=4, sampling=GREEDY, tokens=24):
    prompts = [engine.encode_prompt(f"What is {i}?") for i in range(count)]
    return [Request(prompt, sampling, seed=7 + i, max_tokens=tokens, index=i) for i, prompt in enumerate(prompts)]


def same(ours, theirs, tolerance=1e-3):
    assert [t.token_ids for t in ours] == [t.token_ids for t in theirs]
    assert [t.finish_reason for t in ours] == [t.finish_reason for t in theirs]
    assert [[s.position for s in t.steps] for t in ours] == [[s.position for s in t.steps] for t in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert [s.logit for s in a.steps] == pytest.approx([s.logit for s in b.steps], abs=tolerance)


@pytest.fixture(scope="module")
def expected(folder, server):
    """Greedy trajectories of the embedded engine."""
    engine = TorchEngine.from_checkpoint(load_checkpoint(folder, dtype="float32", device="cpu"))
    return write(engine, requests(engine))


def test_tokens_and_scores_are_those_of_the_embedded_engine(folder, server, expected):
    assert sum(len(t.steps) for t in expected) > 8
    engine = connect(folder, server)
    assert engine.scored
    got = write(engine, requests(engine))
    same(got, expected)
    assert [t.score for t in got] == pytest.approx([t.score for t in expected], abs=1e-4)
    assert [t.thinking for t in got] == [t.thinking for t in expected]
    engine.close()


def test_steps_and_text_are_told_while_they_are_written(folder, server):
    engine = connect(folder, server, stream_interval=1)
    (request,) = requests(engine, 1)
    engine.submit(request)
    events = []
    while engine.busy:
        events += engine.step()
    (done,) = [e.trajectory for e in events if isinstance(e, Finished)]
    assert [e.score for e in events if isinstance(e, StepScored)] == [s.score for s in done.steps]
    assert "".join(e.delta for e in events if isinstance(e, Text)) == done.thinking
    engine.close()


def test_a_trajectory_depends_on_its_seed_and_not_on_its_company(folder, server):
    engine = connect(folder, server)
    warm = Sampling(temperature=1.0)
    alone = [write(engine, [request])[0] for request in requests(engine, 3, warm)]
    assert [t.token_ids for t in write(engine, requests(engine, 3, warm))] == [t.token_ids for t in alone]
    assert len({t.token_ids[:8] for t in alone}) == 3
    engine.close()


def test_a_continuation_goes_on_behind_its_parent_at_the_same_endpoint(folder, server, expected):
    with fake_server(folder) as other:
        engine = connect(folder, server, other)
        request = requests(engine, 1, tokens=10)[0]
        first = engine.submit(request)
        while engine.busy:
            engine.step()
        home = next(s for s in (server, other) if s.url == engine._pool.homes[first].url)
        before = len(home.requests)
        (whole,) = write(engine, [Request(request.prompt_ids, GREEDY, seed=7, max_tokens=14, parent=first)])
        same([whole], expected[:1])
        assert home.requests[before]["prompt"] == [*request.prompt_ids, *whole.token_ids[:10]]
        engine.close()


def test_a_fork_is_sent_as_prompt_and_prefix_from_a_finished_or_a_running_parent(folder, server, expected):
    engine = connect(folder, server, stream_interval=1)
    request = requests(engine, 1, tokens=10)[0]
    parent = engine.submit(request)
    while len(engine._running[parent].token_ids) < 5:
        engine.step()
    running = engine.fork(parent, 4, Request((), GREEDY, max_tokens=20, until=request.until))
    ends = {}
    while engine.busy:
        ends.update({e.id: e.trajectory for e in engine.step() if isinstance(e, Finished)})
    finished = engine.fork(parent, 10, Request((), GREEDY, max_tokens=14, until=request.until))
    while engine.busy:
        ends.update({e.id: e.trajectory for e in engine.step() if isinstance(e, Finished)})
    same([ends[running], ends[finished]], [expected[0], expected[0]])
    sent = [body["prompt"] for body in server.requests[-2:]]
    assert sent == [[*request.prompt_ids, *expected[0].token_ids[:at]] for at in (4, 10)]
    engine.close()


def test_a_pause_at_the_end_of_each_step_changes_nothing(folder, server, expected):
    engine = connect(folder, server)  # tokens come eight together, so what comes after the step is left
    request, id, ends = requests(engine, 1)[0], None, []
    while not ends or ends[-1].finish_reason == "step":
        written = ends[-1].tokens if ends else 0
        (end,) = write(engine, [replace(request, until="step", parent=id, max_tokens=24 - written)])
        ends.append(end)
        id = max(engine._finished)
    assert [t.tokens for t in ends[:-1]] == [step.position + 1 for step in expected[0].steps][: len(ends) - 1]
    same(ends[-1:], expected[:1])
    engine.close()


def test_load_is_spread_over_the_endpoints(folder, server):
    with fake_server(folder, pause_s=0.005) as a, fake_server(folder, pause_s=0.005) as b:
        engine = connect(folder, a, b)
        before = len(a.requests), len(b.requests)
        write(engine, requests(engine, 8))
        assert len(a.requests) - before[0] >= 2 and len(b.requests) - before[1] >= 2
        engine.close()


def test_chunks_grow_with_the_trajectories_in_flight_at_an_endpoint():
    assert [tokens_together(n, 1) for n in (1, 64, 128, 512)] == [8, 8, 16, 32]
    assert tokens_together(512, 4) == 16


# ---- servers that fail in the middle: no trajectory is lost, and greedy ones are as if nothing had been


@pytest.mark.parametrize("fault", ["cut", "cut at once", "garbage", "half a line", "busy", "overloaded", "abort"])
def test_a_broken_answer_is_taken_up_again(folder, expected, fault):
    with fake_server(folder, fault=lambda n: fault if n in (2, 3, 4) else "") as flaky:
        engine = connect(folder, flaky, stream_interval=4)
        same(write(engine, requests(engine)), expected)
        assert len(flaky.requests) >= 2 + 4 + 3
        engine.close()


def test_what_was_written_before_the_break_is_not_written_again(folder, expected):
    with fake_server(folder, fault=lambda n: "cut" if n == 2 else "") as flaky:
        engine = connect(folder, flaky, stream_interval=4)
        request = requests(engine, 1)[0]
        same(write(engine, [request]), expected[:1])
        first, second = flaky.requests[2:]
        assert second["prompt"] == [*request.prompt_ids, *expected[0].token_ids[:5]]  # chunks of 1 and of 4
        assert (first["max_tokens"], second["max_tokens"]) == (24, 19)
        engine.close()


def test_a_form_is_left_to_the_server_and_a_broken_answer_in_it_is_an_error(folder):
    form = SimpleNamespace(schema={"type": "object"})
    with fake_server(folder) as server:
        engine = connect(folder, server, stream_interval=1)
        (request,) = requests(engine, 1)
        write(engine, [replace(request, constraint=form)])
        assert server.requests[-1]["structured_outputs"] == {"json": form.schema}
        server.fault = lambda _: "cut"
        with pytest.raises(EngineError, match="within an answer of a given form"):
            write(engine, [replace(request, constraint=form)])
        assert not engine.busy
        server.fault = lambda _: ""
        write(engine, [request])
        assert "structured_outputs" not in server.requests[-1]
        engine.close()


def test_an_endpoint_that_dies_loses_no_trajectory(folder, server, expected):
    with fake_server(folder, pause_s=0.02) as mortal:
        engine = connect(folder, mortal, server, stream_interval=2)
        ids = [engine.submit(request) for request in requests(engine)]
        mortal.fault = lambda _: "cut at once"
        done = {}
        while engine.busy:
            for event in engine.step():
                if isinstance(event, Finished):
                    done[event.id] = event.trajectory
        same([done[i] for i in ids], expected)
        engine.close()


def test_a_silent_endpoint_counts_as_lost(folder, server, expected):
    with fake_server(folder, fault=lambda n: "silent" if n >= 2 else "") as silent:
        engine = connect(folder, silent, server, silence_s=3.0)
        same(write(engine, requests(engine)), expected)
        engine.close()


def test_endpoints_that_never_recover_are_given_up_with_a_reason(folder, monkeypatch):
    monkeypatch.setattr("reflective.engines.remote.endpoints.FIRST_WAIT_S", 0.01)
    with fake_server(folder, fault=lambda n: "overloaded" if n >= 2 else "") as sick:
        engine = connect(folder, sick, tries=3)
        with pytest.raises(EngineError, match=r"no answer from the endpoint after 3 tries; http://127.*HTTP 503"):
            write(engine, requests(engine, 1))
        engine.close()


def test_waiting_doubles(folder, monkeypatch):
    monkeypatch.setattr("reflective.engines.remote.endpoints.FIRST_WAIT_S", 0.1)
    times = []

    def fault(n):
        times.append(time.monotonic())
        return "overloaded" if 2 <= n < 5 else ""

    with fake_server(folder, fault=fault) as busy:
        engine = connect(folder, busy)
        write(engine, requests(engine, 1))
        waits = [b - a for a, b in pairwise(times[2:])]
        assert waits[0] >= 0.1 and waits[1] >= 0.2 and waits[2] >= 0.4
        engine.close()


def test_a_cancelled_trajectory_ends_and_its_connection_too(folder):
    with fake_server(folder, pause_s=0.05) as slow:
        engine = connect(folder, slow, stream_interval=1)
        id = engine.submit(requests(engine, 1, tokens=400)[0])
        events = []
        while not any(isinstance(e, StepScored) for e in events):
            events += engine.step()
        engine.cancel(id)
        events = engine.step()
        (end,) = [e for e in events if isinstance(e, Finished)]
        assert end.trajectory.finish_reason == "cancelled" and 0 < end.trajectory.tokens < 400
        assert not engine.busy
        engine.close()


# ---- the handshake


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_nobody_there(folder):
    with pytest.raises(EngineError, match=r"http://127\.0\.0\.1:\d+/v1 can't be reached .*vllm serve"):
        OpenAIEngine.from_source(folder, [f"http://127.0.0.1:{free_port()}"])


def test_another_api(folder, server):
    with pytest.raises(EngineError, match="does not speak the completions API"):
        OpenAIEngine.from_source(folder, [server.url.replace("/v1", "/elsewhere")])


def test_a_server_without_token_ids_is_another_api(folder):
    with fake_server(folder, fault=lambda _: "no ids") as strange, pytest.raises(EngineError, match="no token ids"):
        connect(folder, strange)


def test_a_server_that_writes_on_and_on_is_left(folder):
    told = "writes more tokens than it was asked for"
    with fake_server(folder, fault=lambda _: "too many") as eager, pytest.raises(EngineError, match=told):
        connect(folder, eager)


def test_a_trajectory_ends_at_its_limit_whatever_is_sent(folder, expected):
    with fake_server(folder, fault=lambda n: "too many" if n >= 2 else "") as eager:
        engine = connect(folder, eager)
        same(write(engine, requests(engine)), expected)
        engine.close()


def test_another_model(folder, server, tmp_path):
    other = serving_folder(tmp_path / "other", seed=1, logprob_features=True)
    with pytest.raises(EngineError, match="differ from those of the checkpoint.*another model or head"):
        connect(other, server)


def test_another_tokenizer(folder, server):
    with pytest.raises(EngineError, match="another model or tokenizer"):
        connect("nano", server)


def test_two_endpoints_of_different_models(folder, server, tmp_path, monkeypatch):
    monkeypatch.setattr("reflective.engines.vllm.handshake.LARGEST_COMPARED", 0)  # as if the weights were too large
    other = serving_folder(tmp_path / "other", seed=1, logprob_features=True)
    with fake_server(other) as wrong, pytest.raises(EngineError, match=f"differ from those of {server.url}"):
        connect(folder, server, wrong)


def test_missing_scores_are_an_error_unless_allowed(folder):
    with fake_server(folder, fault=lambda _: "no scores") as plain:
        with pytest.raises(EngineError, match="step scores can't arrive.*majority or single"):
            connect(folder, plain)
        model = Reflective.from_pretrained(str(folder), engine=plain.url, require_head=False)
        assert not model.engine.scored and "votes and single samples only" in model.engine.remark
        with pytest.raises(EngineError, match="'best_of_n' selects by step scores"):
            model.solve("What is 1?", effort=2)
        solution = model.solve("What is 1?", effort=2, strategy="majority", max_tokens=16)
        assert all(t.score is None and t.steps == () for t in solution.trajectories)
        model.close()


def test_scores_that_stop_arriving_are_an_error_and_no_unscored_step(folder):
    with fake_server(folder, fault=lambda n: "no scores" if n >= 2 else "") as forgetful:
        engine = connect(folder, forgetful)
        with pytest.raises(EngineError, match="no step scores"):
            write(engine, requests(engine, 1))
        engine.close()


def test_the_key_comes_from_the_environment_and_is_never_told(folder, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    with fake_server(folder, key="s3cret") as locked:
        with pytest.raises(EngineError, match="refuses the API key .*REFLECTIVE_API_KEY") as refused:
            connect(folder, locked)
        monkeypatch.setenv("REFLECTIVE_API_KEY", "s3cret")
        engine = connect(folder, locked)
        write(engine, requests(engine, 1))
        engine.close()
        assert locked.keys[-1] == "Bearer s3cret"
    assert "s3cret" not in str(refused.value) + caplog.text


def test_addresses_must_be_different_ones(folder, server):
    with pytest.raises(InputError, match="different addresses"):
        connect(folder, server, server)
    with pytest.raises(InputError, match="no endpoint"):
        OpenAIEngine.from_source(folder, ["localhost"])
    with pytest.raises(InputError, match="addresses such as http://localhost:8000/v1"):
        serve_engine("steam", folder)


def test_a_search_over_two_endpoints_ends_in_a_solution(folder, server):
    with fake_server(folder) as other:
        addresses = f"{server.url},{other.url}"
        with Reflective.from_pretrained(str(folder), engine=addresses) as model:
            solution = model.solve("What is 2 + 3?", effort=4, max_tokens=24)
        assert len(solution.trajectories) == 4
        assert all(t.tokens and t.steps and t.score is not None for t in solution.trajectories)


@pytest.mark.parametrize("strategy", ["beam", "particles", "mcts"])
def test_a_search_over_steps_is_the_same_whatever_the_speed(folder, server, strategy):
    found = []
    for interval in (1, 8):
        model = Reflective(connect(folder, server, stream_interval=interval))
        solution = model.solve("What is 2 + 3?", effort=4, max_tokens=24, temperature=1.0, strategy=strategy)
        found.append([(t.token_ids, t.parent, t.at, t.finish_reason) for t in solution.trajectories])
        model.close()
    assert found[0] == found[1] and any(parent is not None for _, parent, _, _ in found[0])


def test_closing_ends_the_thread(folder, server):
    engine = connect(folder, server)
    engine.submit(requests(engine, 1)[0])
    thread = engine._pool._thread
    engine.close()
    engine.close()  # twice is fine
    assert thread not in threading.enumerate()
