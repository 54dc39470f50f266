"""The commands in process, on scripted trajectories: what goes to stdout, what to stderr, and the exit codes."""

import io
import json
import os
import signal
import sys

import pytest

from reflective import EngineError, Reflective, Scripted, ScriptedEngine
from reflective.cli import COMMANDS, main

SCRIPT = [
    Scripted("one.\n\ntwo.\n\n</think>\\boxed{4}", logits=[2.0, -1.0]),
    Scripted("three.\n\n</think>\\boxed{5}", logits=[1.0]),
]
CUT = Scripted("never.\n\n", endless=True)


@pytest.fixture
def engine(monkeypatch):
    """Makes every command run on a script; returns a function that sets it."""

    def use(script=SCRIPT, **options):
        made = ScriptedEngine(script, **options)
        monkeypatch.setattr(Reflective, "from_pretrained", classmethod(lambda cls, *_, **__: cls(made)))
        return made

    use()
    return use


def test_piped_solve_prints_just_the_answer(engine, run):
    code, out, err = run("solve", "what", "--effort", "2")
    assert (code, out) == (0, "5\n")
    assert "2 trajectories" in err and "\x1b" not in err


def test_quiet_says_nothing_else(engine, run):
    assert run("solve", "what", "--effort", "2", "-q") == (0, "5\n", "")


def test_json_is_one_object_on_stdout(engine, run):
    code, out, _ = run("solve", "what", "--effort", "2", "--strategy", "majority", "--json", "--seed", "7")
    data = json.loads(out)
    assert code == 0 and out.count("\n") == 1
    assert (data["answer"], data["strategy"], data["effort"], data["seed"]) == ("5", "majority", 2, 7)


def test_answers_all_writes_every_answer(engine, run):
    _, out, _ = run("solve", "what", "--effort", "2", "--answers", "all", "--json")
    assert [t["answer"] for t in json.loads(out)["trajectories"]] == ["4", "5"]


def test_a_dash_reads_standard_input(engine, run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("what is ½?\n".encode())))
    code, out, _ = run("solve", "-", "--effort", "1", "--json")
    assert code == 0 and json.loads(out)["problem"] == "what is ½?"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe")))
    code, out, err = run("solve", "-")
    assert (code, out) == (2, "") and "not UTF-8" in err


def test_no_answer_is_a_failure_with_a_note(engine, run):
    engine([CUT])
    code, out, err = run("solve", "what", "--effort", "2", "--max-tokens", "10")
    assert (code, out) == (1, "") and "no trajectory finished its reasoning within 10 tokens; allow more with" in err
    assert "confidence unknown" in err and "--max-tokens" in err and "max_tokens" not in err
    _, out, _ = run("solve", "what", "--effort", "2", "--max-tokens", "10", "--json")
    assert json.loads(out)["confidence"] is None and "--max-tokens" in json.loads(out)["notes"][0]


def test_a_text_without_a_final_answer_is_printed_as_it_is(engine, run):
    engine([Scripted("so.\n\n</think>It is hard to say anything about that", logits=[1.0])])
    code, out, err = run("solve", "what", "--effort", "1")
    assert (code, out) == (0, "It is hard to say anything about that\n") and "no final answer" in err


def test_ctrl_c_prints_what_is_there_and_exits_130(engine, run):
    def press(step):
        if step == 12:
            os.kill(os.getpid(), signal.SIGINT)

    engine([SCRIPT[0], CUT], on_step=press)
    code, out, err = run("solve", "what", "--effort", "2", "--strategy", "majority")
    assert (code, out) == (130, "4\n") and "stopped by the user" in err
    engine([CUT], on_step=press)
    code, out, err = run("solve", "what", "--effort", "2")
    assert (code, out) == (130, "") and "best thinking so far" in err and "never." in err
    engine([CUT], on_step=press)
    code, out, _ = run("solve", "what", "--effort", "2", "--json")
    assert code == 130 and json.loads(out)["interrupted"] is True


