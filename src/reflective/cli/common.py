"""What several commands share: arguments of the model and the sampling, reading a problem, printing JSON."""

from __future__ import annotations

import argparse
import atexit
import gc
import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from reflective.errors import InputError

if TYPE_CHECKING:
    from reflective.options import Options
    from reflective.types import Problem


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """--model, --head, --head-anyway, --engine, --device, --dtype, --threads."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        default="nano",
        metavar="NAME",
        help="nano (comes with the package), a folder, a GGUF file or a hub id",
    )
    add_head_arguments(group)
    group.add_argument(
        "--engine",
        default="torch",
        metavar="E",
        help="torch (the embedded engine), vllm, llamacpp (GGUF files), or the addresses of vLLM servers with commas "
        "between them, such as http://a:8000/v1,http://b:8000/v1 (API key: REFLECTIVE_API_KEY); also of llama.cpp, "
        "Ollama, LM Studio or SGLang, without scores",
    )
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    group.add_argument("--dtype", default="auto", help="auto, float32, bfloat16, float16; on a CPU also int8, int4")
    group.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all cores)")


def add_head_arguments(group: Any) -> None:
    """--head, --head-anyway, of a parser or a group of its arguments."""
    group.add_argument(
        "--head",
        metavar="PATH",
        help="the folder of a head that lies elsewhere; none leaves the model's own out (default: the model's own, or "
        "one that comes with the package: reflective heads)",
    )
    group.add_argument(
        "--head-anyway", action="store_true", help="use the head although its fingerprint is of another model"
    )


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """--seed, --temperature, --top-p, --top-k, --min-p, --max-tokens, --answer-tokens, --system, --stop."""
    group = parser.add_argument_group("sampling")
    group.add_argument("--seed", type=int, default=0, metavar="N", help="same seed, same machine: same output")
    own = "default: as the head was trained with, or as the model's generation_config says, or"
    group.add_argument("--temperature", type=float, metavar="T", help=f"0 is greedy ({own} 1)")
    group.add_argument("--top-p", type=float, metavar="P", help="keep the likeliest tokens of mass P (likewise, or 1)")
    group.add_argument("--top-k", type=int, metavar="K", help="keep the K likeliest tokens; 0 is off (likewise, or 0)")
    group.add_argument("--min-p", type=float, metavar="P", help="drop tokens below P times the likeliest (likewise)")
    group.add_argument("--max-tokens", type=int, metavar="N", help="of the reasoning (default: 4096, or the context)")
    group.add_argument(
        "--answer-tokens", type=int, default=512, metavar="N", help="of the answer behind the reasoning (default: 512)"
    )
    group.add_argument(
        "--max-total-tokens", type=int, metavar="N", help="of all trajectories of a problem together, answers included"
    )
    group.add_argument(
        "--deadline", type=float, metavar="SECONDS", help="of a problem: answer with the best that is there by then"
    )
    group.add_argument("--system", metavar="TEXT", help="a system message")
    group.add_argument(
        "--stop", action="append", metavar="TEXT", help="ends the answer where it is written; may be given repeatedly"
    )
    group.add_argument(
        "--stop-token-id",
        action="append",
        type=int,
        metavar="ID",
        help="ends the response, beside the model's own end tokens; may be given repeatedly",
    )


def add_strategy_options(parser: argparse.ArgumentParser) -> None:
    """--strategy-option and --risk."""
    parser.add_argument(
        "--risk",
        type=float,
        metavar="R",
        help="of --effort auto: the share of right answers that it may lose against high (default: 0.01, or the "
        "smallest that was certified)",
    )
    parser.add_argument(
        "--strategy-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the strategy, such as width=2 of beam; may be given several times (docs/search.md)",
    )


def add_problem_arguments(parser: argparse.ArgumentParser, *, seed: str | None = None) -> None:
    """What `load_problems` may be asked for beside a name; `seed` names the option that says what is drawn."""
    group = parser.add_argument_group("problems")
    group.add_argument("--file", metavar="FILE", help="read a benchmark from this file instead of the hub")
    group.add_argument("--revision", metavar="R", help="of a benchmark or a data set on the hub")
    group.add_argument(
        "--split", choices=("train", "validation", "test"), help="of a family, or of a set on the hub (default: test)"
    )
    group.add_argument(
        "--levels", type=int, nargs="+", metavar="L", help="of families (default: 1 2 3) and of math500 (default: all)"
    )
    if seed is not None:
        group.add_argument(seed, type=int, default=0, metavar="N", help="which problems are drawn, where any are")
    group.add_argument("--since", metavar="DAY", help="LiveCodeBench: from this day on, such as 2024-08-01")
    group.add_argument("--until", metavar="DAY", help="LiveCodeBench: up to this day")
    group.add_argument(
        "--subjects",
        "--subject",
        action="extend",
        nargs="+",
        metavar="S",
        help="of a benchmark that has subjects: these only",
    )
    add_row_arguments(parser)


def add_row_arguments(parser: argparse.ArgumentParser) -> None:
    """--fields, --kind, --prompt, --like, --skip-bad: how rows of a file become problems."""
    group = parser.add_argument_group("rows of a file or of a data set on the hub")
    group.add_argument(
        "--fields",
        "--field",
        action="extend",
        nargs="+",
        metavar="OURS=THEIRS",
        help="which field holds what, such as question=q answer=reward_model.ground_truth (default: the usual names)",
    )
    group.add_argument("--kind", metavar="K", help="who grades the answers: math (default), choice, exact, list, ...")
    group.add_argument("--prompt", metavar="TEXT", help="with {problem} in it: what is asked around every question")
    group.add_argument("--like", metavar="NAME", help="ask and grade as this benchmark does, such as gsm8k")
    group.add_argument(
        "--skip-bad", action="store_true", default=None, help="leave out rows that can't be read, with a note"
    )


def field_mapping(pairs: Sequence[str] | None) -> dict[str, str]:
    """OURS=THEIRS pairs, also several with commas between them, as a dictionary."""
    found = {}
    for pair in (part for given in pairs or () for part in re.split(r",(?=\w+=)", given)):
        ours, sign, theirs = pair.partition("=")
        if not sign or not ours or not theirs:
            raise InputError(f"{pair!r} is no pair of fields; write it as NAME=PATH, for example problem=question.")
        found[ours] = theirs
    return found


ROW_OPTIONS = ("kind", "prompt", "like")
SOURCE_OPTIONS = ("file", "revision", "split", "levels", "since", "until", *ROW_OPTIONS)


def problem_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `load_problems` that are given."""
    names = SOURCE_OPTIONS if hasattr(args, "revision") else ROW_OPTIONS
    given = {name: getattr(args, name) for name in names}
    given |= {"fields": field_mapping(args.fields), "subjects": getattr(args, "subjects", None)}
    return {name: value for name, value in given.items() if value}


