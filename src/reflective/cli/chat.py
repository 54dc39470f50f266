"""`reflective chat`: questions in turns, live rows while trajectories are written, answers as they are written."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from reflective.cli import DONE, one_line, option_names
from reflective.cli.common import (
    add_model_arguments,
    add_sampling_arguments,
    add_strategy_options,
    load_model,
    print_json,
    say,
    solving_options,
)
from reflective.errors import InputError

if TYPE_CHECKING:
    from reflective.cli.conversation import Conversation
    from reflective.cli.live import AnswerStream
    from reflective.types import Solution

DESCRIPTION = """\
Ask in turns. Each question is answered from several scored trajectories, with the earlier questions and answers before
it. In a terminal, rows show the trajectories while they are written, and /help lists the commands; piped, each line of
standard input is a question, and each answer goes to standard output. Ctrl-C answers from what is there."""
EXAMPLES = """\
examples:
  reflective chat --model path/to/model --effort low
  reflective chat --model path/to/model --engine http://localhost:8000/v1 --system "Answer in one sentence."
  echo "Find the Least Common Multiple (LCM) of these numbers: 14, 20" | reflective chat --json
"""
PROMPT = "\001\033[1m\002you ▸ \001\033[0m\002"  # the marks tell readline what takes no room
MORE = "  … "
KEPT_LINES = 1_000  # of the history file


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "--effort",
        default="medium",
        metavar="E",
        help="low (2), medium (8), high (32), a number of trajectories, or auto",
    )
    parser.add_argument("--strategy", default="auto", metavar="S", help="as for reflective solve")
    add_strategy_options(parser)
    parser.set_defaults(answers="selected")
    parser.add_argument("--json", action="store_true", help="print one JSON object per answer, with every trajectory")
    parser.add_argument("-q", "--quiet", action="store_true", help="no rows and no remarks, only answers")
    add_sampling_arguments(parser)
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Ask until the input ends."""
    from reflective.cli.conversation import Conversation, Quit
    from reflective.errors import ReflectiveError
    from reflective.options import plan

    options = solving_options(args)
    plan(options)  # what can't work is refused before a model is loaded
    system = options.pop("system", None)
    conversation = Conversation(load_model(args), options, system)
    human = sys.stdin.isatty() and not args.json
    if human:
        _remember_lines()
        say(f"{conversation.model.engine.name}. /help lists the commands, Ctrl-D leaves.")
    for line in _lines(human):
        try:
            if line.startswith("/") and line.split()[0] == "/retry":
                _turn(conversation, conversation.last_question(), args)
            elif line.startswith("/"):
                say(conversation.command(line))
            else:
                _turn(conversation, line, args)
        except Quit:
            break
        except (ReflectiveError, OSError) as error:
            if not human:
                raise
            say(f"reflective: {one_line(error)}")
    return DONE


def _lines(human: bool) -> Iterator[str]:
    """Questions and commands; a line that ends with a backslash goes on in the next one."""
    parts: list[str] = []
    while True:
        try:
            line = input((MORE if parts else PROMPT) if human else "")
        except UnicodeDecodeError as error:
            raise InputError("standard input is not UTF-8 text. Convert it first.") from error
        except EOFError:
            if human:
                say("")
            line, ended = "", True
        except KeyboardInterrupt:
            if not human:
                raise
            say("")
            parts.clear()
            continue
        else:
            ended = False
        if line.endswith("\\") and not ended:
            parts.append(line[:-1])
            continue
        question = "\n".join([*parts, line]).strip()
        parts.clear()
        if question:
            yield question
        if ended:
            return


def _turn(conversation: Conversation, question: str, args: argparse.Namespace) -> None:
    """One question and its answer."""
    from reflective.cli.live import AnswerStream, LiveRows
    from reflective.search import Answering, Interrupts, Solved, Text

    engine = conversation.model.engine
    shown = AnswerStream([engine.decode([end]) for end in engine.end_ids])
    writing: int | None = None
    with Interrupts() as interrupts, contextlib.ExitStack() as rows:
        watch = not args.quiet and not args.json and sys.stderr.isatty()
        show = rows.enter_context(LiveRows()) if watch else lambda event: None
        for event in conversation.ask(question, interrupts):
            if isinstance(event, Text) and event.id == writing and not args.json:
                shown.add(event.delta)
            elif writing is None:
                show(event)
            if isinstance(event, Answering) and writing is None:
                writing = event.id
                rows.close()
            if isinstance(event, Solved):
                solution = event.solution
    _report(solution, conversation, shown, args)


def _report(solution: Solution, conversation: Conversation, shown: AnswerStream, args: argparse.Namespace) -> None:
    """What is left to say: the answer where it was not written yet, and what it rests on."""
    from reflective.render import cost, percent

    if args.json:
        print_json(solution.to_json())
        sys.stdout.flush()
        return
    if not shown.written:
        shown.add(conversation.answer_text or "(no answer)")
    shown.close()
    if not args.quiet:
        say(f"confidence {percent(solution.confidence)} · {cost(solution)}")
        for note in solution.notes:
            say(f"note: {option_names(note)}")


def _remember_lines() -> None:
    """Lines of earlier conversations for the arrow keys, kept in the user's cache folder."""
    try:
        import readline
    except ImportError:  # not on this system
        return
    from reflective.files import cache_folder

    file: Path = cache_folder() / "chat_history"
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        readline.read_history_file(file)
    readline.set_history_length(KEPT_LINES)

    def keep() -> None:
        with contextlib.suppress(OSError):
            readline.write_history_file(file)
            file.chmod(0o600)

    atexit.register(keep)
