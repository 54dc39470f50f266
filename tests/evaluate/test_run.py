"""The runner on scripted trajectories: what is recorded, that it goes on after a kill, and what it refuses."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from reflective import EngineError, InputError, Problem, Scripted, ScriptedEngine, Verdict, read_records
from reflective.engines.base import Sampling
from reflective.evaluate.revision import merge, regrade
from reflective.evaluate.run import Plan, run_benchmark
from reflective.evaluate.table import Table
from reflective.records.manifest import MANIFEST, RECORDS, read_manifest
from reflective.search import BestOfN, Majority, Settings
from reflective.shards import read_shards

PROBLEMS = [Problem(f"What is {i} + {i}?", str(2 * i), id=f"p{i}", family="sum", kind="exact") for i in range(12)]


def script(prompt, index, seed):
    """Some right, some wrong, some without an end; a function of the seed alone."""
    rng = random.Random(seed)
    number = int(prompt.split()[2])
    answer = 2 * number + rng.choice([0, 0, 1])
    steps = "so it is.\n\n" * rng.randint(1, 4)
    logits = [rng.uniform(-2, 2) for _ in range(4)]
    return Scripted(f"{steps}</think>\\boxed{{{answer}}}", logits, endless=rng.random() < 0.1)


def plan(**changes):
    settings = Settings(Sampling(), seed=3, max_tokens=60)
    return Plan(
        **({"effort": 4, "strategy": BestOfN("all"), "settings": settings, "benchmark": {"name": "sums"}} | changes)
    )


def told(folder):
    """What a run holds, without the time that it took, by problem."""
    return {
        r.key: replace(r, timing=replace(r.timing, total_s=0, first_step_s=0, thinking_s=0, answer_s=0))
        for r in read_records(folder / RECORDS)
    }


def run(folder, problems=PROBLEMS, engine=None, **changes):
    return run_benchmark(engine or ScriptedEngine(script), problems, plan(**changes), folder)


def test_every_trajectory_is_recorded_graded_and_grouped(tmp_path):
    run(tmp_path)
    records = told(tmp_path)
    assert set(records) == {p.id for p in PROBLEMS}
    for number, problem in enumerate(PROBLEMS):
        record = records[problem.id]
        assert record.extra["number"] == number and len(record.trajectories) == 4
        for t in record.trajectories:
            assert t.verdict.right is (t.answer == problem.answer)
            assert (t.group is None) == (t.answer is None)
        assert len({t.group for t in record.trajectories if t.answer}) == len(
            {t.answer for t in record.trajectories if t.answer}
        )
        assert record.verdict.right is (record.answer == problem.answer)
    assert Table.of(read_records(tmp_path / RECORDS)).keys == tuple(p.id for p in PROBLEMS)


def test_a_run_that_failed_in_the_middle_goes_on_to_the_same_result(tmp_path):
    run(tmp_path / "whole")

    def fail(step):
        if step == 150:
            raise EngineError("out of memory")

    with pytest.raises(EngineError):
        run(tmp_path / "parts", engine=ScriptedEngine(script, max_rows=8, on_step=fail))
    there = set(told(tmp_path / "parts"))
    assert 0 < len(there) < len(PROBLEMS)
    engine = ScriptedEngine(script)
    run(tmp_path / "parts", engine=engine)
    assert told(tmp_path / "parts") == told(tmp_path / "whole")
    assert engine.submitted < 2 * 4 * (len(PROBLEMS) - len(there)) + 1  # what is there is not solved again


CHILD = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_run import PROBLEMS, ScriptedEngine, plan, run_benchmark, script
engine = ScriptedEngine(script, max_rows=8, on_step=lambda step: time.sleep(0.01))
tell = lambda p: print(p.done, flush=True)
run_benchmark(engine, PROBLEMS, plan(), Path(sys.argv[1]), tell=tell)
"""


