"""`reflective tasks`: the problem sets: list them, show one problem, sample many, check the gold answers."""

from __future__ import annotations

import argparse
import random
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from reflective.cli import DONE, FAILED
from reflective.cli.common import add_problem_arguments, load_named_problems, print_json, say

if TYPE_CHECKING:
    from reflective.types import Problem

DESCRIPTION = """\
Problem sets: generated families, endless and in plain English; every family of the package reasoning_gym, as
reasoning_gym:NAME; benchmarks from the Hugging Face hub or from a file (--file); any data set on the hub, as
hub:OWNER/NAME; or a file of yours by its path."""
EXAMPLES = """\
examples:
  reflective tasks list
  reflective tasks show countdown --level 2 --trace
  reflective tasks sample gcd -n 5 --split test > problems.jsonl
  reflective tasks sample mixture -n 100 --levels 1 2 --split train > problems.jsonl
  reflective tasks show reasoning_gym:mini_sudoku
  reflective tasks check math500
  reflective tasks check gsm8k --file gsm8k_test.jsonl
  reflective tasks check my.csv --fields question=q answer=key --kind choice
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    listing = actions.add_parser("list", help="name every family, with its levels, and every benchmark")
    listing.add_argument("--json", action="store_true", help="print one JSON object")

    show = actions.add_parser("show", help="show one problem with its gold answer")
    show.add_argument("name", help="a family, a benchmark or a file")
    show.add_argument("--index", type=int, default=0, metavar="I", help="which problem (default: 0)")
    show.add_argument("--level", type=int, metavar="L", help="of a family: difficulty (default: 2)")
    show.add_argument("--trace", action="store_true", help="of a family: with a written-out solution")
    _add_source_arguments(show)

    sample = actions.add_parser("sample", help="print problems as JSON lines")
    sample.add_argument("name", help="a family, a benchmark, a file, or mixture: all families in turn")
    sample.add_argument("-n", "--count", type=int, default=10, metavar="N", help="how many (default: 10)")
    _add_source_arguments(sample)

    check = actions.add_parser("check", help="grade every gold answer against itself, report those that fail")
    check.add_argument("name", help="a benchmark, a family or a file")
    check.add_argument("-n", "--count", type=int, metavar="N", help="the first N (default: all; of a family: 100)")
    _add_source_arguments(check)


def _add_source_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_problem_arguments(parser, seed="--seed")


def run(args: argparse.Namespace) -> int:
    """The action that is asked for."""
    return {"list": _list, "show": _show, "sample": _sample, "check": _check}[args.action](args)


def _list(args: argparse.Namespace) -> int:
    from reflective.tasks import BENCHMARKS, TASKS
    from reflective.verify.gym.families import FAMILIES

    if args.json:
        listed: dict[str, Any] = {}
        for name, task in TASKS.items():
            listed[name] = {"description": task.description, "levels": {str(k): v for k, v in task.levels.items()}}
        for name, benchmark in BENCHMARKS.items():
            listed[name] = {"description": benchmark.description, **_origin(benchmark)}
        for name, family in FAMILIES.items():
            listed[f"reasoning_gym:{name}"] = {
                "grader": family.grader or None,
                "instead_of_the_packages_because": family.why or None,
                "refused": family.refused or None,
            }
        print_json(listed)
        return DONE
    width = max(map(len, (*TASKS, *BENCHMARKS)))
    for name, task in TASKS.items():
        print(f"{name:<{width}}  {task.description}")
        for level, what in task.levels.items():
            print(f"{'':<{width}}    level {level}: {what}")
    print()
    for name, benchmark in BENCHMARKS.items():
        size = f", {benchmark.size} problems" if benchmark.size else ""
        print(f"{name:<{width}}  {benchmark.description}")
        print(f"{'':<{width}}    {benchmark.kind}{size}, {benchmark.source.address}")
    print("\nreasoning_gym:NAME, or several names with commas, or reasoning_gym for all of them in turn")
    names = ", ".join(sorted(name for name, family in FAMILIES.items() if not family.refused))
    print(textwrap.fill(names, 110, initial_indent="    ", subsequent_indent="    "))
    return DONE


def _origin(benchmark: Any) -> dict[str, Any]:
    return {
        "kind": benchmark.kind,
        "size": benchmark.size,
        "dataset": benchmark.source.dataset,
        "revision": benchmark.source.revision,
        "pinned": benchmark.source.pinned,
        "gated": benchmark.source.gated,
        "prompt": benchmark.prompt,
        "prompt_source": benchmark.prompt_source,
    }


def _show(args: argparse.Namespace) -> int:
    from reflective.errors import InputError
    from reflective.settings import check_least
    from reflective.tasks import TASKS

    check_least(0, **{"--index": args.index})
    if args.name in TASKS:
        _load(args, 1)  # refuses what has no meaning for a family
        task = TASKS[args.name]
        problem = task.problem(args.split or "test", args.index, 2 if args.level is None else args.level, args.seed)
        trace = task.trace(problem, random.Random(args.seed)) if args.trace else None
    else:
        if args.trace:
            raise InputError(f"--trace: only our own families write solutions, and {args.name!r} is none of them.")
        if args.level is not None:
            raise InputError(f"--level: only our own families have levels, and {args.name!r} is none of them.")
        problems, trace = _load(args, args.index + 1), None
        if args.index >= len(problems):
            raise InputError(f"--index is {args.index}; {args.name} has problems 0 to {len(problems) - 1}.")
        problem = problems[args.index]
    if args.json:
        print_json(_row(problem) | ({"thinking": trace.thinking, "trace_answer": trace.answer} if trace else {}))
        return DONE
    print(problem.text)
    if trace is not None:
        print(f"\n<think>{trace.thinking}</think>")
    print(f"\nanswer: {problem.answer}")
    return DONE


def _sample(args: argparse.Namespace) -> int:
    from reflective.settings import check_least
    from reflective.tasks import mixture
    from reflective.tasks.families import family_names
    from reflective.tasks.sources import LEVELS

    check_least(1, **{"--count": args.count})
    families = family_names(args.name)
    plain = families is None or args.prompt or args.like
    problems: Iterable[Problem] = _load(args, args.count if plain else 1)  # or a look at the options
    if families is not None and not plain:
        problems = mixture(args.split or "test", args.count, tuple(args.levels or LEVELS), families, args.seed)
    for problem in problems:
        print_json(_row(problem))  # as they are drawn: a family may take long, or run out
    return DONE


def _check(args: argparse.Namespace) -> int:
    from reflective.verify import WITHOUT_GOLD, self_check

    problems = _load(args, args.count)
    unchecked = sum(problem.answer is None for problem in problems if problem.kind in WITHOUT_GOLD)
    faults = self_check(problems)
    if args.json:
        listed = [
            {"id": p.id, "answer": p.answer, "kind": p.kind, "verdict": v.kind, "reason": v.reason} for p, v in faults
        ]
        print_json({"problems": len(problems), "without_solution": unchecked, "faults": listed})
    else:
        for problem, verdict in faults:
            shown = " ".join((problem.answer or "(none)").split())[:80]
            print(f"{problem.id}  {verdict.kind}: {verdict.reason}  [{shown}]")
    without = f", {unchecked} without a solution to check" if unchecked else ""
    say(f"problems: {len(problems):,}; gold answers that are not right against themselves: {len(faults):,}{without}")
    return FAILED if faults else DONE


def _load(args: argparse.Namespace, count: int | None) -> list[Problem]:
    return load_named_problems(args, args.name, limit=count, seed=args.seed)


def _row(problem: Problem) -> dict[str, Any]:
    return {
        "id": problem.id,
        "problem": problem.text,
        "answer": problem.answer,
        "family": problem.family,
        "kind": problem.kind,
        "metadata": dict(problem.metadata),
    }
