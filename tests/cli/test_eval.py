"""The commands of evaluation in process, from a run to its report."""

import json

import pytest

from reflective import Problem, Reflective, Scripted, ScriptedEngine, tasks
from reflective.cli.common import field_mapping
from reflective.cli.eval import progress_line, shard
from reflective.errors import InputError
from reflective.evaluate.run import Progress


def script(prompt, index, seed):
    return Scripted(f"so.\n\n</think>\\boxed{{{4 if seed % 3 else 5}}}", [1.0 if seed % 3 else -1.0])


@pytest.fixture(autouse=True)
def model(monkeypatch):
    monkeypatch.setattr(Reflective, "from_pretrained", classmethod(lambda cls, *_, **__: cls(ScriptedEngine(script))))
    rows = [Problem(f"2+2? {i}", "4", id=f"p{i}", family="sum", kind="exact") for i in range(6)]
    monkeypatch.setattr(tasks, "load_problems", lambda source, *, limit=None, **_: rows[:limit])


def evaluate(run, folder, *more):
    return run("eval", "sums", "--effort", "4", "--output", str(folder), *more)


def test_a_run_prints_what_every_strategy_is_worth(run, tmp_path):
    code, out, err = evaluate(run, tmp_path / "a")
    assert code == 0 and "6 problems · 24 trajectories" in out and "best of k by score" in out and "oracle" in out
    assert "6/6 problems · right" in err and "reflective report" in err
    code, out, err = evaluate(run, tmp_path / "a", "--json", "-q")
    data = json.loads(out)
    assert code == 0 and err == "" and data["problems"] == 6
    assert data["accuracy"]["best_of_n"]["k"] == [1, 2, 3, 4] and data["figures"]["chosen"]["problems"] == 6


def test_a_run_goes_on_with_the_head_that_it_began_with(run, tmp_path):
    assert evaluate(run, tmp_path / "a", "--head", "one")[0] == 0
    assert evaluate(run, tmp_path / "a", "--head", "one")[0] == 0
    code, _, err = evaluate(run, tmp_path / "a", "--head", "two")
    assert code == 2 and "other settings" in err


def test_other_settings_and_wrong_usage_are_one_line_and_2(run, tmp_path):
    evaluate(run, tmp_path / "a")
    for argv in (
        ("eval", "sums", "--effort", "8", "--output", str(tmp_path / "a")),
        ("eval", "sums", "--effort", "many", "--output", str(tmp_path / "b")),
        ("eval", "sums", "--shard", "3/2", "--output", str(tmp_path / "b")),
        ("eval", "sums", "--fields", "problem", "--output", str(tmp_path / "b")),
        ("eval", "sums"),
        ("report", str(tmp_path / "nothing")),
        ("report", str(tmp_path / "a"), "--output", "report.pdf"),
        ("eval merge", str(tmp_path / "nothing"), "--output", str(tmp_path / "c")),
        ("eval export", str(tmp_path / "a"), "--format", "xml", "--output", "x"),
    ):
        code, out, err = run(*argv)
        assert code == 2 and out == "" and err.count("\n") == 1, (argv, err)


def test_ctrl_c_keeps_what_is_solved_and_exits_130(run, tmp_path, monkeypatch):
    def press(step):
        if step == 50:
            raise KeyboardInterrupt

    engine = ScriptedEngine(script, on_step=press, max_rows=2)
    with monkeypatch.context() as patched:
        patched.setattr(Reflective, "from_pretrained", classmethod(lambda cls, *_, **__: cls(engine)))
        code, out, err = evaluate(run, tmp_path / "a")
    assert code == 130 and out == "" and "goes on from here" in err
    assert 0 < (tmp_path / "a" / "records.jsonl").read_text().count("\n") < 6
    code, out, _ = evaluate(run, tmp_path / "a")
    assert code == 0 and "6 problems" in out


def test_shards_are_merged_graded_exported_and_reported(run, tmp_path):
    for i in ("1/2", "2/2"):
        assert evaluate(run, tmp_path / i[0], "--shard", i)[0] == 0
    whole = str(tmp_path / "whole")
    code, _, err = run("eval", "merge", str(tmp_path / "1"), "--output", str(tmp_path / "part"))
    assert code == 0 and "3 of 6 problems" in err
    assert run("eval", "merge", str(tmp_path / "1"), str(tmp_path / "2"), "--output", whole)[:2] == (0, whole + "\n")
    code, out, _ = run("eval", "regrade", whole, "--output", str(tmp_path / "again"), "--json")
    assert code == 0 and json.loads(out) == {"output": str(tmp_path / "again"), "trajectories": 24, "changed": 0}
    theirs = str(tmp_path / "theirs.jsonl")
    assert run("eval", "export", whole, "--format", "reference", "--output", theirs)[0] == 0
    back = str(tmp_path / "back")
    assert run("eval", "import", theirs, "--format", "reference", "--kind", "exact", "--output", back)[0] == 0
    code, out, _ = run("report", whole, back, "--json")
    data = json.loads(out)
    one, two = data["runs"]["whole"], data["runs"]["back"]
    assert one["accuracy"]["best_of_n"]["value"] == two["accuracy"]["best_of_n"]["value"]


def test_a_report_is_a_page_or_markdown(run, tmp_path):
    evaluate(run, tmp_path / "a")
    code, out, _ = run("report", str(tmp_path / "a"), "--output", str(tmp_path / "r.html"))
    assert code == 0 and out == "" and (tmp_path / "r.html").read_text().startswith("<!DOCTYPE html>")
    code, out, _ = run("report", str(tmp_path / "a"))
    assert code == 0 and out.startswith("# `a`") and "| strategy |" in out
    run("report", str(tmp_path / "a"), "--output", str(tmp_path / "deep" / "r.md"))
    assert (tmp_path / "deep" / "r.md").read_text() == out.removesuffix("\n")


def test_a_negative_seed_is_one_like_others(run, tmp_path):
    code, out, _ = evaluate(run, tmp_path / "a", "--seed", "-1", "--json", "-q")
    assert code == 0 and json.loads(out)["problems"] == 6
    assert run("report", str(tmp_path / "a"), "--seed", "-1", "--json")[0] == 0


def test_a_file_in_the_place_of_a_folder_is_named(run, tmp_path):
    evaluate(run, tmp_path / "a")
    (tmp_path / "file").write_text("")
    code, _, err = run("report", str(tmp_path / "a"), "--output", str(tmp_path / "file" / "r.html"))
    assert code == 2 and f"'{tmp_path / 'file'}' is a file, and a folder is needed" in err


def test_progress_says_how_far_how_right_and_how_long():
    line = progress_line(Progress(12, 500, 7, 12, 70.0, 2846.0))
    assert line == "12/500 problems · right 0.583 (0.320 to 0.807) · 0:01:10 · 0:47:26 left"
    assert progress_line(Progress(0, 5, 0, 0, 0.0, float("nan"))) == "0/5 problems · 0:00:00"


def test_shards_and_fields_are_read():
    assert shard("2/8") == (2, 8)
    assert field_mapping(["problem=a.b", "answer=x=y"]) == {"problem": "a.b", "answer": "x=y"}
    assert field_mapping(["problem=a b,answer=c,d"]) == {"problem": "a b", "answer": "c,d"}
    for bad in ("2", "a/b", "/3", "-1/3"):
        with pytest.raises(InputError, match="--shard"):
            shard(bad)