def start(folder):
    argv = [sys.executable, "-c", CHILD, str(folder), str(Path(__file__).parent)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_killed_or_stopped_it_goes_on_to_the_same_result(tmp_path, number):
    child = start(tmp_path / "parts")
    while int(child.stdout.readline()) < 3:
        pass
    child.send_signal(number)
    _, err = child.communicate(timeout=60)
    assert child.returncode != 0 and ("KeyboardInterrupt" in err) == (number == signal.SIGINT)
    assert 3 <= len(told(tmp_path / "parts")) < len(PROBLEMS)
    run(tmp_path / "parts")
    run(tmp_path / "whole")
    assert told(tmp_path / "parts") == told(tmp_path / "whole")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"effort": 5}, "effort 5 instead of 4"),
        ({"strategy": Majority()}, "strategy 'majority'"),
        (
            {"settings": Settings(Sampling(temperature=0.5), seed=3, max_tokens=60)},
            "settings temperature 0.5 instead of 1.0",
        ),
        ({"benchmark": {"name": "other"}}, "benchmark name 'other'"),
        ({"shard": (1, 2)}, "shard"),
    ],
)
def test_other_settings_are_refused_in_the_same_folder(tmp_path, changes, what):
    run(tmp_path, PROBLEMS[:2])
    before = (tmp_path / RECORDS).read_bytes()
    with pytest.raises(InputError, match=what):
        run(tmp_path, PROBLEMS[:2], **changes)
    with pytest.raises(InputError, match="problems 3 instead of 2"):
        run(tmp_path, PROBLEMS[:3])
    with pytest.raises(InputError, match="digest"):
        run(tmp_path, PROBLEMS[1:3])
    with pytest.raises(InputError, match="model 'another'"):
        run(tmp_path, PROBLEMS[:2], engine=ScriptedEngine(script, name="another"))
    assert (tmp_path / RECORDS).read_bytes() == before


def test_shards_merge_to_the_whole(tmp_path):
    run(tmp_path / "whole")
    for i in (1, 2, 3):
        run(tmp_path / f"s{i}", shard=(i, 3))
    assert merge([tmp_path / "s3", tmp_path / "s1", tmp_path / "s2"], tmp_path / "merged") == (12, 12)
    assert told(tmp_path / "merged") == told(tmp_path / "whole")
    assert Table.of(read_records(tmp_path / "merged" / RECORDS)).keys == tuple(p.id for p in PROBLEMS)
    assert "merged from 3" in read_manifest(tmp_path / "merged").history[0]
    assert merge([tmp_path / "s1", tmp_path / "s2"], tmp_path / "partly") == (8, 12)
    with pytest.raises(InputError, match="both hold"):
        merge([tmp_path / "s1", tmp_path / "whole"], tmp_path / "twice")
    run(tmp_path / "other", effort=2, shard=(2, 3))
    with pytest.raises(InputError, match="effort 2 instead of 4"):
        merge([tmp_path / "s1", tmp_path / "other"], tmp_path / "mixed")
    run(tmp_path / "shorter", settings=Settings(Sampling(), seed=3, max_tokens=59), shard=(2, 3))
    with pytest.raises(InputError, match="settings max_tokens 59 instead of 60"):
        merge([tmp_path / "s1", tmp_path / "shorter"], tmp_path / "mixed")
    with pytest.raises(InputError, match="already holds"):
        merge([tmp_path / "s1"], tmp_path / "merged")
    with pytest.raises(InputError, match="shard is 4/3"):
        plan(shard=(4, 3))


def test_old_answers_are_graded_again_without_generating(tmp_path):
    run(tmp_path / "old")
    count, changed = regrade(tmp_path / "old", tmp_path / "same")
    assert (count, changed) == (48, 0) and told(tmp_path / "same") == told(tmp_path / "old")

    def strict(problem, answer):
        return Verdict("ungradable", "on strike") if answer else Verdict("wrong", "no final answer")

    _, changed = regrade(tmp_path / "old", tmp_path / "new", grade=strict, extract=True)
    answered = [t for r in told(tmp_path / "old").values() for t in r.trajectories if t.answer]
    assert changed == len(answered) > 0
    again = told(tmp_path / "new")
    assert all(t.verdict.right is None for r in again.values() for t in r.trajectories if t.answer)
    assert again["p0"].trajectories[0].step_logits == told(tmp_path / "old")["p0"].trajectories[0].step_logits


def test_a_thinking_that_was_not_continued_has_no_verdict(tmp_path):
    run(tmp_path, strategy=BestOfN("selected"))
    for record in told(tmp_path).values():
        for t in record.trajectories:
            if t.index == record.selected:
                assert t.verdict is not None
            elif t.finish_reason == "think_end":
                assert t.verdict is None and t.answer is None


