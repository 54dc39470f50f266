"""Answers graded per second, with the time limit on.

    python benchmarks/grading.py

Four loads, each by as many threads as there are cores, of right and wrong answers: numbers; formulas, tuples and
equations; integrals, which only math-verify reads; and all three mixed (58 %, 40 %, 2 %). Formulas and integrals never
repeat, so that no cache helps; gold answers do, as when many trajectories answer one problem. Starting the helper
processes of math-verify does not count: it is paid once a run. The processor time of an answer, of this process and of
the helpers together, says the same on a machine that is busy with other work (on Linux).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common import Check, Setting, parse, progress, report

from reflective.types import Problem
from reflective.verify import grade
from reflective.verify.processes import SHARED

COUNTS = {"numbers": 20_000, "formulas": 4_000, "integrals": 100, "mixed": 10_000}
QUICK = 4  # answers of each load in a quick run
WANTED = 300  # answers a second, mixed, on two cores

# a gold answer, and an answer that is right where A is K times the number
FORMULAS = [
    ("3\\sqrt{13}", 3, "\\frac{A}{K}\\sqrt{13}"),
    ("\\frac{\\pi}{6}", 6, "\\frac{K \\pi}{A}"),
    ("(3,4]", 4, "\\left(3, \\frac{A}{K}\\right]"),
    ("x^3+3x-6", 3, "x^3 - 6 + \\frac{A}{K} x"),
    ("6-5i", 5, "6 - \\frac{A}{K} i"),
    ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", 2, "\\begin{pmatrix} 1 \\\\ A/K \\end{pmatrix}"),
    ("y=2x+3", 2, "y - \\frac{A x}{K} = 3"),
    ("15\\mbox{ cm}^2", 15, "A/K \\text{ cm}^2"),
]


def numbers(i: int) -> tuple[str, str]:
    return str(i % 50), f"{i % 97}.{'0' * (i % 9)}{i if i % 2 else 0}"


def formulas(i: int) -> tuple[str, str]:
    gold, number, form = FORMULAS[i % len(FORMULAS)]
    factor = i + 2
    return gold, form.replace("A", str(number * factor + (i // 8) % 2)).replace("K", str(factor))


def integrals(i: int) -> tuple[str, str]:
    return f"\\frac{{{i % 20}}}{{2}}", f"\\int_0^1 {i} x \\, dx"


def mixed(i: int) -> tuple[str, str]:
    return integrals(i) if i % 50 == 0 else formulas(i) if i % 5 < 2 else numbers(i)


def processor_s() -> float:
    """Processor time so far, of this process and of the helpers."""
    spent = time.process_time()
    for helper in SHARED._idle:
        path = Path(f"/proc/{helper.process.pid}/stat")
        if path.exists():
            fields = path.read_text().rpartition(")")[2].split()
            spent += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime and stime
    return spent


def measure(load: Callable[[int], tuple[str, str]], count: int, threads: int) -> tuple[float, float]:
    """Answers a second, and processor seconds an answer."""
    cases = [load(i) for i in range(count)]
    with ThreadPoolExecutor(threads) as pool:
        list(
            pool.map(lambda case: grade(Problem("", case[0]), case[1], time_limit_s=60.0), cases[: 2 * threads])
        )  # start
        begin, spent = time.perf_counter(), processor_s()
        verdicts = list(pool.map(lambda case: grade(Problem("", case[0]), case[1]), cases))
        seconds, spent = time.perf_counter() - begin, processor_s() - spent
    assert all(verdict.kind != "ungradable" for verdict in verdicts)
    return count / seconds, spent / count


def rates(setting: Setting) -> tuple[dict[str, int], dict[str, float]]:
    """Answers a second, and milliseconds of processor time an answer, of each load."""
    threads = setting.threads or os.cpu_count() or 1
    rate, spent = {}, {}
    for load in (numbers, formulas, integrals, mixed):
        name = load.__name__
        each, seconds = measure(load, QUICK if setting.quick else COUNTS[name], threads)
        rate[name], spent[name] = round(each), round(1000 * seconds, 3)
        progress(f"{name}: {rate[name]:,} answers a second, {spent[name]:g} ms of processor time each")
    return rate, spent


def main() -> int:
    setting = parse(__doc__)
    found, spent = rates(setting)
    report(
        "grading",
        setting,
        {"answers_per_s": found, "processor_ms_per_answer": spent},
        [Check("mixed answers graded a second", float(found["mixed"]), ">=", WANTED)],
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
