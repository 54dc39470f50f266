"""`reflective info`: what a model is, what its head reads, and which tokens end a step."""

from __future__ import annotations

import argparse
from typing import Any

from reflective.cli import DONE
from reflective.cli.common import print_json

DESCRIPTION = "Say what a model and its head are: parameters, the layer that is read, step tokens, calibration."
EXAMPLES = """\
examples:
  reflective info nano
  reflective info path/to/model --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("model", nargs="?", default="nano", help="nano (default), a folder or a hub id")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Describe and print."""
    from reflective.models import describe

    data = describe(args.model)
    if args.json:
        print_json(data)
    else:
        rows = _rows(data)
        width = max(len(name) for name, _ in rows)
        for name, value in rows:
            print(f"{name:<{width}}  {value}")
    return DONE


def _rows(data: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in data.items():
        name = f"{prefix}{key.replace('_', ' ')}"
        if isinstance(value, dict) and set(value) != {"id", "text"} and value:
            rows += _rows(value, f"{name} ")
        else:
            rows.append((name, _text(value)))
    return rows


def _text(value: Any) -> str:
    if value is None or value == {}:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return f"{value['id']} {value['text']!r}"
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return f"{value:,}" if isinstance(value, int) else str(value)
