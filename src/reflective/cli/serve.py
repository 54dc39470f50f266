"""`reflective serve`: a model behind the OpenAI API, and a page that shows it at work."""

from __future__ import annotations

import argparse

from reflective.cli import DONE
from reflective.cli.common import add_model_arguments, load_model, say

DESCRIPTION = """\
Serve a model behind the OpenAI API (/v1/chat/completions and others), with a page at / that shows trajectories being
scored while they are written. Every request shares one engine."""
EXAMPLES = """\
examples:
  reflective serve --model nano
  reflective serve --model path/to/model --port 8080 --effort high
  reflective serve --engine http://a:8000/v1,http://b:8000/v1 --model path/to/model
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    group = parser.add_argument_group("server")
    group.add_argument("--host", default="127.0.0.1", metavar="H", help="the address to listen at (default: 127.0.0.1)")
    group.add_argument("--port", type=int, default=8000, metavar="N", help="the port (default: 8000)")
    group.add_argument("--name", metavar="NAME", help="the model's name for clients (default: that of its folder)")
    group.add_argument(
        "--effort",
        default="medium",
        metavar="E",
        help="of requests that name none: low, medium (default), high or a number",
    )
    group.add_argument(
        "--max-effort", type=int, default=64, metavar="N", help="the highest effort of a request (default: 64)"
    )
    group.add_argument("--queue", type=int, default=1024, metavar="N", help="requests that may wait (default: 1024)")
    group.add_argument(
        "--time-limit", type=float, default=600.0, metavar="S", help="seconds of a request (default: 600)"
    )
    group.add_argument("--keys", metavar="FILE", help="API keys with their limits (also: REFLECTIVE_SERVER_KEYS)")
    group.add_argument(
        "--without-keys", action="store_true", help="serve at an address that others reach although there are no keys"
    )
    group.add_argument(
        "--allow-host", action="append", default=[], metavar="H", help="a name that clients may call this server by"
    )
    group.add_argument(
        "--reasoning-field",
        choices=("both", "reasoning", "reasoning_content", "none"),
        default="both",
        help="the name of the reasoning in a message",
    )
    group.add_argument(
        "--max-rows", type=int, metavar="N", help="trajectories that are written at once (default: the engine's)"
    )
    group.add_argument(
        "--feedback",
        metavar="PLACE",
        help="keep answers, and take verdicts on them, in this SQLite file or at this postgresql:// URL (default: off)",
    )
    group.add_argument(
        "--retention-days", type=float, default=30.0, metavar="N", help="how long answers are kept (default: 30)"
    )
    group.add_argument("--log-prompts", action="store_true", help="write what is asked to the log, too (default: off)")
    add_model_arguments(parser)


REASONING = {"both": ("reasoning", "reasoning_content"), "none": ()}


def run(args: argparse.Namespace) -> int:
    """Load, listen, serve."""
    from reflective.serve.keys import read_keys
    from reflective.serve.process import check_binding, serve
    from reflective.serve.service import ServeSettings

    settings = ServeSettings(
        host=args.host,
        port=args.port,
        effort=args.effort,
        max_effort=args.max_effort,
        name=args.name,
        hosts=tuple(args.allow_host),
        queue=args.queue,
        time_limit_s=args.time_limit,
        feedback=args.feedback,
        retention_days=args.retention_days,
        log_prompts=args.log_prompts,
        reasoning_fields=REASONING.get(args.reasoning_field, (args.reasoning_field,)),
    )
    keys = read_keys(args.keys)
    check_binding(settings, keys, insist=args.without_keys)
    if args.feedback is not None:
        say(f"note: questions and answers are kept for {args.retention_days:g} days, for /v1/feedback")
    options = {} if args.max_rows is None else {"max_rows": args.max_rows}
    model = load_model(args, **options)
    serve(model, settings, keys, lambda: say(f"serving {model.engine.name} at http://{args.host}:{args.port}"))
    return DONE
