"""Tokens a second of every precision on a CPU, for one trajectory and for many; beside llama.cpp with `--llama`.

Every side runs in a process of its own, and they alternate. A run writes `--tokens` tokens of 1, 8 and 32 trajectories
that share a prompt; what is timed is writing, without the prompt's prefill. The model is a folder (nano by default).
What scores cost is measured within each process of ours, the most trajectories with and without alternating: two
processes on the same machine differ by more.

    python benchmarks/edge.py --model models/qwen2.5-coder-0.5b
    python benchmarks/edge.py --model models/qwen2.5-coder-0.5b --llama build/bin/llama-batched-bench --gguf model.gguf

`--busy` also measures the most trajectories while another process keeps one core busy.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from common import (
    PACKAGES,
    Check,
    Result,
    Run,
    Setting,
    Unavailable,
    compare_processes,
    hardware,
    median,
    progress,
    rounded,
    serve_if_asked,
)

from reflective.records.manifest import versions

OPTIONS = "REFLECTIVE_EDGE"  # environment variable: the options that a `Setting` does not have, as JSON
ROWS = (1, 8, 32)
PRECISIONS = ("float32", "bfloat16", "int8", "int4")
LLAMA = "llama.cpp"
SECONDS = "seconds_{}"  # of so many rows
BUSY = "seconds_busy"
PLAIN = "seconds_without_scores"  # of the most rows


def ours(precision: str) -> Any:
    """A side of ours."""

    def prepared(setting: Setting) -> Run:
        from types import SimpleNamespace

        import torch

        from reflective.engines.base import Request, Sampling
        from reflective.engines.torch import TorchEngine
        from reflective.judge.judge import init_judge
        from reflective.models import load_checkpoint

        options = json.loads(os.environ[OPTIONS])
        if setting.threads:
            torch.set_num_threads(setting.threads)
        start = time.perf_counter()
        checkpoint = load_checkpoint(
            options["model"], dtype=precision, device="cpu", require_head=False, packed=precision != "float32"
        )
        judge = checkpoint.judge
        if not judge.scores:
            form = SimpleNamespace(config=checkpoint.model.config, device="cpu")
            judge = init_judge(form, checkpoint.tokenizer, seed=0)
        rows = max(options["rows"])
        writer = TorchEngine(checkpoint.model, checkpoint.tokenizer, judge, weights=checkpoint.weights, max_rows=rows)
        writer._eos_ids = frozenset()  # no row ends early
        loaded = time.perf_counter() - start
        prompt = tuple(100 + i % 500 for i in range(setting.prompt))

        watched, rounds = writer._watched, itertools.count()

        def write(rows: int, *, scored: bool = True) -> float:
            writer._watched = watched if scored else frozenset()  # without: no step is looked for, either
            for row in range(rows):
                writer.submit(Request(prompt, Sampling(), seed=row, max_tokens=setting.tokens + 1, until="eos"))
            writer.step()  # reads the prompt
            start = time.perf_counter()
            while writer.busy:
                writer.step()
            taken = time.perf_counter() - start
            for id in list(writer._finished):
                writer.cancel(id)
            return taken

        def run() -> Result:
            result, first = {}, next(rounds) % 2 == 0  # whether scores come first changes from round to round
            if not first:
                result[PLAIN] = write(rows, scored=False)
            for count in options["rows"] if first else reversed(options["rows"]):
                result[SECONDS.format(count)] = write(count)
            if first:
                result[PLAIN] = write(rows, scored=False)
            if options["busy"]:
                with busy_core():
                    result[BUSY] = write(rows)
            return result | {"seconds": sum(result.values()), "load_s": loaded}

        return run

    return prepared


@contextlib.contextmanager
def busy_core() -> Iterator[None]:
    """Another process that never rests."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def llama(setting: Setting) -> Run:
    """llama.cpp's own benchmark of batched decoding."""
    options = json.loads(os.environ[OPTIONS])
    if not options["llama"]:
        raise Unavailable("no --llama")
    rows = ",".join(map(str, options["rows"]))
    command = [options["llama"], "-m", options["gguf"], "-npp", setting.prompt, "-ntg", setting.tokens, "-npl", rows]
    command += ["-pps", "-c", 4096, "-t", setting.threads or os.cpu_count() or 1, "--output-format", "jsonl"]

    def run() -> Result:
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        result = {SECONDS.format(line["pl"]): float(line["t_tg"]) for line in lines}
        return result | {"seconds": sum(result.values())}

    return run


