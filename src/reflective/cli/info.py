"""`reflective info`: what a model is, where its reasoning and its steps lie, and which head scores them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from reflective.cli import DONE
from reflective.cli.common import add_head_arguments, announce_conversion, print_json
from reflective.engines.text import STEP_END
from reflective.errors import InputError

DESCRIPTION = """\
Say what a model is: its size, where its reasoning lies, which tokens end a step, and its head, if it has one. Weights
that are here are compared with the fingerprint of the head. With --show it also writes one response to a prompt, and
marks where its steps end."""
EXAMPLES = """\
examples:
  reflective info nano
  reflective info path/to/model --head path/to/head
  reflective info path/to/model --json
  reflective info path/to/model --show "A train covers 180 km in 2 hours. How far does it go in 5 hours?"
"""
SHOWN_TOKENS = 512  # of the response that --show writes
SHOWN = 5  # tokens of a list that a reader gets to see; --json has all


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("model", nargs="?", default="nano", help="nano (default), a folder, a GGUF file or a hub id")
    add_head_arguments(parser)
    parser.add_argument("--show", metavar="PROMPT", help="write a response to this prompt, with its steps marked")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="of that response (default: 512)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, with all step tokens")


def run(args: argparse.Namespace) -> int:
    """Describe and print."""
    from reflective.models import describe

    announce_conversion(args.model)
    if args.max_tokens is not None and args.show is None:
        raise InputError("--max-tokens has a meaning with --show only; leave it out.")
    data = describe(args.model, head=args.head, deviation=not args.head_anyway)
    if args.show is not None:
        data["response"] = _response(args)
    if args.json:
        print_json(data)
        return DONE
    rows = list(_rows(data))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
    if args.show is not None:
        _show(data["response"])
    return DONE


def _response(args: argparse.Namespace) -> dict[str, Any]:
    """One response of the model, and its steps."""
    from reflective.api import Reflective
    from reflective.engines.text import marked_steps, steps_of_text

    with Reflective.from_pretrained(args.model, head=args.head, check_fingerprint=not args.head_anyway) as model:
        limit = SHOWN_TOKENS if args.max_tokens is None else args.max_tokens
        (trajectory,) = model.solve(args.show, strategy="single", max_tokens=limit).trajectories
        return {
            "prompt": args.show,
            "tokens": trajectory.tokens,
            "finished": trajectory.finished,
            "steps": steps_of_text(model.engine, trajectory.token_ids)[0],
            "marked": marked_steps(model.engine, trajectory.token_ids),
            "limit": limit,
        }


def _show(response: dict[str, Any]) -> None:
    count, cut = len(response["steps"]), ""
    if not response["finished"]:
        cut = f"; cut after {response['limit']:,} tokens, allow more with --max-tokens"
    steps = f"{count} step{'' if count == 1 else 's'}, each ending at{STEP_END}" if count else "no step in it"
    print(f"\na response of {response['tokens']:,} tokens, {steps}{cut}:\n\n{response['marked'].strip()}")


def _rows(data: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and value of each line."""
    for name in ("name", "folder", "architecture"):
        yield name, str(data[name])
    parameters = data["parameters"]
    yield "parameters", _number(parameters["backbone"])
    for name in ("layers", "hidden_size", "vocabulary", "context_length", "dtype", "size_bytes"):
        yield name.replace("_", " "), _number(data[name])
    yield "chat template", "yes" if data["chat_template"] else "none: a base model, given problems as plain text"
    yield from _format_rows(data["format"])
    if data["head"] is None:
        yield "head", "none (train one with: reflective train head; look for one with: reflective heads)"
    else:
        yield from _head_rows(data["head"], parameters["head"])


def _format_rows(format: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if format["opening"] is None:
        yield "reasoning", "the whole response"
        yield "ends of the response", _tokens(format["ends"])
    else:
        which = {"first": "", "last": ", the last one"}[format["closes"]]
        yield "reasoning", f"between {format['opening']} and {format['closing']}{which}"
    steps = _tokens(format["step_tokens"])
    if format["blank_lines_of_newlines"]:
        steps += ("; " if format["step_tokens"] else "") + "the second of two newline tokens"
    yield "step tokens", steps
    if format["template_kwargs"]:
        yield "chat template is given", _pairs(format["template_kwargs"])


def _head_rows(head: dict[str, Any], parameters: int) -> Iterator[tuple[str, str]]:
    yield "head", f"{head['kind']}, {parameters:,} parameters, in {head['folder']}"
    if head["shipped"]:
        yield "head comes with", f"reflective ({head['shipped']})"
    position = head["feature_position"]
    where = "mean over each step" if position == "mean" else f"{position} the step token"
    yield "head reads", f"the input of layer {head['input_of_layer']}, {where}"
    yield "head aggregates by", head["aggregation"]
    if head["logprob_features"]:
        yield "head adds", f"log-probabilities, with exponent {head['probability_exponent']:g}"
    if head["sampling"]:
        yield "head was trained at", _pairs(head["sampling"])
    yield "head calibration", ", ".join(sorted((head["calibration"] or {}).get("plain", {}))) or "none"
    yield "head schedule", _schedule(head["schedule"])
    yield "head fingerprint", _fingerprint(head["fingerprint"])
    for name, value in head["provenance"].items():
        if isinstance(value, str | int | float):
            yield f"head {name.replace('_', ' ')}", _number(value)


def _schedule(found: dict[str, Any] | None) -> str:
    if found is None:
        return "none: effort auto stops by agreement, at no stated risk (fit one with: reflective calibrate)"
    limits = ", ".join(f"{limit['risk']:g} at {limit['tokens']:.0%}".replace("%", " %") for limit in found["limits"])
    return f"risk of effort auto and its tokens, against {found['k']} trajectories: {limits}"


def _fingerprint(found: dict[str, Any] | None) -> str:
    if found is None:
        return "none: not checked"
    if found["reason"]:
        return str(found["reason"])
    if found["deviation"] is None:
        return "shapes and vocabulary fit; the weights were not compared"
    return f"fits: deviation {found['deviation']:.3f} of at most {found['limit']}"


def _tokens(tokens: list[dict[str, Any]]) -> str:
    """How many there are, and the first of them."""
    shown = ", ".join(f"{token['id']} {token['text']!r}" for token in tokens[:SHOWN])
    if len(tokens) <= SHOWN:
        return shown
    return f"{len(tokens):,}: {shown}, … (all with --json)"


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _number(value: Any) -> str:
    if value is None:
        return "unknown"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
