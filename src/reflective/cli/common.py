"""What several commands share: arguments of the model and the sampling, reading a problem, printing JSON."""

from __future__ import annotations

import argparse
import atexit
import gc
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from reflective.errors import InputError

if TYPE_CHECKING:
    from reflective.api import Options


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
        help="torch (the embedded engine), vllm, or the addresses of vLLM servers with commas between them, such as "
        "http://a:8000/v1,http://b:8000/v1 (API key: REFLECTIVE_API_KEY)",
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
    """--seed, --temperature, --top-p, --top-k, --min-p, --max-tokens, --answer-tokens, --system."""
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
    group.add_argument("--system", metavar="TEXT", help="a system message")


def solving_options(args: argparse.Namespace) -> Options:
    """What `Reflective.solve` is asked for: the budget, the strategy and the sampling."""
    return {
        "effort": args.effort,
        "strategy": args.strategy,
        "answers": args.answers,
        "seed": args.seed,
        "temperature": args.temperature,
        "top_p": args.top_p,
        "top_k": args.top_k,
        "min_p": args.min_p,
        "max_tokens": args.max_tokens,
        "answer_tokens": args.answer_tokens,
        "system": args.system,
    }


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


def load_model(args: argparse.Namespace, *, require_head: bool = False, **engine_options: Any) -> Any:
    """The `Reflective` that the arguments ask for; a remark of its engine goes to stderr.

    `engine_options` are the engine's own.
    """
    import warnings

    warnings.simplefilter("ignore")
    announce_conversion(args.model)
    with _collector_resting():
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


def announce_conversion(model: str) -> None:
    """Say on stderr that a GGUF file will be converted, which takes a while, and where to."""
    from pathlib import Path

    path = Path(model).expanduser()
    if path.suffix != ".gguf" or not path.is_file():
        return
    from reflective.models.gguf import cached_folder, is_converted

    if not is_converted(path):
        say(f"note: making a model folder of {path.name}, once, in {cached_folder(path)}; this takes a minute or two")


def read_problem(argument: str) -> str:
    """The argument, or standard input for "-"."""
    if argument != "-":
        return argument
    data = sys.stdin.buffer.read() if hasattr(sys.stdin, "buffer") else sys.stdin.read().encode()
    try:
        return data.decode("utf-8").rstrip("\r\n")  # what echo adds is not part of the problem
    except UnicodeDecodeError as error:
        raise InputError(f"standard input is not UTF-8 text (byte {error.start + 1}). Convert it first.") from error


def option_names(note: str) -> str:
    """A note of the library's as the command line says it: options by their names here."""
    for name in ("max_tokens", "answer_tokens"):
        note = note.replace(name, f"--{name.replace('_', '-')}")
    return note


def print_json(data: Any, *, indent: int | None = None) -> None:
    """One JSON value on stdout; JSON has no NaN and no infinity, so these are null."""
    from reflective.records import finite

    print(json.dumps(finite(data), ensure_ascii=False, indent=indent, allow_nan=False))


def say(message: str) -> None:
    """A message for the human, on stderr."""
    print(message, file=sys.stderr)
