"""`reflective plan serve`: what serving takes, before anything is rented."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reflective.cli import DONE
from reflective.cli.common import add_model_arguments, load_model, print_json

if TYPE_CHECKING:
    from reflective.serve.plan.rates import Rates

DESCRIPTION = """\
Estimate what it takes to serve a model: replicas, queueing delay, latency, and what 1,000 answers cost. Requests that
arrive at random are simulated on continuously batching replicas. Their rates are assumed from the model's shape and a
GPU's data sheet, measured on the embedded engine (--measure), or read from a file (--rates)."""
EXAMPLES = """\
examples:
  reflective plan serve --shape 7b --gpu h100 --effort medium --per-minute 100
  reflective plan serve --shape 32b --gpu h200 --users 1000 --cost-hour 3.5 --json
  reflective plan serve --measure --model nano --effort low --per-minute 60 --tokens 110 --answer-tokens 9
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    load = parser.add_argument_group("load")
    load.add_argument("--per-minute", type=float, metavar="N", help="requests that arrive in a minute (default: 60)")
    load.add_argument("--users", type=int, metavar="N", help="instead: users, of whom each asks --per-user an hour")
    load.add_argument(
        "--per-user", type=float, default=6.0, metavar="N", help="questions of a user an hour (default: 6)"
    )
    load.add_argument("--effort", default="medium", metavar="E", help="low (2), medium (8), high (32) or a number")
    load.add_argument("--tokens", type=float, default=4096, metavar="N", help="mean of a trajectory (default: 4096)")
    load.add_argument(
        "--spread", type=float, default=0.6, metavar="S", help="standard deviation of that, as a share (default: 0.6)"
    )
    load.add_argument("--answer-tokens", type=float, default=300, metavar="N", help="of an answer (default: 300)")
    load.add_argument("--prompt-tokens", type=float, default=200, metavar="N", help="of a prompt (default: 200)")
    load.add_argument("--seed", type=int, default=0, metavar="N", help="of the simulation")
    rates = parser.add_argument_group("rates")
    rates.add_argument("--shape", default="7b", metavar="M", help="1.5b, 7b, 32b (Qwen2.5), or a folder (default: 7b)")
    rates.add_argument("--gpu", default="h100", metavar="G", help="a100, h100, h200 or l40s (default: h100)")
    rates.add_argument("--gpus", type=int, metavar="N", help="of a replica (default: as few as leave room)")
    rates.add_argument("--rates", metavar="FILE", help="a JSON file of rates instead, such as --json prints")
    rates.add_argument("--measure", action="store_true", help="measure the rates of --model on this machine instead")
    rates.add_argument("--max-rows", type=int, metavar="N", help="trajectories that a replica writes at once")
    target = parser.add_argument_group("target")
    target.add_argument("--replicas", type=int, metavar="N", help="so many (default: as few as keep the delay)")
    target.add_argument(
        "--delay", type=float, default=5.0, metavar="S", help="seconds in the queue, 95th percentile (default: 5)"
    )
    target.add_argument("--cost-hour", type=float, metavar="C", help="of one GPU, or of one replica without GPUs")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Simulate and print."""
    from reflective.errors import InputError
    from reflective.search import resolve_effort
    from reflective.serve.plan.outcome import plan
    from reflective.serve.plan.simulate import Load

    if args.users is not None and args.per_minute is not None:
        raise InputError("give either --users or --per-minute, not both.")
    per_minute = 60.0 if args.per_minute is None else args.per_minute
    load = Load(
        per_minute=per_minute if args.users is None else args.users * args.per_user / 60,
        k=resolve_effort(args.effort),
        tokens=args.tokens,
        spread=args.spread,
        answer_tokens=args.answer_tokens,
        prompt_tokens=args.prompt_tokens,
        seed=args.seed,
    )
    rates = _rates(args)
    cost = None if args.cost_hour is None else args.cost_hour * max(rates.gpus, 1)
    planned = plan(load, rates, replicas=args.replicas, delay_s=args.delay, cost_per_hour=cost)
    if args.json:
        print_json(planned, indent=1)
    else:
        print("\n".join(f"{name:<20}{value}" for name, value in _told(planned, rates)))
    return DONE


def _rates(args: argparse.Namespace) -> Rates:
    from dataclasses import replace

    from reflective.models.shape import shape_of
    from reflective.serve.plan.measure import measured_rates
    from reflective.serve.plan.rates import MOST_ROWS, assumed_rates, read_rates

    if args.measure:
        return measured_rates(load_model(args).engine, most_rows=args.max_rows)
    if args.rates is not None:
        rates = read_rates(Path(args.rates))
        return rates if args.max_rows is None else replace(rates, max_rows=args.max_rows)
    tokens = args.tokens + args.prompt_tokens + args.answer_tokens
    rows = MOST_ROWS if args.max_rows is None else args.max_rows
    return assumed_rates(shape_of(args.shape), args.gpu, tokens, gpus=args.gpus, most_rows=rows)


def _told(planned: dict[str, Any], rates: Rates) -> list[tuple[str, str]]:
    """The lines for a human."""
    queue, latency, answers = planned["queueing_s"], planned["latency_s"], planned["per_1000_answers"]
    cost = "" if answers["cost"] is None else f", cost {answers['cost']:,.2f}"
    gpus = f" of {rates.gpus} GPU{'s' if rates.gpus > 1 else ''}" if rates.gpus else ""
    return [
        ("replicas", f"{planned['replicas']:,}{gpus}, up to {rates.max_rows} rows each"),
        ("queueing delay", f"median {queue['median']:.1f} s, 95th percentile {queue['p95']:.1f} s"),
        ("time to the answer", f"median {latency['median']:.1f} s, 95th percentile {latency['p95']:.1f} s"),
        ("busy", f"{planned['busy']:.0%} of the time, {planned['rows_in_use']:.0%} of the rows"),
        (
            "1,000 answers",
            f"{answers['replica_hours']:,.2f} replica hours, {answers['gpu_hours']:,.2f} GPU hours{cost}",
        ),
        ("rates", rates.source if rates.measured else f"{rates.source}; not run on such a machine"),
    ]
