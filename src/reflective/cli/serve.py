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
        "--effort", default="medium", metavar="E", help="of requests that name none: low, medium, high or a number"
    )
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Load, listen, serve."""
    from reflective.serve.process import serve
    from reflective.serve.service import ServeSettings

    settings = ServeSettings(host=args.host, port=args.port, effort=args.effort, name=args.name)
    model = load_model(args)
    say(f"serving {model.engine.name} at http://{args.host}:{args.port}")
    serve(model, settings)
    return DONE