SIDES = {precision: ours(precision) for precision in PRECISIONS} | {LLAMA: llama}


def main() -> None:
    serve_if_asked(SIDES)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano", help="a model folder (default: nano)")
    parser.add_argument("--llama", default="", help="path of llama.cpp's llama-batched-bench")
    parser.add_argument("--gguf", default="", help="the GGUF file that it reads")
    parser.add_argument("--busy", action="store_true", help="also beside a process that keeps one core busy")
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(SIDES), metavar="SIDE")
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--quick", action="store_true", help="a tiny run that only shows that the benchmark works")
    args = parser.parse_args()
    rows = (1, 2) if args.quick else ROWS
    small = {"prompt": 8, "tokens": 3, "repeats": 1} if args.quick else {}
    lengths = {"prompt": args.prompt, "tokens": args.tokens, "repeats": args.repeats} | small
    setting = Setting(shape=args.model, rows=max(rows), threads=args.threads, quick=args.quick, **lengths)
    options = {"model": args.model, "rows": rows, "busy": args.busy, "llama": args.llama, "gguf": args.gguf}
    os.environ[OPTIONS] = json.dumps(options)
    names = [name for name in args.sides if name != LLAMA or args.llama]
    results, about = compare_processes(__file__, names, setting)

    sides: dict[str, Any] = {}
    for name, runs in results.items():
        keys = [SECONDS.format(n) for n in rows]
        sides[name] = {
            "median_s": rounded(median(runs)),
            "tokens_per_s": {n: rounded(n * setting.tokens / median(runs, key)) for n, key in zip(rows, keys)},
            "peak_memory_mib": round(max(run["peak_memory_bytes"] for run in runs) / 2**20),
        }
        if BUSY in runs[0]:
            sides[name]["busy_over_alone"] = rounded(median(runs, keys[-1]) / median(runs, BUSY))
        if PLAIN in runs[0]:
            sides[name]["scores_cost"] = rounded(median(runs, keys[-1]) / median(runs, PLAIN))
        if "load_s" in runs[0]:
            sides[name]["load_s"] = rounded(runs[0]["load_s"])
        progress(f"{name}: {sides[name]}")

    def speed(name: str, n: int) -> float | None:
        return sides[name]["tokens_per_s"][n] if name in sides else None

    def over(a: str, b: str, n: int) -> float | None:
        x, y = speed(a, n), speed(b, n)
        return rounded(x / y) if x and y else None

    most = rows[-1]
    checks = [Check(f"int8 / float32, n = {most}", over("int8", "float32", most), ">=", 2.0)]
    checks += [
        Check(f"int8 / {LLAMA}, n = {n}", over("int8", LLAMA, n), ">=", w) for n, w in zip(rows, (1.0, 1.5, 2.5))
    ]
    checks += [
        Check(f"{name}: seconds with scores / without, n = {most}", side["scores_cost"], "<=", 1.02)
        for name, side in sides.items()
        if "scores_cost" in side
    ]
    if "int8" in sides and "float32" in sides:
        memory = sides["int8"]["peak_memory_mib"] / sides["float32"]["peak_memory_mib"]
        checks.append(Check("peak memory, int8 / float32", memory, "<=", 0.4))
    if args.busy and "int8" in sides:
        checks.append(Check("beside a busy core / alone", sides["int8"]["busy_over_alone"], ">=", 0.5))
    line = {
        "benchmark": "edge",
        "setting": {**vars(args), "rows": rows},
        "hardware": hardware(),
        "versions": versions(PACKAGES),
        "sides": sides,
        "about": about,
        "ratio": over("int8", "float32", most),
        "checks": [check.to_json(quick=args.quick) for check in checks],
    }
    print(json.dumps(line, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
