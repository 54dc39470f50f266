"""The command line as a process: start-up time, exit codes, pipes, terminals and Ctrl-C."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys

import pytest

COMMAND = [sys.executable, "-m", "reflective"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
ENVIRONMENT.pop("REFLECTIVE_DEBUG", None)

# the command line on a script that never ends, so that there is time to interrupt it
ENDLESS = """
import sys, time
from reflective import Reflective, Scripted, ScriptedEngine
from reflective.cli import main

def slow(step):
    time.sleep(0.01)
    if step == 20:
        print("go", file=sys.stderr, flush=True)

script = [Scripted("so.\\n\\n</think>\\\\boxed{4}", logits=[1.0]), Scripted("x.\\n\\n", endless=True)]
engine = ScriptedEngine(script, on_step=slow)
Reflective.from_pretrained = classmethod(lambda cls, *_, **__: cls(engine))
sys.exit(main(sys.argv[1:]))
"""


def reflective(*argv, **options):
    return subprocess.run([*COMMAND, *argv], capture_output=True, text=True, env=ENVIRONMENT, timeout=600, **options)


def test_help_answers_in_under_300_milliseconds():
    took = []
    for _ in range(3):
        before = os.times()
        assert reflective("--help").returncode == 0
        after = os.times()  # CPU time: other work on the machine does not count
        took.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(took) < 0.3


@pytest.mark.slow
def test_solve_and_score_on_a_folder(tiny_checkpoint_folder, tmp_path):
    folder = str(tiny_checkpoint_folder("qwen2"))
    argv = ["solve", "What is 2 + 2?", "--model", folder, "--dtype", "float32", "--effort", "3", "--max-tokens", "20"]
    first, second = (reflective(*argv, "--json", "--threads", "1") for _ in range(2))
    one, two = json.loads(first.stdout), json.loads(second.stdout)
    for data in (one, two):
        assert data.pop("timing")["total_s"] > 0
    assert one == two and one["model"] == folder and len(one["trajectories"]) == 3

    file = tmp_path / "responses.jsonl"
    good = {"messages": [{"role": "user", "content": "hi"}], "response": "a.\n\nb.\n\n</think>4", "id": "x7"}
    lines = [
        json.dumps(good).encode(),
        b"{broken",
        b"",
        json.dumps({"prompt": "a"}).encode(),
        b"\xff\xfe",
        b"[1]",
        json.dumps({"prompt": "a <think>", "response": "no step"}).encode(),
    ]
    file.write_bytes(b"\n".join(lines) + b"\n")
    scored = reflective("score", str(file), "--model", folder, "--dtype", "float32")
    rows = [json.loads(line) for line in scored.stdout.splitlines()]
    assert scored.returncode == 1
    assert [row["line"] for row in rows] == [1, 7] and rows[0]["id"] == "x7"
    assert len(rows[0]["step_positions"]) == len(rows[0]["step_scores"]) == 2 and 0 <= rows[0]["score"] <= 1
    assert rows[1] == {"line": 7, "step_positions": [], "step_scores": [], "score": None}
    reported = re.findall(rf"^{re.escape(str(file))}:(\d+): \S", scored.stderr, re.MULTILINE)
    assert reported == ["2", "4", "5", "6"] and "Traceback" not in scored.stderr


@pytest.mark.slow
def test_a_problem_that_is_too_long_is_one_line_and_2():
    done = reflective("solve", "-", "--model", "nano", input="a b " * 25_000)
    assert done.returncode == 2 and done.stdout == ""
    assert re.fullmatch(r"reflective: the problem has [\d,]+ tokens, but 'nano' reads at most 1,024 .*\n", done.stderr)


@pytest.mark.slow
def test_ctrl_c_ends_with_what_is_there_and_130():
    argv = [sys.executable, "-c", ENDLESS, "solve", "what", "--effort", "2", "--strategy", "majority"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert process.stderr.readline() == "go\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "4\n")
    assert "stopped by the user" in err and "Traceback" not in err


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_is_no_error():
    done = subprocess.run(
        f"{sys.executable} -m reflective tasks list | head -1",
        shell=True,
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    assert done.stdout.count("\n") == 1 and done.stderr == ""


@pytest.mark.slow
def test_a_terminal_sees_rows_answer_and_cost():
    main, child = pty.openpty()
    script = ENDLESS.replace("time.sleep(0.01)", "pass").replace("endless=True", "").replace('"go"', '""')
    argv = [sys.executable, "-c", script, "solve", "what is it", "--effort", "4"]
    environment = {**ENVIRONMENT, "TERM": "xterm-256color", "COLUMNS": "90", "LINES": "30", "COLORTERM": "truecolor"}
    process = subprocess.Popen(argv, stdin=child, stdout=child, stderr=child, env=environment)
    os.close(child)
    shown = b""
    while select.select([main], [], [], 30)[0]:
        try:
            data = os.read(main, 65536)
        except OSError:  # the child has closed its end
            break
        if not data:
            break
        shown += data
    os.close(main)
    assert process.wait(timeout=30) == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert (
        re.search(r"▶  0 ▆ ", plain)
        and "answer      4" in plain
        and "confidence" in plain
        and "4 trajectories" in plain
    )
    assert b"\x1b[38;2;" in shown