def test_of_chosen_answers_alone_nothing_is_said_about_other_choices(tmp_path):
    from reflective.evaluate.summary import summarise

    run(tmp_path, strategy=BestOfN("selected"))
    table = Table.of(read_records(tmp_path / RECORDS))
    s = summarise(table)
    right = [r.verdict.right for r in told(tmp_path).values()]
    assert not table.complete and s.curves == s.ranking == {} and s.figures["single"].value != s.figures["single"].value
    assert s.figures["chosen"].value == pytest.approx(sum(right) / len(right))


def test_equal_problems_are_kept_apart_and_unsolvable_ones_are_recorded(tmp_path):
    twice = [Problem("What is 1 + 1?", "2", kind="exact")] * 2 + [
        Problem("What is 9 + 9? " + "word " * 9000, "18", id="long")
    ]
    run(tmp_path, twice)
    records = told(tmp_path)
    assert set(records) == {"What is 1 + 1?", "What is 1 + 1?#2", "long"}
    assert records["long"].trajectories == () and records["long"].verdict.right is False and records["long"].notes


def test_texts_may_be_left_out(tmp_path):
    run(tmp_path, texts=False)
    t = told(tmp_path)["p1"].trajectories[0]
    assert t.thinking == t.answer_text == "" and t.step_ends == () and t.verdict is not None


def test_progress_counts_what_was_there_before(tmp_path):
    seen = []
    run_benchmark(ScriptedEngine(script), PROBLEMS[:6], plan(), tmp_path, tell=seen.append)
    assert [p.done for p in seen] == [0, 1, 2, 3, 4, 5, 6] and seen[-1].graded == 6
    low, high = seen[-1].accuracy[1:]
    assert 0 <= low <= seen[-1].right / 6 <= high <= 1
    run_benchmark(ScriptedEngine(script), PROBLEMS[:6], plan(), tmp_path, tell=seen.append)
    assert (seen[-1].done, seen[-1].right) == (6, seen[-2].right)


def test_a_failing_disk_stops_the_run_and_says_so(tmp_path, monkeypatch):
    from reflective import RecordWriter, ReflectiveError

    def full(self, record):
        raise ReflectiveError("can't write: no space left")

    monkeypatch.setattr(RecordWriter, "write", full)
    with pytest.raises(ReflectiveError, match="no space left"):
        run(tmp_path)


def test_a_folder_that_is_no_run_or_a_damaged_one_is_named(tmp_path):
    with pytest.raises(InputError, match="no run folder"):
        read_manifest(tmp_path)
    (tmp_path / MANIFEST).write_text("{}")
    with pytest.raises(InputError, match="no manifest of version"):
        read_manifest(tmp_path)
    (tmp_path / MANIFEST).write_text(json.dumps({"version": 1, "shard": [1, 1]}))
    with pytest.raises(InputError, match="damaged"):
        read_manifest(tmp_path)


def test_the_runner_adds_little_to_the_engine(tmp_path):
    """Grading and writing go on while the engine works; here it sleeps, as an accelerator would be waited for."""
    from reflective.search import solve_many

    def engine():
        return ScriptedEngine(script, on_step=lambda step: time.sleep(0.004))

    bare, whole = [], []
    for i in range(3):
        begun = time.perf_counter()
        for _ in solve_many(engine(), PROBLEMS, 4, strategy=BestOfN("all"), settings=plan().settings):
            pass
        bare.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        run(tmp_path / str(i), engine=engine())
        whole.append(time.perf_counter() - begun)
    assert min(whole) < 2 * min(bare)  # the figure itself is measured by benchmarks/evaluate_speed.py


def test_what_is_known_of_every_token_is_kept_where_asked(tmp_path):
    run(tmp_path / "run", tokens=True)
    run(tmp_path / "plain")
    shards = {shard.key: shard for shard in read_shards(tmp_path / "run")}
    assert not (tmp_path / "plain" / "shards").exists()
    for key, record in told(tmp_path / "run").items():
        assert record.prompt_ids and shards[key].tokens == [t.tokens for t in record.trajectories]
        for t, logprobs in zip(record.trajectories, shards[key].figure("logprobs"), strict=True):
            assert len(t.token_ids) == len(logprobs) == t.tokens
            assert sum(logprobs) / len(logprobs) == pytest.approx(t.mean_logprob)
        bare = replace(record, prompt_ids=(), trajectories=tuple(replace(t, token_ids=()) for t in record.trajectories))
        assert bare == told(tmp_path / "plain")[key]
