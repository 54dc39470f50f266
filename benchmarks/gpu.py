"""Throughput on a GPU: with and without scores, and the reference's way, on the shapes nano and 0.5B.

The 0.5B shape is in bfloat16, nano in float32, both with random weights. The reference's way generates with Hugging
Face and reads every trajectory again with a second copy of the weights. What does not fit into `--seconds` is left out
and listed. `benchmarks/gpu.sh` runs it after the tests that need a GPU.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --device cpu --quick     # shows that the benchmark works
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from common import PACKAGES, Check, Setting, alternate, hardware, progress, ratio, summary, timed

from models import engine, generate, head, random_model, rule, write
from reflective.judge.format import step_positions
from reflective.records.manifest import versions

ROWS, REFERENCE_ROWS = (32, 256), 32
SCORES_AT_MOST = 1.02


def on_device(setting: Setting, device: str) -> Any:
    """The shape's model there, in the number type in which it would be served."""
    dtype = torch.bfloat16 if setting.shape == "half" and device != "cpu" else torch.float32
    return random_model(setting).to(device=device, dtype=dtype)


def finished(work: Callable[[], Any], device: str) -> dict[str, Any]:
    """Seconds until the device has done it."""

    def run() -> None:
        work()
        if device != "cpu":
            torch.cuda.synchronize()

    return {"seconds": timed(run)}


def scores_on_and_off(setting: Setting, model: Any, device: str) -> dict[str, Any]:
    """Our engine with and without its head, alternating."""
    writer = engine(setting, model)
    judge_head = writer.head.to(device)
    watched = writer.judge.format.watched

    def side(scored: bool) -> Callable[[], dict[str, Any]]:
        def run() -> dict[str, Any]:
            writer.head, writer.scored = (judge_head, True) if scored else (None, False)
            writer._watched = watched if scored else frozenset()
            return finished(lambda: write(writer, setting), device)

        return run

    results = alternate({"with scores": side(True), "without scores": side(False)}, setting.repeats)
    writer.close()
    tokens = setting.rows * setting.tokens
    found = {name: summary(runs, tokens) for name, runs in results.items()}
    return {"sides": found, **ratio(results["with scores"], results["without scores"])}


def reference_way(setting: Setting, model: Any, device: str) -> dict[str, Any]:
    """Generate, then read every trajectory with another copy of the weights, one at a time."""
    scorer = on_device(setting, device)
    judge, steps = head(scorer).to(device), rule(scorer)

    @torch.inference_mode()
    def work() -> None:
        for ids in generate(model, setting).tolist():
            positions = step_positions(steps, ids[setting.prompt :], ids[: setting.prompt])
            out = scorer(input_ids=torch.tensor([ids], device=device), output_hidden_states=True)
            if positions:
                features = out.hidden_states[-2][0, [setting.prompt + p - 1 for p in positions]]  # (n, H)
                judge(features.float()).sigmoid().log().mean().exp().item()

    runs = [finished(work, device) for _ in range(setting.repeats + 1)][1:]
    return summary(runs, setting.rows * setting.tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=300.0, help="nothing new begins after them")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a tiny run that only shows that the benchmark works")
    args = parser.parse_args()
    if args.device != "cpu" and not torch.cuda.is_available():
        sys.exit("gpu: PyTorch finds no CUDA device here.")
    begin = time.monotonic()
    found: dict[str, Any] = {}
    left_out, checks = [], []
    for shape in ("nano", "half"):
        for rows in ROWS:
            name = f"{shape}, n = {rows}"
            if time.monotonic() - begin > args.seconds:
                left_out.append(name)
                continue
            progress(f"== {name}")
            size = (min(rows, 4), 16, 4, 1) if args.quick else (rows, 64, args.tokens, args.repeats)
            setting = Setting(shape, *size, quick=args.quick)
            model = on_device(setting, args.device)
            found[name] = scores_on_and_off(setting, model, args.device)
            check = Check(f"seconds with scores / without, {name}", found[name]["ratio"], "<=", SCORES_AT_MOST)
            checks.append(check.to_json(quick=args.quick))
            if rows == REFERENCE_ROWS and time.monotonic() - begin <= args.seconds:
                found[name]["reference"] = reference_way(setting, model, args.device)
                ours = found[name]["sides"]["with scores"]["median_s"]
                found[name]["reference_over_ours"] = round(found[name]["reference"]["median_s"] / ours, 3)
    line = {
        "benchmark": "gpu",
        "setting": vars(args),
        "hardware": hardware(),
        "device": args.device if args.device == "cpu" else torch.cuda.get_device_name(),
        "versions": versions(PACKAGES),
        "results": found,
        "left_out": left_out,
        "checks": checks,
    }
    print(json.dumps(line, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
