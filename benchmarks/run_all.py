"""All benchmarks, one after the other; ends in one JSON line that holds the line of each.

    python benchmarks/run_all.py                     # about an hour on two cores
    python benchmarks/run_all.py --quick             # does everything work? two minutes
    python benchmarks/run_all.py --only hf_generate floor --shape half

The table goes to stderr in Markdown, as docs/benchmarks.md shows it. `--output` also keeps each benchmark's line in a
file as soon as it is there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
BY_SHAPE = ("scores_cost", "reference_way", "hf_generate", "operators", "vllm_cpu", "vllm_scores", "floor", "prefill")
ONCE = ("startup", "evaluate_speed", "effort_auto", "joint_step")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny run of each")
    parser.add_argument("--only", nargs="+", choices=(*BY_SHAPE, *ONCE), help="these benchmarks")
    parser.add_argument("--shape", choices=("nano", "half"), help="this shape (default: both)")
    parser.add_argument("--output", type=Path, metavar="FILE.jsonl", help="append each line to this file")
    for name in ("repeats", "tokens", "threads"):
        parser.add_argument(f"--{name}", type=int, help="passed on to each")
    args = parser.parse_args()
    passed = ["--quick"] if args.quick else []
    for name in ("repeats", "threads"):
        passed += [f"--{name}", str(getattr(args, name))] if getattr(args, name) is not None else []
    lines: list[dict[str, Any]] = []
    failed = []
    for benchmark, shape in _plan(args):
        tokens = ["--tokens", str(args.tokens)] if args.tokens is not None and benchmark != "prefill" else []
        line = _run([benchmark, *passed, *tokens, *(["--shape", shape] if shape else [])])
        if line is None:
            failed.append(f"{benchmark} {shape or ''}".strip())
            continue
        lines.append(line)
        if args.output:
            with args.output.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
    print(table(lines), file=sys.stderr)
    for name in failed:
        print(f"FAILED: {name}", file=sys.stderr)
    print(json.dumps({"benchmark": "all", "failed": failed, "results": lines}, ensure_ascii=False))
    return 1 if failed else 0


def _plan(args: argparse.Namespace) -> list[tuple[str, str | None]]:
    shapes = [args.shape] if args.shape else ["nano", "half"]
    wanted = args.only or (*BY_SHAPE, *ONCE)
    pairs: list[tuple[str, str | None]] = [(name, shape) for shape in shapes for name in BY_SHAPE if name in wanted]
    return pairs + [(name, None) for name in ONCE if name in wanted]


def _run(arguments: list[str]) -> dict[str, Any] | None:
    """The JSON line of a benchmark; None where it failed."""
    print(f"== {' '.join(arguments)}", file=sys.stderr, flush=True)
    command = [sys.executable, str(FOLDER / f"{arguments[0]}.py"), *arguments[1:]]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return None
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def table(lines: list[dict[str, Any]]) -> str:
    """The results in Markdown, a row a check; a benchmark without one shows its ratio."""
    rows = ["| benchmark | shape | sides, median | figure | spread | reach |", "|---|---|---|---|---|---|"]
    for line in lines:
        sides = "; ".join(f"{name} {_figure(side)}" for name, side in line["sides"].items())
        spread = f"{line['ratio_low']} to {line['ratio_high']}" if "ratio_low" in line else ""
        checks = line["checks"] or [{"name": line["ratio_of"], "value": line["ratio"], "want": "", "reached": None}]
        for check in checks:
            mark = {True: "reached", False: "**not reached**", None: ""}[check["reached"]]
            want = f"{check['want']} {mark}".strip()
            shape = "" if line["benchmark"] in ONCE else line["setting"]["shape"]
            row = (line["benchmark"], shape, sides, f"{check['name']}: {check['value']}", spread, want)
            rows.append("| " + " | ".join(row) + " |")
    return "\n".join(rows)


def _figure(side: dict[str, Any]) -> str:
    seconds = f"{side['median_s']} s"
    return f"{seconds} ({side['tokens_per_s']:,.0f} tok/s)" if "tokens_per_s" in side else seconds


if __name__ == "__main__":
    sys.exit(main())
