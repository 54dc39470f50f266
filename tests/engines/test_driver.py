"""One loop over an engine for several clients: each gets what it would get alone, and nobody is starved."""

import ast
import gc
import os
import signal
import threading
import weakref
from pathlib import Path

import pytest

from reflective import EngineError, InputError, Problem, Scripted, ScriptedEngine
from reflective.engines.base import Finished, Request, StepScored, Text
from reflective.engines.driver import Driver, Interrupts
from reflective.engines.ledger import row_share
from reflective.search import BestOfN, Majority, Settings, Solved, solve, solve_many, stream
from reflective.search.base import Choice, Strategy

SRC = Path(__file__).parents[2] / "src" / "reflective"


def script(problem, index, seed):
    steps = 1 + seed % 4
    logits = [(seed >> i) % 5 - 2.0 for i in range(steps)]
    return Scripted("hm so.\n\n" * steps + f"</think>\\boxed{{{seed % 5}}}", logits=logits)


LONG = Scripted("x", endless=True)


def outcome(solution):
    return solution.answer, solution.selected, solution.trajectories, solution.usage, solution.notes


def told(events):
    """The events of a stream with nothing in them that depends on the clock."""
    return [outcome(event.solution) if isinstance(event, Solved) else event for event in events]


def collect(client, ids):
    """The trajectories of these ids, and all events."""
    events, done = [], {}
    while not set(ids) <= set(done):
        new = client.events()
        events += new
        done.update({event.id: event.trajectory for event in new if isinstance(event, Finished)})
    return done, events


# ---- two of them


class Stopper(Strategy):
    """Cancels every trajectory at its second step: what is written depends on when a cancellation takes effect."""

    name = "stopper"

    def on_step(self, run, index, step, score):
        if step == 1:
            run.cancel(index)

    def choose(self, trajectories, problem):
        return Choice(None)


@pytest.mark.parametrize("strategy", [BestOfN(), Majority(), Stopper()], ids=lambda s: s.name)
@pytest.mark.parametrize("max_rows", [3, 64])
def test_two_streams_in_turns_get_what_each_gets_alone(strategy, max_rows):
    def make(engine, problem):
        return stream(engine, problem, 6, strategy=strategy, settings=Settings(seed=3))

    alone = [told(make(ScriptedEngine(script), problem)) for problem in ("first", "second")]
    engine = ScriptedEngine(script, max_rows=max_rows)
    streams = [make(engine, problem) for problem in ("first", "second")]
    together = [[], []]
    while any(streams):
        for i, events in enumerate(streams):
            if events is not None and (event := next(events, None)) is not None:
                together[i].append(event)
            else:
                streams[i] = None
    for ours, theirs in zip(together, alone, strict=True):
        assert told(ours)[-1] == theirs[-1]
        for id in range(6):
            assert [e for e in told(ours)[:-1] if getattr(e, "id", None) == id] == [
                e for e in theirs[:-1] if getattr(e, "id", None) == id
            ]
    assert not engine.busy


def in_threads(*works):
    """The results of functions that run at once, each in a thread of its own."""
    results, errors = [None] * len(works), []
    gate = threading.Barrier(len(works))

    def run(i, work):
        try:
            gate.wait()
            results[i] = work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i, work)) for i, work in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    if errors:
        raise errors[0]
    return results


@pytest.mark.parametrize("own_thread", [False, True], ids=["whoever waits drives", "a thread of its own"])
def test_streams_a_run_of_many_and_a_rollout_at_once_get_what_each_gets_alone(own_thread):
    problems = [Problem(f"problem number {i}", id=str(i)) for i in range(12)]

    def streamed(problem):
        return lambda engine: told(stream(engine, problem, 8, strategy=Stopper()))[-1]

    def many(engine):
        return {problem.id: outcome(solution) for problem, solution in solve_many(engine, problems, 4)}

    def rollout(engine):
        with Driver.of(engine).client() as client:
            prompt = engine.encode_prompt("what")
            ids = [client.submit(Request(prompt, seed=seed, index=seed, until="eos")) for seed in range(9)]
            done, events = collect(client, ids)
            return [done[id] for id in ids], [
                [e.score for e in events if isinstance(e, StepScored) and e.id == id] for id in ids
            ]

    works = [streamed("first"), streamed("second"), many, rollout]
    alone = [work(ScriptedEngine(script)) for work in works]
    engine = ScriptedEngine(script, max_rows=5)
    if own_thread:
        Driver.of(engine).start()
    for _ in range(5):
        assert in_threads(*(lambda work=work: work(engine) for work in works)) == alone
    Driver.of(engine).close()
    assert engine.closed