def load_named_problems(args: argparse.Namespace, source: str, **options: Any) -> list[Problem]:
    """The problems of a source under the arguments; with --skip-bad, skipped lines are reported on stderr."""
    from reflective.tasks import load_problems

    skipped: list[str] | None = [] if args.skip_bad else None
    problems = load_problems(source, skipped=skipped, **problem_options(args), **options)
    for fault in skipped or ():
        say(f"left out: {fault}")
    return problems


def solving_options(args: argparse.Namespace) -> Options:
    """What `Reflective.solve` is asked for: the budget, the strategy and the sampling."""
    return {
        "effort": args.effort,
        "risk": args.risk,
        "max_total_tokens": args.max_total_tokens,
        "deadline": args.deadline,
        "strategy": args.strategy,
        "strategy_options": _named_values(args.strategy_option),
        "answers": args.answers,
        "seed": args.seed,
        "temperature": args.temperature,
        "top_p": args.top_p,
        "top_k": args.top_k,
        "min_p": args.min_p,
        "max_tokens": args.max_tokens,
        "answer_tokens": args.answer_tokens,
        "system": args.system,
        "stop": args.stop or (),
        "stop_token_ids": args.stop_token_id or (),
    }


def _named_values(pairs: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE pairs as a dictionary."""
    found = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name:
            raise InputError(f"{pair!r} is no option of a strategy; write it as NAME=VALUE, for example width=2.")
        found[name] = value
    return found


@contextmanager
def _collector_resting() -> Iterator[None]:
    """No garbage collection inside: importing makes a million objects that stay, and looking through them again and
    again takes a fifth of the start. What is there at the end is not looked at until the process ends."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        atexit.register(gc.unfreeze)
        gc.enable()


@contextmanager
def _loading(model: str) -> Iterator[None]:
    """A line in a terminal while a model is loaded, which takes seconds; gone again when it is there."""
    shown = sys.stderr.isatty()
    if shown:
        print(f"loading {model} …", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        if shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def load_model(args: argparse.Namespace, *, require_head: bool = False, **engine_options: Any) -> Any:
    """The `Reflective` that the arguments ask for; a remark of its engine goes to stderr.

    `engine_options` are the engine's own.
    """
    import warnings

    warnings.simplefilter("ignore")
    announce_conversion(args.model, args.dtype, args.engine)
    with _collector_resting(), _loading(args.model):
        from reflective.api import Reflective

        model = Reflective.from_pretrained(
            args.model,
            engine=args.engine,
            device=args.device,
            dtype=args.dtype,
            threads=args.threads,
            require_head=require_head,
            head=args.head,
            check_fingerprint=not args.head_anyway,
            **engine_options,
        )
    if remark := model.engine.remark:
        say(f"note: {remark}")
    return model


def announce_conversion(model: str, dtype: str = "auto", engine: str = "torch") -> None:
    """Say on stderr that a GGUF file will be read for the first time, which takes a while, and where to.

    Raises `CheckpointError` where it can't be read.
    """
    from pathlib import Path

    path = Path(model).expanduser()
    if path.suffix != ".gguf" or not path.is_file():
        return
    from reflective.models.gguf import cached_folder, check_file, form_folder
    from reflective.models.stored import QUANTIZED

    as_it_is = dtype in QUANTIZED or engine == "llamacpp"
    folder = form_folder(path) if as_it_is else cached_folder(path)
    if not (folder / "config.json").is_file():
        check_file(path)
        say(f"note: making a model folder of {path.name}, once, in {folder}; this takes a minute or two")


def read_problem(argument: str) -> str:
    """The argument, or standard input for "-"."""
    if argument != "-":
        return argument
    data = sys.stdin.buffer.read() if hasattr(sys.stdin, "buffer") else sys.stdin.read().encode()
    try:
        return data.decode("utf-8").rstrip("\r\n")  # what echo adds is not part of the problem
    except UnicodeDecodeError as error:
        raise InputError(f"standard input is not UTF-8 text (byte {error.start + 1}). Convert it first.") from error


def print_json(data: Any, *, indent: int | None = None) -> None:
    """One JSON value on stdout; JSON has no NaN and no infinity, so these are null."""
    from reflective.records import finite

    print(json.dumps(finite(data), ensure_ascii=False, indent=indent, allow_nan=False))


def say(message: str) -> None:
    """A message for the human, on stderr."""
    print(message, file=sys.stderr)
