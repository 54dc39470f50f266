"""`reflective eval`: a benchmark run with k trajectories per problem, every one graded and recorded."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reflective.cli import DONE
from reflective.cli.common import (
    add_model_arguments,
    add_problem_arguments,
    add_sampling_arguments,
    add_strategy_options,
    load_model,
    load_named_problems,
    print_json,
    problem_options,
    say,
    solving_options,
)

if TYPE_CHECKING:
    from reflective.evaluate.run import Plan, Progress

DESCRIPTION = """\
Run a benchmark: sample and score k trajectories of each problem, write and grade their answers, record everything, and
say what every strategy is worth at k. BENCHMARK is a benchmark's name, a problem family or "mixture" (see reflective
tasks list), "reasoning_gym:NAME", or a file of your own. Killed or stopped by Ctrl-C, the same command goes on where
it was. See also: reflective eval merge | regrade | import | export, and reflective report."""
EXAMPLES = """\
examples:
  reflective eval countdown --limit 20 --effort 8 --output runs/countdown
  reflective eval mixture --limit 400 --levels 1 2 --effort high --output runs/nano --shard 1/4
  reflective eval problems.jsonl --fields problem=question answer=gold --model path/to/model --output runs/mine
"""

TELL_S = 0.2  # between updates in a terminal
TELL_PIPED_S = 10.0  # between lines elsewhere


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("benchmark", metavar="BENCHMARK", help="a benchmark, a family, mixture, or a file of problems")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="the run folder; an unfinished run goes on")
    parser.add_argument(
        "--effort", default="high", metavar="E", help="low (2), medium (8), high (32), a number or auto"
    )
    parser.add_argument(
        "--strategy", default="auto", metavar="S", help="auto, best_of_n, majority, weighted, logprob, single, ..."
    )
    add_strategy_options(parser)
    parser.add_argument(
        "--answers",
        default="all",
        choices=("all", "selected"),
        help="best_of_n: write every answer, so that all strategies can be judged (default), or the selected one",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="the first N problems")
    parser.add_argument("--shard", default="1/1", metavar="I/N", help="every N-th problem from the I-th on")
    parser.add_argument(
        "--confidences",
        action="store_true",
        help="keep how sure the model was of its tokens, so that self-certainty and DeepConf can be judged (slower); "
        "with --tokens of every token, which report --policies needs to replay DeepConf",
    )
    parser.add_argument("--no-texts", action="store_true", help="record no reasoning and no answer texts")
    parser.add_argument(
        "--tokens", action="store_true", help="keep token ids and, in shards, what is known of every token"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")
    add_problem_arguments(parser, seed="--problem-seed")
    add_sampling_arguments(parser)
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run, record, summarise."""
    from reflective.evaluate.report.markdown import text_summary
    from reflective.evaluate.run import precision_of, run_benchmark
    from reflective.evaluate.summary import summarise
    from reflective.evaluate.table import Table
    from reflective.records import read_records

    plan = _plan(args)  # what can't work is refused before a model is loaded
    problems = load_named_problems(args, args.benchmark, limit=args.limit, seed=args.problem_seed)
    if args.dtype == "auto":  # a run goes on with what was chosen when it began
        args.dtype = precision_of(Path(args.output)) or "auto"
    model = load_model(args, **plan.engine_options)
    effort, strategy, settings = model.plan(**solving_options(args))  # with the model's own defaults
    named = {"head": args.head} if args.head else {}  # a run goes on with the head that it began with
    options = {**plan.engine_options, **named}
    plan = replace(plan, effort=effort, strategy=strategy, settings=settings, engine_options=options)
    notes: list[str] = []
    try:
        with _Meter(args.quiet) as meter:
            path = run_benchmark(
                model.engine,
                problems,
                plan,
                Path(args.output),
                calibration=model.calibration,
                tell=meter,
                notes=notes,
            )
    except KeyboardInterrupt:
        say("what was solved is recorded; the same command goes on from here")
        raise
    for note in notes:
        say(f"note: {note}")
    summary = summarise(Table.of(read_records(path)), seed=args.seed)
    if args.json:
        print_json({"output": args.output, **summary.to_json()})
    else:
        print(text_summary(summary))
        say(f"\nthe page: reflective report {args.output} --output {args.output}/report.html")
    return DONE


def _plan(args: argparse.Namespace) -> Plan:
    from reflective.evaluate.run import Plan
    from reflective.options import plan

    effort, strategy, settings = plan(solving_options(args))
    return Plan(
        effort,
        strategy,
        settings,
        _benchmark(args),
        shard(args.shard),
        texts=not args.no_texts,
        tokens=args.tokens,
        engine_options={"keep_confidences": True} if args.confidences else {},
    )


def _benchmark(args: argparse.Namespace) -> dict[str, Any]:
    """What the manifest says of where the problems come from."""
    options = {"split": "test", "levels": [1, 2, 3], "subjects": [], **problem_options(args)}
    names = ("file", "split", "levels", "revision", "prompt", "fields", "kind", "since", "until", "subjects", "like")
    told = {name: options.get(name) for name in names if name != "like" or args.like}
    return {"name": args.benchmark, "limit": args.limit, "seed": args.problem_seed, **told}


def shard(text: str) -> tuple[int, int]:
    """i/n as two numbers."""
    from reflective.errors import InputError

    first, slash, count = text.partition("/")
    if not slash or not first.isdecimal() or not count.isdecimal():
        raise InputError(f"--shard is {text!r}; it must be like 2/8, the second of eight.")
    return int(first), int(count)


class _Meter:
    """Progress on stderr: one line that changes in a terminal, a line now and then elsewhere."""

    def __init__(self, quiet: bool) -> None:
        self._quiet, self._terminal = quiet, sys.stderr.isatty()
        self._told_at = -1e9
        self._last = ""

    def __enter__(self) -> _Meter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._terminal and self._last:
            print(file=sys.stderr)

    def __call__(self, progress: Progress) -> None:
        every = TELL_S if self._terminal else TELL_PIPED_S
        now = time.monotonic()
        if self._quiet or (now - self._told_at < every and progress.done < progress.total):
            return
        self._told_at, self._last = now, progress_line(progress)
        if self._terminal:
            print(f"\r\x1b[K{self._last}", end="", file=sys.stderr, flush=True)
        else:
            print(self._last, file=sys.stderr, flush=True)


def progress_line(progress: Progress) -> str:
    """`12/500 problems · right 0.583 (0.320 to 0.807) · 0:01:10 · 0:47:26 left`."""
    parts = [f"{progress.done:,}/{progress.total:,} problems"]
    if progress.graded:
        parts.append("right {:.3f} ({:.3f} to {:.3f})".format(*progress.accuracy))
    parts.append(_clock(progress.seconds))
    if progress.seconds_left == progress.seconds_left and progress.done < progress.total:
        parts.append(f"{_clock(progress.seconds_left)} left")
    return " · ".join(parts)


def _clock(seconds: float) -> str:
    from datetime import timedelta

    return str(timedelta(seconds=round(seconds)))
