"""Questions in turns: what is sent, what is shown, and what the commands change."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import subprocess
import sys
import time

import pytest

from reflective import Reflective, Scripted, ScriptedEngine
from reflective.cli import chat
from reflective.cli.conversation import Conversation
from reflective.cli.live import AnswerStream
from reflective.errors import InputError


class Listening(ScriptedEngine):
    """Notes the messages that it is asked."""

    asked: list[list[tuple[str, str]]] = []

    def encode_messages(self, messages):
        self.asked.append([(m["role"], m["content"]) for m in messages])
        return self.encode_prompt(messages[-1]["content"])


SCRIPT = [
    Scripted("one.\n\ntwo.\n\n</think>It is \\boxed{4}.", logits=[3.0, -3.0]),
    Scripted("x.\n\n</think>Or \\boxed{5}.", logits=[9.0]),
]


@pytest.fixture
def engine():
    made = Listening(SCRIPT)
    made.asked = []
    return made


@pytest.fixture
def ask(run, monkeypatch, engine):
    """Run `reflective chat` on lines of standard input."""
    monkeypatch.setattr(chat, "load_model", lambda args: Reflective(engine))

    def call(*lines, options=("--effort", "2")):
        monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines) + "\n"))
        return run("chat", *options)

    return call


def test_lines_that_are_not_utf_8_are_told_as_such(ask, monkeypatch, run):
    ask("What is 2 + 3?")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe?\n"), encoding="utf-8"))
    assert run("chat") == (2, "", "reflective: standard input is not UTF-8 text. Convert it first.\n")


def test_earlier_turns_are_sent_with_their_answers_and_without_their_reasoning(ask, engine):
    code, out, _ = ask("What is 2 + 3?", "And 3 + 3?", options=("--effort", "2", "--system", "Be brief."))
    assert code == 0 and out == "Or \\boxed{5}.\nOr \\boxed{5}.\n"
    assert engine.asked[-1] == [
        ("system", "Be brief."),
        ("user", "What is 2 + 3?"),
        ("assistant", "Or \\boxed{5}."),
        ("user", "And 3 + 3?"),
    ]


def test_a_line_that_ends_with_a_backslash_goes_on(ask, engine):
    ask("What is \\", "2 + 3?")
    assert engine.asked[-1] == [("user", "What is \n2 + 3?")]


def test_commands_change_the_next_turn_and_the_conversation(ask, engine, tmp_path):
    file = tmp_path / "said.json"
    lines = [
        "2 + 3?",
        "/undo",
        "/system Short.",
        "/effort 1",
        "again?",
        f"/save {file}",
        "/reset",
        "new?",
        "/quit",
        "no",
    ]
    code, out, err = ask(*lines)
    assert code == 0 and out.splitlines() == ["Or \\boxed{5}.", "It is \\boxed{4}.", "It is \\boxed{4}."]
    assert engine.asked[-2:] == [[("system", "Short."), ("user", "again?")], [("system", "Short."), ("user", "new?")]]
    assert [m["content"] for m in json.loads(file.read_text())["messages"]] == ["Short.", "again?", "It is \\boxed{4}."]
    assert "effort: 1" in err and "forgotten" in err


def test_json_gives_an_object_per_answer(ask):
    code, out, err = ask("one?", "two?", options=("--effort", "1", "--json"))
    assert code == 0 and [json.loads(line)["problem"] for line in out.splitlines()] == ["one?", "two?"] and err == ""
    assert [json.loads(line)["seed"] for line in out.splitlines()] == [0, 1]  # asked again, it is drawn again


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/efort 2", "there is no command /efort. Did you mean '/effort'?"),
        ("/effort lots", "effort is 'lots'"),
        ("/seed x", "/seed takes a whole number; got 'x'"),
        ("/undo", "there is nothing to take back"),
        ("/retry", "there is no question to ask again"),
        ("/steps", "there is no answer yet"),
        ("/save", "name the file"),
        ("/strategy bets_of_n", "best_of_n"),
    ],
)
def test_what_cannot_be_done_is_said(ask, line, told):
    code, _, err = ask(line)
    assert code == 2 and told in err


def test_a_refused_setting_changes_nothing(engine):
    conversation = Conversation(Reflective(engine), {"effort": 2})
    with pytest.raises(InputError):
        conversation.command("/effort 0")
    assert conversation.options == {"effort": 2}


def test_a_question_without_an_answer_leaves_no_turn(engine):
    endless = Conversation(Reflective(Listening([Scripted("never.\n\n", endless=True)])), {"max_tokens": 5})
    for _ in endless.ask("why?"):
        pass
    assert endless.turns == [] and endless.solution is not None


def test_retry_asks_the_same_question_with_the_next_seed(ask, engine):
    _, out, _ = ask("one?", "/retry", options=("--effort", "1", "--json"))
    assert [(json.loads(line)["problem"], json.loads(line)["seed"]) for line in out.splitlines()] == [
        ("one?", 0),
        ("one?", 1),
    ]
    assert engine.asked[-1] == [("user", "one?")]


@pytest.mark.parametrize("cuts", [[], [3], [5, 7, 9], list(range(1, 20))])
def test_an_answer_is_written_without_the_mark_that_ends_it(capsys, cuts):
    text = "It is 4 <|x <|end|>"
    shown = AnswerStream(["<|end|>", ""])
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        shown.add(text[start:end])
    shown.close()
    assert capsys.readouterr().out == "It is 4 <|x \n"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals here")
def test_in_a_terminal_rows_answers_and_history_are_there(tmp_path):
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "REFLECTIVE_CACHE": str(tmp_path), "COLUMNS": "100"}
    command = [sys.executable, "-m", "reflective", "chat", "--effort", "32"]  # long enough for rows to be drawn
    process = subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, env=environment)
    os.close(follower)
    question = "Find the Least Common Multiple (LCM) of these numbers: 14, 20"
    seen, past, until = bytearray(), 0, time.monotonic() + 120
    prompt = "you ▸ ".encode()

    def wait_for(text):
        """Read on until the text comes after the one before it."""
        nonlocal past
        while seen.find(text, past) < 0:
            assert select.select([leader], [], [], max(0.0, until - time.monotonic()))[0], bytes(seen[past:])
            seen.extend(os.read(leader, 65536))
        past = seen.find(text, past) + len(text)

    try:
        # a key counts only once the prompt is there: Ctrl-D in between would be a zero byte in the line
        wait_for(prompt)
        os.write(leader, question.encode() + b"\n")
        wait_for(b"confidence")
        wait_for(prompt)
        os.write(leader, b"/effort 1\n")
        wait_for(b"effort: 1")
        wait_for(prompt)
        os.write(leader, b"\x04")
        assert process.wait(30) == 0
    finally:
        process.kill()
        os.close(leader)
    assert b"\\boxed{140}" in seen and any(bar.encode() in seen for bar in "▁▂▃▄▅▆▇█")  # which ones is the clock's
    assert question in (tmp_path / "chat_history").read_text()
