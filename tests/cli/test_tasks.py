"""`reflective tasks` on benchmarks and files: list, show, sample, check."""

import json

import pytest


@pytest.fixture
def rows(tmp_path):
    """A file of three problems; the gold of the last one can't be read."""
    path = tmp_path / "rows.jsonl"
    golds = ["4", "\\frac{1}{2}", "2x +"]
    path.write_text("".join(json.dumps({"question": f"Q{i}?", "answer": a}) + "\n" for i, a in enumerate(golds)))
    return str(path)


def test_list_names_benchmarks_with_their_origin(run):
    code, out, _ = run("tasks", "list")
    assert code == 0 and "openai/gsm8k@740312add88f781978c0658806c59bc2815b9866" in out and "countdown" in out
    told = json.loads(run("tasks", "list", "--json")[1])
    assert told["gpqa_diamond"]["gated"] and not told["amc23"]["pinned"] and told["aime24"]["size"] == 30


def test_show_prints_one_problem_of_a_file(run, rows):
    assert run("tasks", "show", rows, "--index", "1")[1] == "Q1?\n\nanswer: \\frac{1}{2}\n"
    shown = json.loads(run("tasks", "show", "gsm8k", "--file", rows, "--json")[1])
    assert shown["id"] == "gsm8k/test/0" and shown["problem"].startswith("Q0?\nPlease reason step by step")
    code, _, err = run("tasks", "show", rows, "--index", "3")
    assert code == 2 and "has problems 0 to 2" in err
    assert run("tasks", "show", rows, "--trace")[0] == 2


def test_sample_prints_json_lines(run, rows):
    code, out, _ = run("tasks", "sample", rows, "-n", "2", "--field", "problem=answer", "--field", "answer=question")
    assert code == 0 and [json.loads(line)["answer"] for line in out.splitlines()] == ["Q0?", "Q1?"]
    assert len(run("tasks", "sample", "gcd", "-n", "2", "--levels", "1")[1].splitlines()) == 2


def test_check_reports_golds_that_fail_and_exits_1(run, rows):
    code, out, err = run("tasks", "check", rows)
    assert code == 1 and out.startswith("rows/2  ungradable: ") and len(out.splitlines()) == 1
    assert "problems: 3; gold answers that are not right against themselves: 1" in err
    told = json.loads(run("tasks", "check", "math500", "--file", rows, "--json")[1])
    assert told["problems"] == 3 and [fault["id"] for fault in told["faults"]] == ["math500/test/2"]


def test_check_of_good_golds_exits_0(run, rows):
    code, out, err = run("tasks", "check", rows, "-n", "2")
    assert (code, out) == (0, "") and "problems: 2; gold answers that are not right against themselves: 0" in err
    assert run("tasks", "check", "gcd", "-n", "20")[0] == 0


def test_code_without_solutions_is_counted_not_reported(run, tmp_path):
    path = tmp_path / "code.jsonl"
    path.write_text(json.dumps({"problem": "p", "kind": "code", "tests": [{"input": "", "output": ""}]}))
    code, _, err = run("tasks", "check", str(path))
    assert code == 0 and "1 without a solution to check" in err


def test_a_mapping_is_checked(run, rows):
    code, _, err = run("tasks", "check", rows, "--field", "problem")
    assert code == 2 and "write it as NAME=PATH" in err


def test_bad_rows_are_told_and_left_out_on_request(run, tmp_path):
    path = tmp_path / "bad.csv"
    path.write_text("q,a\n1+1?,2\n,3\n2+2?,4\n")
    code, out, err = run("tasks", "sample", str(path), "--fields", "question=q,answer=a")
    assert (code, out) == (2, "") and "line 3, row 2: no problem" in err
    code, out, err = run("tasks", "sample", str(path), "--fields", "question=q", "answer=a", "--skip-bad")
    assert code == 0 and len(out.splitlines()) == 2 and err.startswith("left out: ") and "line 3, row 2" in err


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["check", "gcd", "--fields", "problem=q"], "fields"),
        (["sample", "gcd", "--subjects", "Algebra"], "subjects"),
        (["show", "gcd", "--revision", "main"], "revision"),
        (["show", "gsm8k", "--levels", "1"], "levels"),
        (["show", "rows.jsonl", "--level", "1"], "--level"),
        (["check", "rows.jsonl", "--split", "train"], "split"),
    ],
)
def test_what_has_no_meaning_for_what_was_named_is_refused(run, rows, monkeypatch, argv, name):
    monkeypatch.chdir(rows.rpartition("/")[0])
    code, out, err = run("tasks", *argv)
    assert (code, out) == (2, "") and name in err and err.count("\n") == 1
