"""`reflective tasks`: the problem families: list them, show one problem, sample many."""

from __future__ import annotations

import argparse
import random
from typing import Any

from reflective.cli import DONE
from reflective.cli.common import print_json

DESCRIPTION = "The problem families that come with the package: endless problems in plain English with gold answers."
EXAMPLES = """\
examples:
  reflective tasks list
  reflective tasks show countdown --level 2 --trace
  reflective tasks sample gcd -n 5 --split test > problems.jsonl
  reflective tasks sample mixture -n 100 --levels 1 2 --split train > problems.jsonl
"""
MIXTURE = "mixture"


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    listing = actions.add_parser("list", help="name every family, with its levels")
    listing.add_argument("--json", action="store_true", help="print one JSON object")

    show = actions.add_parser("show", help="show one problem with its gold answer")
    show.add_argument("name", help="a family")
    show.add_argument("--index", type=int, default=0, metavar="I", help="which problem (default: 0)")
    show.add_argument("--level", type=int, default=2, metavar="L", help="difficulty (default: 2)")
    show.add_argument("--trace", action="store_true", help="with a written-out solution")
    _add_draw_arguments(show)

    sample = actions.add_parser("sample", help="print problems as JSON lines")
    sample.add_argument("name", help=f"a family, or {MIXTURE}: all of them in turn")
    sample.add_argument("-n", "--count", type=int, default=10, metavar="N", help="how many (default: 10)")
    sample.add_argument("--levels", type=int, nargs="+", default=[1, 2, 3], metavar="L", help="difficulties, in turn")
    _add_draw_arguments(sample)


def _add_draw_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--split", default="test", choices=("train", "validation", "test"), help="default: test")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """The action that is asked for."""
    {"list": _list, "show": _show, "sample": _sample}[args.action](args)
    return DONE


def _list(args: argparse.Namespace) -> None:
    from reflective.tasks import TASKS

    if args.json:
        print_json({name: {"description": t.description, "levels": dict(t.levels)} for name, t in TASKS.items()})
        return
    width = max(map(len, TASKS))
    for name, task in TASKS.items():
        print(f"{name:<{width}}  {task.description}")
        for level, what in task.levels.items():
            print(f"{'':<{width}}    level {level}: {what}")


def _show(args: argparse.Namespace) -> None:
    from reflective.tasks import get_task

    task = get_task(args.name)
    problem = task.problem(args.split, args.index, args.level, args.seed)
    trace = task.trace(problem, random.Random(args.seed)) if args.trace else None
    if args.json:
        print_json(_row(problem) | ({"thinking": trace.thinking, "trace_answer": trace.answer} if trace else {}))
        return
    print(problem.text)
    if trace is not None:
        print(f"\n<think>{trace.thinking}</think>")
    print(f"\nanswer: {problem.answer}")


def _sample(args: argparse.Namespace) -> None:
    from reflective.errors import InputError
    from reflective.tasks import mixture

    if args.count < 1:
        raise InputError(f"--count is {args.count}; it must be 1 or more.")
    families = None if args.name == MIXTURE else [args.name]
    for problem in mixture(args.split, args.count, tuple(args.levels), families, args.seed):
        print_json(_row(problem))


def _row(problem: Any) -> dict[str, Any]:
    return {
        "id": problem.id,
        "problem": problem.text,
        "answer": problem.answer,
        "family": problem.family,
        "kind": problem.kind,
        "metadata": dict(problem.metadata),
    }
