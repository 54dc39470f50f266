"""`reflective score`: step scores of responses that somebody else wrote, a JSON line each."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import IO, Any

from reflective.cli import DONE, FAILED, one_line
from reflective.cli.common import add_model_arguments, load_model, print_json, say
from reflective.errors import InputError, ReflectiveError

DESCRIPTION = """\
Score the steps of given responses. Each line of FILE is a JSON object with the prompt as "prompt" (raw text),
"messages" (for the chat template) or "prompt_ids", and the response as "response" or "response_ids", just as the model
would have written it (nano begins with a line break). Out comes a JSON
line each: step_positions (in the response's tokens), step_scores and score, with the line's number and id.
A broken line is reported on stderr, the rest is done, and the exit code is 1."""
EXAMPLES = """\
examples:
  printf %s '{"messages": [{"role": "user", "content": "What is 2 + 3?"}], "response": "2 + 3 = 5.\\n\\n</think>5"}' \\
    | reflective score -
  reflective score responses.jsonl --model nano > scores.jsonl
"""

KEYS = ("prompt", "messages", "prompt_ids", "response", "response_ids")


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("file", metavar="FILE.jsonl", help="a JSON object a line, or - for standard input")
    parser.add_argument("--json", action="store_true", help="the output is JSON lines in any case")
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Score line by line."""
    broken = 0
    with _open(args.file) as file:
        model = load_model(args)
        for number, line in _lines(file):
            try:
                data = _parse(line)
                scored = model.score(**{key: data[key] for key in KEYS if key in data})
            except (ReflectiveError, ValueError) as error:
                broken += 1
                say(f"{args.file}:{number}: {one_line(error)}")
            else:
                given = {"id": data["id"]} if "id" in data else {}
                print_json({"line": number, **given, **scored.to_json()})
    if broken:
        say(f"reflective: {broken} {'line' if broken == 1 else 'lines'} could not be scored")
    return FAILED if broken else DONE


def _open(path: str) -> IO[bytes]:
    try:
        return open(sys.stdin.fileno() if path == "-" else path, "rb", closefd=path != "-")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}.") from error


def _lines(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(file, 1):
        if line.strip():
            yield number, line


def _parse(line: bytes) -> dict[str, Any]:
    try:
        data = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise InputError("not UTF-8 text.") from None
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error.msg} at column {error.colno}.") from None
    except RecursionError:
        raise InputError("not usable JSON: nested too deeply.") from None
    if not isinstance(data, dict):
        raise InputError(f"a JSON object is expected, got {type(data).__name__}.")
    return data