def test_a_decision_takes_effect_before_the_next_token_however_late_its_stream_is_read():
    alone = solve(ScriptedEngine([LONG, Scripted("a.\n\n" * 9)]), "slow", 2, strategy=Stopper())
    engine = ScriptedEngine([LONG, Scripted("a.\n\n" * 9)])
    slow = stream(engine, "slow", 2, strategy=Stopper(), settings=Settings(max_tokens=30))
    next(slow)
    solve(engine, "fast", 2, settings=Settings(max_tokens=30))
    (solved,) = [event for event in slow if isinstance(event, Solved)]
    assert solved.solution.trajectories[1].tokens == alone.trajectories[1].tokens == 4


def test_text_comes_in_order_to_the_client_that_asked():
    engine = ScriptedEngine([Scripted("one two three</think>"), Scripted("four five</think>")])
    driver = Driver.of(engine)
    first, second = driver.client(), driver.client()
    prompt = engine.encode_prompt("x")
    a, b = first.submit(Request(prompt, index=0)), second.submit(Request(prompt, index=1))
    assert a != b
    _, ours = collect(first, [a])
    _, theirs = collect(second, [b])
    assert "".join(e.delta for e in ours if isinstance(e, Text)) == "one two three</think>"
    assert "".join(e.delta for e in theirs if isinstance(e, Text)) == "four five</think>"


# ---- fairness


def test_a_client_with_two_requests_does_not_wait_for_a_thousand_of_another():
    engine = ScriptedEngine([Scripted("a b c d e f g h</think>")], max_rows=8)
    driver = Driver.of(engine)
    large, small = driver.client(), driver.client()
    crowd = [large.submit(Request(engine.encode_prompt("crowd"))) for _ in range(1000)]
    for _ in range(3):
        large.advance()
    few = [small.submit(Request(engine.encode_prompt("few"))) for _ in range(2)]
    before = engine.steps
    collect(small, few)
    assert engine.steps - before <= 3 * 9, "they enter with the next rows that become free"
    assert large.in_flight > 900
    large.close()
    assert not engine.busy and len(crowd) == 1000


def test_rows_are_shared_in_turns():
    engine = ScriptedEngine([Scripted("a b c</think>")], max_rows=6)
    driver = Driver.of(engine)
    begun = []
    submit = engine.submit
    engine.submit = lambda request: begun.append(request.prompt_ids) or submit(request)
    prompts = [engine.encode_prompt(text) for text in ("one", "two", "three")]
    clients = [driver.client() for _ in prompts]
    for client, prompt in zip(clients, prompts, strict=True):
        for _ in range(10):
            client.submit(Request(prompt))
    clients[0].advance()
    assert begun == prompts * 3, "six rows, and one more for each client that waits"


def test_cancelling_what_still_waits_ends_it_unwritten():
    engine = ScriptedEngine([LONG], max_rows=1)
    client = Driver.of(engine).client()
    ids = [client.submit(Request(engine.encode_prompt("x"), index=i, seed=7, max_tokens=4)) for i in range(5)]
    for id in ids[1:]:
        client.cancel(id)
    done, _ = collect(client, ids)
    assert [done[id].finish_reason for id in ids] == ["length"] + ["cancelled"] * 4
    assert [(done[id].tokens, done[id].index, done[id].seed) for id in ids[1:]] == [(0, i, 7) for i in range(1, 5)]
    assert engine.submitted == 1 and client.in_flight == 0


def test_what_a_waiting_continuation_begins_with_is_kept_until_it_has_begun():
    engine = ScriptedEngine([Scripted("so.\n\n</think>\\boxed{4}", logits=[2.0])], max_rows=1)
    driver = Driver.of(engine)
    client, other = driver.client(), driver.client()
    prompt = engine.encode_prompt("x")
    parent = client.submit(Request(prompt))
    collect(client, [parent])
    blocking = [other.submit(Request(prompt, until="eos")) for _ in range(3)]
    other.advance()
    child = client.submit(Request(prompt, parent=parent, until="eos"))
    client.cancel(parent)
    done, _ = collect(client, [child])
    assert done[child].answer_text == "\\boxed{4}"
    with pytest.raises(InputError, match="can't be continued"):
        client.submit(Request(prompt, parent=parent, until="eos"))
    with pytest.raises(InputError, match="can't be continued"):
        client.submit(Request(prompt, parent=blocking[0], until="eos"))


# ---- failure, Ctrl-C, the end


