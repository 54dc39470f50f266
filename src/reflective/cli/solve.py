"""`reflective solve`: a problem in, live rows while trajectories are written, the answer out."""

from __future__ import annotations

import argparse
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from reflective.cli import DONE, FAILED, INTERRUPTED, option_names
from reflective.cli.common import (
    add_model_arguments,
    add_row_arguments,
    add_sampling_arguments,
    add_strategy_options,
    load_model,
    load_named_problems,
    print_json,
    read_problem,
    say,
    solving_options,
)

if TYPE_CHECKING:
    from reflective.options import Options
    from reflective.types import Solution

DESCRIPTION = """\
Solve a problem: sample several trajectories, score every step in the pass that writes it, answer from the best one.
In a terminal it shows one row per trajectory; piped, it prints the answer; --json prints everything. With --file it
solves all problems of a file, a benchmark or a family (see reflective tasks list), and prints a line for each: its id,
a tab and the answer, or a JSON object."""
EXAMPLES = """\
examples:
  reflective solve "Find the Least Common Multiple (LCM) of these numbers: 14, 20" --effort high
  reflective solve "A train covers 180 km in 2 hours. How far does it go in 5 hours?" --model path/to/model --json
  echo "Solve the following multiplication: 12 * 17. Give only the result as your final answer." | reflective solve -
  reflective solve "Find the Least Common Multiple (LCM) of these numbers: 14, 20" --engine http://localhost:8000/v1
  reflective solve "A train covers 180 km in 2 hours. How far does it go in 5 hours?" --model path/to/model --like gsm8k
  reflective solve --file questions.csv --fields question=q --like gsm8k --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("problem", nargs="?", help="the problem, or - to read it from standard input")
    parser.add_argument("--file", metavar="NAME", help="solve the problems of this file, benchmark or family")
    parser.add_argument("--limit", type=int, metavar="N", help="of --file: the first N problems")
    parser.add_argument(
        "--effort",
        default="medium",
        metavar="E",
        help="low (2), medium (8), high (32), a number of trajectories, or auto: as few as the problem needs",
    )
    parser.add_argument(
        "--strategy",
        default="auto",
        metavar="S",
        help="best_of_n (the best score), majority (the most frequent answer), weighted (votes weighted by score), "
        "logprob (the most probable one), single (one sample), beam, dvts, particles, mcts (search over steps); "
        "default: with a head best_of_n, or weighted where the whole response is the reasoning; else majority",
    )
    add_strategy_options(parser)
    parser.add_argument(
        "--answers",
        default="selected",
        choices=("selected", "all"),
        help="best_of_n: write the answer of the selected trajectory, or of all",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object with every trajectory")
    parser.add_argument("-q", "--quiet", action="store_true", help="no rows and no remarks, only the result")
    add_row_arguments(parser)
    add_sampling_arguments(parser)
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Solve, show, print."""
    from reflective.options import plan
    from reflective.search import Interrupts, Solved
    from reflective.search.settings import check_problem

    options = solving_options(args)
    plan(options)  # what can't work is refused before a model is loaded
    if args.file is not None:
        return _solve_file(args, options)
    problem = check_problem(_asked(args)).text
    model = load_model(args)
    solution: Solution | None = None
    with Interrupts() as interrupts, _rows(args) as show:
        for event in model.stream(problem, interrupts=interrupts, **options):
            show(event)
            if isinstance(event, Solved):
                solution = event.solution
    assert solution is not None  # a stream ends in Solved or raises
    _report(solution, args)
    if solution.interrupted:
        return INTERRUPTED
    return DONE if solution.answer_text.strip() else FAILED


def _asked(args: argparse.Namespace) -> str:
    """The problem in the prompt that is asked for."""
    from reflective.errors import InputError
    from reflective.tasks import prompt_like
    from reflective.tasks.prompts import ask

    if args.problem is None:
        raise InputError("one of these is required: problem, --file.")
    for name in ("limit", "fields", "kind", "skip_bad"):
        if getattr(args, name) is not None:
            raise InputError(f"--{name.replace('_', '-')} has a meaning with --file only; leave it out.")
    prompt = args.prompt or (prompt_like(args.like) if args.like else None)
    problem = read_problem(args.problem)
    return ask(problem, prompt) if prompt and problem.strip() else problem


def _solve_file(args: argparse.Namespace, options: Options) -> int:
    """Solve the problems of a source, several at a time; a line for each as soon as it is there."""
    from reflective.errors import InputError
    from reflective.render import shown_answer

    if args.problem is not None:
        raise InputError("give either a problem or --file, not both.")
    problems = load_named_problems(args, args.file, limit=args.limit, needs_answer=False)
    answered = 0
    for done, (problem, solution) in enumerate(load_model(args).solve_many(problems, **options), 1):
        answered += bool(solution.answer_text.strip())
        if args.json:
            print_json({"id": problem.id, **_json(solution)})
        else:
            print(f"{problem.id}\t{' '.join(shown_answer(solution).split())}", flush=True)
        if not args.quiet:
            say(f"{done:,} of {len(problems):,} problems")
    return DONE if answered == len(problems) else FAILED


def _json(solution: Solution) -> dict[str, Any]:
    return {**solution.to_json(), "notes": [option_names(note) for note in solution.notes]}


def _rows(args: argparse.Namespace) -> AbstractContextManager[Any]:
    """What shows events: live rows where a human looks on."""
    if args.quiet or not sys.stderr.isatty():
        return nullcontext(lambda event: None)
    from reflective.cli.live import LiveRows

    return LiveRows()


def _report(solution: Solution, args: argparse.Namespace) -> None:
    """The result on stdout, remarks on stderr."""
    from reflective.render import cost, number, percent, shown_answer
    from reflective.selection import by_score

    if args.json:
        print_json(_json(solution))
    elif sys.stdout.isatty() and not args.quiet:
        from reflective.cli.live import print_answer

        print_answer(solution)
        return
    elif shown_answer(solution):
        print(shown_answer(solution))
    if args.quiet:
        return
    say(f"confidence {percent(solution.confidence)} · {cost(solution)}")
    for note in solution.notes:
        say(f"note: {option_names(note)}")
    if solution.interrupted and not solution.answer_text and solution.trajectories and not args.json:
        best = by_score(solution.trajectories)[0]
        say(f"the best thinking so far (trajectory {best.index}, score {number(best.score)}):\n{best.thinking.strip()}")