def test_ctrl_c_while_loading_is_one_line(engine, run, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Reflective, "from_pretrained", stop)
    assert run("solve", "what") == (130, "", "reflective: stopped\n")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["solve", ""], "the problem is empty"),
        (["solve", "  \n"], "the problem is empty"),
        (["solve", "x", "--effort", "0"], "effort is '0'"),
        (["solve", "x", "--effort", "-3"], "effort is '-3'"),
        (["solve", "x", "--effort", "ultra"], "effort is 'ultra'"),
        (["solve", "x", "--temperature", "-0.5"], "temperature is -0.5"),
        (["solve", "x", "--temperature", "nan"], "temperature is nan"),
        (["solve", "x", "--temperature", "hot"], "--temperature: invalid float value: 'hot'"),
        (["solve", "x", "--strategy", "oracle"], "unknown strategy 'oracle'"),
        (["solve", "x", "--max-tokens", "0"], "max_tokens is 0"),
        (["solve", "word " * 20_000], "at most 4,096"),
        (["solve"], "required: problem"),
        (["solve", "x", "--efort", "3"], "unrecognized arguments: --efort 3; did you mean '--effort'"),
        (["solve", "x", "--answers", "some"], "invalid choice: 'some'"),
        (["score", "/no/such/file.jsonl"], "No such file"),
        (["tasks", "show", "countdwn"], "Did you mean 'countdown'"),
        (["tasks", "sample", "gcd", "-n", "0"], "--count is 0"),
        (["fly"], "invalid choice: 'fly'"),
        (["solv", "x"], "did you mean 'solve'"),
        (["train", "head", "--model", "m", "--stepss", "3"], "did you mean '--step-rule'"),  # not --steps, of joint
        (["plan"], "did you mean 'plan serve'"),
        (["--json", "solve", "x"], "--json; options stand behind the command and before --"),
        (["eval", "gcd", "--output", ""], "output is an empty name"),
        (["solve", "--file", ""], "file is an empty name"),
        (["report", "x", "--texts", "nan", "--output", "r.html"], "--texts is nan; it must be 0 or more"),
        (["tasks", "show", "gcd", "--index", "-1"], "--index is -1; it must be 0 or more"),
        (["tasks", "chek", "gcd"], "did you mean 'check'"),
        (["eval", "gcd", "--outptu", "x", "--output", "y"], "did you mean '--output'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(engine, run, argv, message):
    code, out, err = run(*argv)
    assert (code, out) == (2, "")
    assert message in err and err.count("\n") == 1 and "Traceback" not in err


def test_nothing_is_loaded_for_options_that_can_not_work(run, monkeypatch):
    monkeypatch.setattr(Reflective, "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    assert run("solve", "x", "--effort", "ultra")[0] == 2
    assert run("solve", "x", "--top-p", "7")[0] == 2


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (EngineError("the logits are NaN.\nTry float32."), 1, "the logits are NaN. Try float32."),
        (MemoryError(), 1, "out of memory"),
        (OSError(28, "No space left on device", "x.bin"), 1, "x.bin: No space left on device"),
        (ZeroDivisionError("division by zero"), 1, "unexpected ZeroDivisionError: division by zero"),
    ],
)
def test_failures_are_one_line_and_exit_code_1(engine, run, monkeypatch, error, code, message):
    def fail(step):
        raise error

    monkeypatch.delenv("REFLECTIVE_DEBUG", raising=False)
    engine(on_step=fail)
    got, out, err = run("solve", "what")
    assert (got, out) == (code, "") and message in err and err.count("\n") == 1
    monkeypatch.setenv("REFLECTIVE_DEBUG", "1")
    engine(on_step=fail)
    with pytest.raises(type(error)):
        main(["solve", "what"])


def test_help_of_every_command_has_an_example(run):
    code, out, _ = run("--help")
    assert code == 0 and all(name in out for name in COMMANDS)
    for name in COMMANDS:
        code, out, _ = run(name, "--help")
        assert code == 0 and f"  reflective {name} " in out, name


def test_without_a_command_the_help_is_shown(run):
    code, out, _ = run()
    assert code == 2 and "commands:" in out
    assert run("--version") == (0, "reflective 0.1.0\n", "")


def test_tasks_are_listed_shown_and_sampled(run):
    code, out, _ = run("tasks", "list")
    assert code == 0 and "countdown" in out and "level 1:" in out
    assert "gcd" in json.loads(run("tasks", "list", "--json")[1])


def test_a_problem_is_shown_with_its_trace_and_sampled_as_json_lines(run):
    pytest.importorskip("reasoning_gym")
    _, out, _ = run("tasks", "show", "gcd", "--level", "1", "--trace")
    assert "<think>" in out and "\nanswer: " in out
    assert "thinking" in json.loads(run("tasks", "show", "gcd", "--trace", "--json")[1])
    code, out, _ = run("tasks", "sample", "mixture", "-n", "4", "--levels", "1")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and len(rows) == 4 and all(row["problem"] and row["id"] for row in rows)
    assert len({row["family"] for row in rows}) == 4


def test_the_problems_of_a_file_are_solved_a_line_each(engine, run, tmp_path):
    path = tmp_path / "sums.csv"
    path.write_text('q,key\n"2 + 2?",4\n"2 + 2, again?",4\n')
    code, out, err = run("solve", "--file", str(path), "--fields", "question=q", "--effort", "2", "-q")
    assert code == 0 and err == "" and {line.split("\t")[0] for line in out.splitlines()} == {"sums/0", "sums/1"}
    code, out, err = run("solve", "--file", str(path), "--fields", "question=q", "--limit", "1", "--json")
    assert code == 0 and json.loads(out)["id"] == "sums/0" and "1 of 1 problems" in err


def test_a_problem_is_asked_like_those_of_a_benchmark(engine, run):
    asked = json.loads(run("solve", "2 + 2?", "--like", "gsm8k", "--json", "-q")[1])["problem"]
    assert asked.startswith("2 + 2?\nPlease reason step by step")
    assert json.loads(run("solve", "2?", "--prompt", "Q: {problem}", "--json", "-q")[1])["problem"] == "Q: 2?"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["solve"], "required: problem, --file"),
        (["solve", "x", "--file", "y.csv"], "not both"),
        (["solve", "x", "--fields", "problem=q"], "--fields has a meaning with --file only"),
        (["solve", "x", "--limit", "3"], "--limit has a meaning with --file only"),
        (["solve", "x", "--skip-bad"], "--skip-bad has a meaning"),
        (["solve", "x", "--like", "gsm9k"], "Did you mean 'gsm8k'"),
        (["solve", "x", "--prompt", "nowhere"], "exactly once"),
        (["solve", "--file", "/no/such.csv"], "No such file"),
    ],
)
def test_what_can_not_be_solved_is_one_line(engine, run, argv, message):
    code, out, err = run(*argv)
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1