def test_a_failure_of_the_engine_reaches_everybody_who_has_something_in_flight_and_nobody_else():
    def fail(step):
        if step == 2:
            raise EngineError("NaN")

    engine = ScriptedEngine([LONG], on_step=fail)
    driver = Driver.of(engine)
    clients = [driver.client() for _ in range(3)]
    for client in clients[:2]:
        client.submit(Request(engine.encode_prompt("x")))
    for _ in range(2):
        clients[0].advance()
    for client in (clients[0], clients[1]):
        with pytest.raises(EngineError, match="NaN"):
            client.advance()
        assert client.in_flight == 0
    id = clients[2].submit(Request(engine.encode_prompt("x"), max_tokens=3))
    done, _ = collect(clients[2], [id])
    assert done[id].tokens == 3 and not engine.busy


def test_a_failure_of_one_trajectory_reaches_its_own_client_alone():
    def fail(step):
        if step == 2:
            error = EngineError("refused")
            error.trajectory = broken.entries[lost].engine_id
            raise error

    engine = ScriptedEngine([LONG], on_step=fail)
    driver = Driver.of(engine)
    broken, other = driver.client(), driver.client()
    lost = broken.submit(Request(engine.encode_prompt("x")))
    id = other.submit(Request(engine.encode_prompt("x"), max_tokens=5))
    done, _ = collect(other, [id])
    assert done[id].tokens == 5
    with pytest.raises(EngineError, match="refused"):
        broken.advance()
    assert broken.in_flight == 0 and driver.whole


def test_a_failure_is_raised_in_every_thread():
    def fail(step):
        if engine.submitted == 6:  # all three have something in flight
            raise EngineError("NaN")

    engine = ScriptedEngine([LONG], on_step=fail)

    def failing():
        with pytest.raises(EngineError, match="NaN"):
            solve(engine, "x", 2)

    in_threads(failing, failing, failing)


def test_a_handler_that_fails_takes_nobody_with_it():
    def handler(event):
        raise ValueError("mine")

    engine = ScriptedEngine([Scripted("a b</think>")])
    driver = Driver.of(engine)
    bad, good = driver.client(), driver.client()
    bad.submit(Request(engine.encode_prompt("x")), handler)
    id = good.submit(Request(engine.encode_prompt("x")))
    done, _ = collect(good, [id])
    assert done[id].finish_reason == "think_end"
    with pytest.raises(ValueError, match="mine"):
        bad.advance()
    assert not engine.busy


def test_a_request_that_can_not_be_served_is_refused_at_once():
    engine = ScriptedEngine([LONG], context_length=20)
    client = Driver.of(engine).client()
    with pytest.raises(InputError, match="at most 20"):
        client.submit(Request(engine.encode_prompt("word " * 30)))
    with pytest.raises(InputError, match="max_tokens is 0"):
        client.submit(Request(engine.encode_prompt("x"), max_tokens=0))
    assert client.in_flight == 0 and client.events() == []


def test_an_engine_that_loses_a_trajectory_is_found_out():
    engine = ScriptedEngine([LONG])
    with Driver.of(engine).client() as client:
        client.submit(Request(engine.encode_prompt("x")))
        client.advance()
        engine._running.clear()
        with pytest.raises(EngineError, match="lost a trajectory"):
            client.advance()


def test_a_client_that_does_not_read_is_cut_off_and_the_others_are_not():
    engine = ScriptedEngine([Scripted("word" + " word" * 50 + "</think>")])
    driver = Driver.of(engine)
    lazy, eager = driver.client(limit=10), driver.client()
    lazy.submit(Request(engine.encode_prompt("x")))
    id = eager.submit(Request(engine.encode_prompt("x")))
    done, _ = collect(eager, [id])
    assert done[id].finish_reason == "think_end"
    with pytest.raises(EngineError, match="10 events were not read"):
        lazy.events()


def test_ctrl_c_stops_one_stream_and_leaves_the_other_in_one_thread():
    def press(step):
        if step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    engine = ScriptedEngine([LONG], on_step=press)
    other = stream(engine, "b", 2, settings=Settings(max_tokens=20))
    next(other)
    assert solve(engine, "a", 2).interrupted
    (solved,) = [event for event in other if isinstance(event, Solved)]
    assert not solved.solution.interrupted and [t.tokens for t in solved.solution.trajectories] == [20, 20]
    assert not engine.busy


