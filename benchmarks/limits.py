"""The machine's limits and the share of them that a decoding step reaches.

A step can be no faster than its weights are read, and no faster than its products are multiplied. Both limits are
measured by loops that do nothing else (`limits.c`, compiled here): bytes read in order from memory, products of 8-bit
integers and of float32 in registers. Beside them stands a step of every precision, alternating with the loops, and the
larger of its two shares: near 1, nothing is left to be had. All times are processor time divided by the number of
threads, so that other processes count little.

    python benchmarks/limits.py --model models/qwen2.5-coder-0.5b
"""

from __future__ import annotations

import argparse
import ctypes
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from common import PACKAGES, hardware, progress, rounded

from reflective.engines.torch.backbones.base import DecodePlan
from reflective.engines.torch.engine import TorchEngine
from reflective.engines.torch.kv import KVMemory
from reflective.models import load_checkpoint
from reflective.records.manifest import versions

ROWS = (1, 8, 32)
POSITION = 64  # of the token that a step writes
PRECISIONS = ("float32", "bfloat16", "int8", "int4")


def compiled(folder: Path) -> ctypes.CDLL:
    """The loops of `limits.c`."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        sys.exit("limits: no C compiler is installed; install gcc or clang.")
    source, library = Path(__file__).with_name("limits.c"), folder / "limits.so"
    command = [compiler, "-O3", "-march=native", "-shared", "-fPIC", "-o", str(library), str(source)]
    subprocess.run(command, check=True)
    found = ctypes.CDLL(str(library))
    for name in ("read_bytes", "multiply_bytes", "multiply_floats"):
        getattr(found, name).restype = ctypes.c_int64
    found.read_bytes.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    found.multiply_bytes.argtypes = found.multiply_floats.argtypes = [ctypes.c_int64, ctypes.c_void_p]
    return found


def rate(work: Callable[[int], float], threads: int, repeats: int) -> float:
    """What all threads do in a second, the best of some tries; `work` gets a thread's number and says how much."""
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(repeats):
            start = time.process_time()
            done = sum(pool.map(work, range(threads)))
            best = max(best, done / (time.process_time() - start) * threads)
    return best


def limits(loops: ctypes.CDLL, threads: int, repeats: int, quick: bool) -> dict[str, float]:
    """Bytes a second from memory, and operations a second."""
    size = (2**22 if quick else 2**28) // threads // 256 * 256
    blocks = [torch.ones(size, dtype=torch.uint8) for _ in range(threads)]
    rounds = 10**5 if quick else 10**7

    def read(thread: int) -> float:
        loops.read_bytes(blocks[thread].data_ptr(), size)
        return float(size)

    def multiply(name: str) -> Callable[[int], float]:
        def run(_: int) -> float:
            out = ctypes.c_int64()
            return float(getattr(loops, name)(rounds, ctypes.byref(out)) * rounds * 12)

        return run

    return {
        "bytes_per_s": rate(read, threads, repeats),
        "int8_operations_per_s": rate(multiply("multiply_bytes"), threads, repeats),
        "float32_operations_per_s": rate(multiply("multiply_floats"), threads, repeats),
    }


@torch.inference_mode()
def step_seconds(writer: TorchEngine, rows: int, repeats: int) -> float:
    """The fastest of some decoding steps."""
    backbone = writer._backbone
    kv = KVMemory(backbone.shape, rows, POSITION + 1)
    plan, best = DecodePlan([1] * rows, [POSITION] * rows), float("inf")
    for _ in range(repeats):
        start = time.process_time()
        backbone.decode(plan, kv)
        best = min(best, (time.process_time() - start) / torch.get_num_threads())
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano", help="a model folder (default: nano)")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS, metavar="P")
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--quick", action="store_true", help="a tiny run that only shows that the benchmark works")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    threads, repeats = torch.get_num_threads(), 2 if args.quick else args.repeats
    rows_of = ROWS[:1] if args.quick else ROWS
    sides: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        loops = compiled(Path(folder))
        most = limits(loops, threads, repeats, args.quick)
        for precision in args.precisions:
            checkpoint = load_checkpoint(args.model, dtype=precision, device="cpu", require_head=False, packed=True)
            writer = TorchEngine(checkpoint.model, checkpoint.tokenizer, checkpoint.judge, weights=checkpoint.weights)
            matrices = {m.data.data_ptr(): m for m in writer._backbone.decoder.matrices()}.values()
            size = sum(m.nbytes for m in matrices)
            products = sum(2 * m.shape[0] * m.shape[1] for m in matrices)  # of one row
            steps: dict[str, Any] = {}
            for rows in rows_of:
                again = limits(loops, threads, 2, args.quick)  # beside every step: a shared machine changes
                most = {name: max(value, again[name]) for name, value in most.items()}
                steps[str(rows)] = step_seconds(writer, rows, repeats)
            unit = "int8_operations_per_s" if precision.startswith("int") else "float32_operations_per_s"
            sides[precision] = {"weight_mib": round(size / 2**20), "median_s": rounded(steps[str(rows_of[-1])])}
            sides[precision]["steps"] = {
                rows: {
                    "seconds": rounded(taken),
                    "share_of_bandwidth": rounded(size / taken / most["bytes_per_s"]),
                    "share_of_products": rounded(products * int(rows) / taken / most[unit]) if most[unit] else None,
                }
                for rows, taken in steps.items()
            }
            progress(f"{precision}: {sides[precision]}")
            writer.close()
    shares = [sides[p]["steps"][str(rows_of[-1])]["share_of_products"] for p in args.precisions]
    line = {
        "benchmark": "limits",
        "setting": {**vars(args), "threads": threads},
        "hardware": hardware(),
        "versions": versions(PACKAGES),
        "limits": {name: rounded(value / 1e9) for name, value in most.items()} | {"unit": "10^9"},
        "sides": sides,
        "ratio_of": "share of the rate of products, the first precision, most rows",
        "ratio": shares[0],
        "checks": [],
    }
    print(json.dumps(line, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
