"""Records survive kills, full disks and second writers, and come back as they were."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflective import (
    InputError,
    Problem,
    Record,
    RecordWriter,
    ReflectiveError,
    Scripted,
    ScriptedEngine,
    Verdict,
    grading,
)
from reflective.records import RECORD_VERSION, TrajectoryRecord, read_records
from reflective.search import Majority, solve

SCRIPT = [
    Scripted("so.\n\nyes.\n\n</think>\\boxed{4}", logits=[2.0, float("inf")]),
    Scripted("hm</think>\\boxed{5}", logprob=None),
]


def record(name="p1", **extra):
    problem = Problem("2+2?", "4", id=name, family="sum", metadata={"level": 2, "numbers": [2, 2]})
    solution = solve(ScriptedEngine(SCRIPT), problem, 2, strategy=Majority())
    return Record.of(
        solution, Verdict("right", "identical"), [Verdict("right"), Verdict("ungradable", "why")], extra=extra
    )


def test_a_record_keeps_what_metrics_need():
    first, second = record().trajectories
    assert first.step_logits == (2.0, float("inf")) and first.step_scores[1] == 1.0
    assert first.tokens == 7 and first.finish_reason == "eos" and first.answer == "4" and first.closed
    assert first.mean_logprob == -1.0 and second.mean_logprob is None
    assert second.score is None and second.verdict == Verdict("ungradable", "why")
    assert first.thinking == "so.\n\nyes.\n\n"


def test_a_problem_that_has_two_records_is_refused_with_both_lines(tmp_path):
    """By everything that reads a run: which of the two counts nobody can know."""
    path = tmp_path / "records.jsonl"
    with RecordWriter(path) as writer:
        for name in ("a", "b", "a"):
            writer.write(record(name))
    with pytest.raises(InputError, match=r"records.jsonl:3: several records are of the same problem: line 1 .*'a'"):
        list(read_records(path))
    with pytest.raises(InputError, match="Remove one of the lines"):
        RecordWriter(path)


def test_written_records_come_back_equal(tmp_path):
    path = tmp_path / "deep" / "records.jsonl"
    written = [record("a"), record("b", note="x")]
    with RecordWriter(path) as writer:
        for one in written:
            writer.write(one)
    assert list(read_records(path)) == written
    for line in path.read_text().splitlines():
        assert json.loads(line)["version"] == RECORD_VERSION


def test_texts_can_be_left_out():
    slim = TrajectoryRecord.of(solve(ScriptedEngine(SCRIPT), "2+2?", 1).trajectories[0], texts=False)
    assert slim.thinking == slim.answer_text == "" and slim.closed and slim.tokens == 7


def test_resuming_knows_what_is_done_and_appends(tmp_path):
    path = tmp_path / "r.jsonl"
    with RecordWriter(path) as writer:
        writer.write(record("a"))
    with RecordWriter(path, sync=True) as writer:
        assert writer.done == {"a"} and writer.notes == []
        writer.write(record("b"))
        assert writer.done == {"a", "b"}
    assert [r.key for r in read_records(path)] == ["a", "b"]


@given(cut=st.integers(1, 400))
def test_a_kill_in_the_middle_of_a_line_loses_that_line_only(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("cut") / "r.jsonl"
    with RecordWriter(path) as writer:
        writer.write(record("a"))
        whole = path.stat().st_size
        writer.write(record("b"))
    os.truncate(path, whole + cut)
    notes = []
    assert [r.key for r in read_records(path, notes)] == ["a"] and "cut off" in notes[0]
    with RecordWriter(path) as writer:
        assert writer.done == {"a"} and "cut off" in writer.notes[0]
        writer.write(record("b"))
    assert [r.key for r in read_records(path)] == ["a", "b"]


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "r.jsonl"
    with RecordWriter(path) as writer:
        writer.write(record("a"))
    good = path.read_bytes()
    path.write_bytes(good + b"{nonsense\n" + good)
    with pytest.raises(InputError, match=r"r\.jsonl:2: "):
        list(read_records(path))
    with pytest.raises(InputError, match=r"r\.jsonl:2: "):
        RecordWriter(path)
    assert path.read_bytes() == good + b"{nonsense\n" + good


@pytest.mark.parametrize("line", [b"{nonsense", b'{"version": NaN}', b"[" * 100_000])
def test_a_line_that_is_not_json_is_told_with_what_to_do(tmp_path, line):
    (tmp_path / "r.jsonl").write_bytes(line + b"\n")
    with pytest.raises(InputError, match=r"r\.jsonl:1: not JSON \(.*\)\. Remove the line"):
        list(read_records(tmp_path / "r.jsonl"))


@pytest.mark.parametrize("data", [[], {}, {"version": 99}, {"version": 1}, {"version": 1, "problem": 3}])
def test_other_json_is_no_record(data):
    with pytest.raises(InputError):
        Record.from_json(data)


def test_an_unknown_verdict_is_refused():
    data = json.loads(json.dumps(record().to_json()))
    data["trajectories"][0]["verdict"] = {"kind": "maybe"}
    with pytest.raises(InputError, match="a verdict is one of right, wrong, ungradable, got 'maybe'"):
        Record.from_json(data)


def test_unknown_keys_are_ignored():
    data = json.loads(json.dumps(record().to_json()))
    data["later"] = 1
    data["trajectories"][0]["later"] = 2
    data["problem"]["later"] = 3
    assert Record.from_json(data).key == "p1"


def test_a_file_that_holds_records_is_not_overwritten(tmp_path):
    path = tmp_path / "r.jsonl"
    with RecordWriter(path, resume=False) as writer:
        writer.write(record())
    with pytest.raises(InputError, match="already holds records"):
        RecordWriter(path, resume=False)
    assert len(list(read_records(path))) == 1


def test_two_writers_at_once_are_refused(tmp_path):
    path = tmp_path / "r.jsonl"
    with RecordWriter(path), pytest.raises(InputError, match="another process"):
        RecordWriter(path)
    RecordWriter(path).close()


def test_a_killed_writer_leaves_whole_lines_and_no_lock(tmp_path):
    path = tmp_path / "r.jsonl"
    code = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from test_records import record, RecordWriter\n"
        "writer = RecordWriter(sys.argv[1])\n"
        "for i in range(10**9): writer.write(record(str(i)))\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(path), os.path.dirname(__file__)])
    deadline = time.monotonic() + 60
    while (not path.exists() or path.stat().st_size < 20_000) and time.monotonic() < deadline:
        time.sleep(0.01)
    child.kill()
    child.wait()
    with RecordWriter(path) as writer:
        assert len(writer.done) > 5
        assert writer.done == {str(i) for i in range(len(writer.done))}


def test_a_full_disk_leaves_the_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "r.jsonl"
    with RecordWriter(path) as writer:
        writer.write(record("a"))
        before = path.read_bytes()
        real = os.write

        state = {"calls": 0}

        def full(file, data):
            state["calls"] += 1
            if state["calls"] == 1:
                return real(file, data[:100])
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(ReflectiveError, match="No space left"):
            writer.write(record("b"))
        monkeypatch.undo()
        assert path.read_bytes() == before and writer.done == {"a"}
        writer.write(record("b"))
    assert [r.key for r in read_records(path)] == ["a", "b"]


def test_places_that_can_not_be_read_or_written_are_refused(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        list(read_records(tmp_path / "none.jsonl"))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can't write records"):
        RecordWriter(tmp_path / "file" / "r.jsonl")


def test_one_verdict_a_trajectory_or_none():
    solution = solve(ScriptedEngine(SCRIPT), "2+2?", 2)
    assert Record.of(solution).trajectories[0].verdict is None
    with pytest.raises(InputError, match="1 verdicts for 2"):
        Record.of(solution, verdicts=[Verdict("right")])


def test_a_record_names_its_graders_version_and_keeps_token_ids_where_asked(monkeypatch):
    monkeypatch.setattr(grading.verify, "GRADER_VERSION", "97", raising=False)
    solution = solve(ScriptedEngine(SCRIPT), Problem("2+2?", "4"), 2, strategy=Majority())
    kept = grading.record_of(solution, 0, prompt_ids=(5, 6))
    assert Record.from_json(json.loads(json.dumps(kept.to_json()))) == kept
    assert kept.grader == "97" and kept.prompt_ids == (5, 6)
    assert [t.token_ids for t in kept.trajectories] == [t.token_ids for t in solution.trajectories]
    plain = grading.record_of(solution, 0)
    assert plain.prompt_ids == () and all(t.token_ids == () for t in plain.trajectories)
    monkeypatch.setattr(grading.verify, "GRADER_VERSION", "98", raising=False)
    assert grading.regraded(kept).grader == "98"


def test_records_of_releases_that_named_no_grader_and_kept_no_ids_load():
    old = record().to_json()
    del old["grader"], old["prompt_ids"]
    for t in old["trajectories"]:
        del t["token_ids"]
    assert Record.from_json(old) == replace(record(), timing=Record.from_json(old).timing)