def test_ctrl_c_is_seen_while_another_thread_drives():
    in_step, pressed = threading.Event(), threading.Event()

    def wait(step):
        if step == 3:
            in_step.set()
            assert pressed.wait(10)

    engine = ScriptedEngine([LONG], on_step=wait)
    Driver.of(engine).start()

    def press():
        assert in_step.wait(10)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        pressed.set()

    thread = threading.Thread(target=press)
    thread.start()
    solution = solve(engine, "x", 2)
    thread.join()
    assert solution.interrupted and [t.finish_reason for t in solution.trajectories] == ["cancelled"] * 2
    Driver.of(engine).close()


def test_a_second_ctrl_c_kills():
    def press(step):
        if step in (3, 4):
            os.kill(os.getpid(), signal.SIGINT)

    engine = ScriptedEngine([LONG], on_step=press)
    with pytest.raises(KeyboardInterrupt):
        solve(engine, "x", 2)
    assert engine.steps == 5
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_dropped_client_leaves_nothing_running_and_nothing_held():
    engine = ScriptedEngine([Scripted("a</think>b"), LONG])
    with Driver.of(engine).client() as client:
        ids = [client.submit(Request(engine.encode_prompt("x"), index=i)) for i in range(2)]
        collect(client, ids[:1])
    assert not engine.busy and not engine._finished
    with pytest.raises(EngineError, match="closed"):
        client.submit(Request(engine.encode_prompt("x")))


def test_a_stream_that_is_collected_while_the_engine_steps_does_not_block():
    engine = ScriptedEngine([LONG])
    forgotten = [stream(engine, "x", 2)]
    next(forgotten[0])
    engine._on_step = lambda step: forgotten.clear()
    solution = solve(engine, "y", 1, settings=Settings(max_tokens=9))
    assert solution.trajectories[0].tokens == 9
    assert not engine.busy


def test_closing_ends_what_is_in_flight_and_refuses_what_comes():
    engine = ScriptedEngine([LONG])
    events = stream(engine, "x", 2)
    next(events)
    Driver.of(engine).close()
    assert engine.closed
    with pytest.raises(EngineError, match="closed"):
        list(events)
    with pytest.raises(EngineError, match="closed"):
        solve(engine, "x", 2)


def test_an_engine_has_one_driver_and_is_not_kept_alive_by_it():
    engine = ScriptedEngine([Scripted("a</think>b")])
    assert Driver.of(engine) is Driver.of(engine)
    solve(engine, "x", 1)
    gone = weakref.ref(engine)
    del engine
    gc.collect()
    assert gone() is None


def test_work_between_two_steps_is_done_while_others_write():
    engine = ScriptedEngine(script)
    driver = Driver.of(engine)
    free = []

    def work():
        return [driver.call(lambda engine: free.append(driver.drives_here)) for _ in range(20)]

    in_threads(work, lambda: list(solve_many(engine, ["a", "b", "c"], 8)))
    assert free == [True] * 20


def test_interrupts_do_nothing_outside_the_main_thread():
    def work():
        with Interrupts() as interrupts:
            return interrupts.pressed

    assert in_threads(work) == [False]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# ---- the only loop


def calls_of_step(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "step":
            yield ast.unparse(node.func.value)


def test_nobody_but_the_driver_steps_an_engine():
    inside_vllm = SRC / "engines" / "vllm" / "engine.py"  # steps vLLM's own engine, inside of ours
    loops = {
        path.relative_to(SRC).as_posix()
        for path in SRC.rglob("*.py")
        if path != inside_vllm and any("engine" in receiver for receiver in calls_of_step(path))
    }
    assert loops == {"engines/driver.py"}


def test_nobody_asks_an_engine_for_what_is_not_in_the_contract():
    asked = []
    for path in SRC.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("getattr", "hasattr")
            ):
                target = ast.unparse(node.args[0])
                if target.split(".")[-1] in ("engine", "driver"):
                    asked.append(f"{path.name}: {ast.unparse(node)}")
    assert asked == []


def test_beside_others_a_client_holds_no_more_than_its_share_of_the_rows():
    assert [row_share(64, owners) for owners in (0, 1, 2, 8)] == [64, 64, 32, 16]
    assert row_share(2, 1000) == 1
    engine = ScriptedEngine([Scripted("word " * 50)], max_rows=8)
    driver = Driver.of(engine)
    with driver.client() as small, driver.client() as large:
        small.submit(Request(engine.encode_prompt("small"), max_tokens=20))
        for index in range(16):
            large.submit(Request(engine.encode_prompt("large"), max_tokens=20, index=index))
        small.advance()
        of_large = 4  # half of eight, and one more that waits for a row
        assert len(engine._running) + len(engine._waiting) == 1 + of_large + 1
        while small.in_flight:
            small.advance()
        for _ in range(2):  # now alone
            large.advance()
        assert len(engine._running) == 8
