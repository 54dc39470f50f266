"""The command line. One file a command; a command's file is imported when that command runs.

Results go to stdout, progress and messages to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by
Ctrl-C. An error is one line that says what to do; REFLECTIVE_DEBUG=1 adds the traceback.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, NoReturn

from reflective import __version__

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

COMMANDS: Mapping[str, tuple[str, str]] = {
    "solve": ("reflective.cli.solve", "solve a problem: write, score and select"),
    "chat": ("reflective.cli.chat", "ask in turns, with what was said before"),
    "score": ("reflective.cli.score", "score the steps of given responses"),
    "serve": ("reflective.cli.serve", "serve a model behind the OpenAI API, with a page"),
    "info": ("reflective.cli.info", "say what a model and its head are"),
    "heads": ("reflective.cli.heads", "list the heads that come with the package"),
    "import": ("reflective.cli.import_", "make a model folder of a GGUF file or of a checkpoint of the reference"),
    "tasks": ("reflective.cli.tasks", "list, show, sample and check problem sets"),
    "train": ("reflective.cli.train", "train a small model, or a head for your own"),
    "eval": ("reflective.cli.eval", "run a benchmark: sample, score, grade and record"),
    "eval merge": ("reflective.cli.eval_merge", "join the shards of a run"),
    "eval regrade": ("reflective.cli.eval_regrade", "grade the answers of a run again"),
    "eval import": ("reflective.cli.eval_import", "turn generations and scores of others into a run"),
    "eval export": ("reflective.cli.eval_export", "write a run in the formats of others"),
    "plan serve": ("reflective.cli.plan_serve", "estimate what serving takes: replicas, delay, cost"),
    "calibrate": ("reflective.cli.calibrate", "fit when --effort auto stops, under a stated risk"),
    "report": ("reflective.cli.report", "show runs: a page, Markdown, plots, figures"),
}

DESCRIPTION = "Reasoning that scores its own steps: one pass that writes, scores and selects."
EXAMPLES = """\
examples:
  reflective solve "Find the Least Common Multiple (LCM) of these numbers: 14, 20" --effort high
  reflective solve "Find the Least Common Multiple (LCM) of these numbers: 14, 20" --json
  reflective info nano

'reflective COMMAND --help' tells more. REFLECTIVE_DEBUG=1 shows tracebacks.
"""


class Parser(argparse.ArgumentParser):
    """argparse, with errors in one line. `words` are those of the command line, for what an error offers instead."""

    words: Sequence[str] = ()

    def __init__(self, *names: Any, **options: Any) -> None:
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(*names, **{"allow_abbrev": False, "formatter_class": formatter, **options})

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {one_line(message)}{self._hint(message)}. See: {self.prog} --help\n")

    def _hint(self, message: str) -> str:
        """The nearest option or choice, where one that is not known was given."""
        from reflective.settings import did_you_mean

        invalid = r"invalid choice: '(.*?)' \(choose from (.*)\)"
        unknown = re.search(r"unrecognized arguments:.*?(--[\w-]+)|" + invalid, message)
        if unknown is None:
            return ""
        option, choice, choices = unknown.groups()
        known = self._options(self.words) if option else [name.strip("'") for name in choices.split(", ")]
        if option in known:
            return "; options stand behind the command and before --"
        return did_you_mean(option or choice, known).rstrip("?").replace(" Did you mean", "; did you mean")

    def _options(self, words: Sequence[str]) -> list[str]:
        """The names of the options, those of the asked command and action among them."""
        found = list(self._option_string_actions)
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                for parser in (parser for name, parser in action.choices.items() if name in words):
                    found += parser._options(words)
        return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    arguments = join_command(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # an answer in any script, on any terminal

    def work() -> int:
        parser, command = _parser(arguments)
        parser.words = arguments
        parsed = parser.parse_args(arguments)
        if command is None:
            parser.print_help()
            return USAGE
        for name in ("output", "file", "plots", "work"):
            if getattr(parsed, name, None) == "":
                parser.error(f"{name} is an empty name")
        return int(command.run(parsed))

    return exit_code(work)


def exit_code(work: Callable[[], int | None]) -> int:
    """Run a command or a script and return its exit code (0 for None); an error is reported in one line."""
    try:
        code = work() or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return FAILED
    except KeyboardInterrupt:
        return _fail("stopped", INTERRUPTED)
    except Exception as error:
        if os.environ.get("REFLECTIVE_DEBUG") == "1":
            raise
        return _explain(error)


def one_line(message: object) -> str:
    """A message without line breaks."""
    return " ".join(str(message).split())


def option_names(message: object) -> str:
    """A note or an error of the library's as the command line says it: options by their names here."""
    words = str(message)
    for name in ("max_tokens", "answer_tokens", "strategy majority"):
        words = words.replace(name, f"--{name.replace('_', '-')}")
    return words


def join_command(words: Sequence[str]) -> list[str]:
    """The words of a command line, with a command of two words ("eval merge") as one."""
    command = " ".join(words[:2])
    return [command, *words[2:]] if " " in command and command in COMMANDS else list(words)


def _parser(arguments: Sequence[str]) -> tuple[Parser, ModuleType | None]:
    """The parser, in which only the command that is asked for has its arguments; and that command's module."""
    parser = Parser(prog="reflective", description=DESCRIPTION, epilog=EXAMPLES)
    parser.add_argument("--version", action="version", version=f"reflective {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    asked = next((word for word in arguments if not word.startswith("-")), None)
    module = None
    for name, (home, summary) in COMMANDS.items():
        if name == asked:
            module = importlib.import_module(home)
            sub = commands.add_parser(name, help=summary, description=module.DESCRIPTION, epilog=module.EXAMPLES)
            module.configure(sub)
        else:
            commands.add_parser(name, help=summary, add_help=False)
    return parser, module


def _explain(error: Exception) -> int:
    """One line on stderr and the exit code."""
    from reflective.errors import InputError, ReflectiveError

    if isinstance(error, InputError):
        return _fail(error, USAGE)
    if isinstance(error, ReflectiveError):
        return _fail(option_names(error), FAILED)
    if isinstance(error, MemoryError):
        return _fail("out of memory. Use a smaller model or a lower --effort", FAILED)
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror}", FAILED)
    return _fail(f"unexpected {type(error).__name__}: {error} (REFLECTIVE_DEBUG=1 shows the traceback)", FAILED)


def _fail(message: object, code: int) -> int:
    print(f"reflective: {one_line(message)}", file=sys.stderr)
    return code
