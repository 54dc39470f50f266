"""What evaluation costs: grading, figures from records, a report over many trajectories, and the runner itself.

    python benchmarks/evaluate_speed.py

`grading`: answers graded a second (see `grading.py`). `figures`: every strategy and selector at every k with
bootstrapped intervals, 1,319 problems × 32 trajectories. `report`: `reflective report` over 3,125 problems × 32
trajectories with texts, in a process of its own, with its peak memory. `runner`: solving, grading and recording
problems of nano against solving them alone, in alternating rounds.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import Check, Result, Setting, alternate, parse, progress, ratio, report, rounded, summary, timed
from grading import WANTED, rates

MEMORY = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
sys.exit(code)
"""


def figures(setting: Setting) -> float:
    """Seconds for all figures of a table."""
    from reflective.evaluate.summary import summarise
    from reflective.evaluate.table import Table
    from reflective.records import Record

    problems, n = (40, 8) if setting.quick else (1319, 32)
    rng = random.Random(0)
    table = Table.of(Record.from_json(record(rng, i, n)) for i in range(problems))
    return timed(lambda: summarise(table))


def whole_report(setting: Setting, folder: Path) -> tuple[float, int]:
    """Seconds and peak bytes of `reflective report` in a process of its own."""
    problems, n = (20, 8) if setting.quick else (3125, 32)
    run = folder / "run"
    run.mkdir()
    write_run(run, problems, n)
    command = [sys.executable, "-m", "reflective", "report", str(run), "--output", str(folder / "report.html")]
    peak = 0

    def work() -> None:
        nonlocal peak
        done = subprocess.run([sys.executable, "-c", MEMORY, *command], stdout=subprocess.PIPE, text=True, check=True)
        peak = int(done.stdout)

    return timed(work), peak


def record(rng: random.Random, number: int, n: int) -> dict[str, Any]:
    """A problem with n trajectories, about as long as nano's."""
    skill = rng.random()
    trajectories = []
    for index in range(n):
        right = rng.random() < skill
        steps = rng.randint(4, 10)
        logits = [rng.gauss(0.8 if right else -0.4, 1.2) for _ in range(steps)]
        thinking = "".join(
            f"{rng.randint(10, 99)} + {rng.randint(10, 99)} = {rng.randint(20, 198)}.\n\n" for _ in logits
        )
        trajectories.append(
            {
                "index": index,
                "seed": index,
                "tokens": 12 * steps,
                "finish_reason": "eos",
                "score": rng.betavariate(4, 2) if right else rng.betavariate(2, 3),
                "step_logits": logits,
                "step_positions": list(range(11, 12 * steps, 12)),
                "answer": "42" if right else str(rng.randint(1, 8)),
                "verdict": {"kind": "right" if right else "wrong", "reason": "compared"},
                "mean_logprob": rng.gauss(-0.5, 0.1) + 0.1 * right,
                "thinking": thinking,
                "answer_text": "\\boxed{42}" if right else "\\boxed{7}",
                **{name: rng.gauss(1 + right, 1) for name in ("self_certainty", "confidence_mean", "confidence_tail")},
                **{name: rng.gauss(1 + right, 1) for name in ("confidence_lowest_group", "confidence_bottom10")},
            }
        )
    best = max(trajectories, key=lambda t: float(str(t["score"])))
    return {
        "version": 1,
        "problem": {
            "text": f"Problem {number}: what comes out?",
            "answer": "42",
            "id": f"p{number}",
            "family": ("sums", "products", "equations", "words")[number % 4],
            "kind": "exact",
            "metadata": {"level": number % 3 + 1},
        },
        "model": "made up",
        "strategy": "best_of_n",
        "effort": n,
        "seed": 0,
        "selected": best["index"],
        "answer": best["answer"],
        "confidence": rng.random(),
        "trajectories": trajectories,
        "usage": {"prompt_tokens": 20, "completion_tokens": sum(int(str(t["tokens"])) for t in trajectories)},
        "timing": {"total_s": 1.0},
        "verdict": best["verdict"],
        "extra": {"number": number},
    }


def write_run(folder: Path, problems: int, n: int) -> None:
    """A run folder of made-up records."""
    from reflective.records.manifest import RECORDS, Manifest, write_manifest

    write_manifest(folder, Manifest({"name": "made up"}, "made up", "best_of_n", n, 0, {}, problems, "0"))
    rng = random.Random(1)
    with (folder / RECORDS).open("w", encoding="utf-8") as file:
        for number in range(problems):
            file.write(json.dumps(record(rng, number, n)) + "\n")


def runner(setting: Setting, folder: Path) -> dict[str, list[Result]]:
    """Rounds of the bare engine and of the runner, on the same problems, as many of them in flight."""
    from reflective.api import Reflective
    from reflective.evaluate.run import Plan, run_benchmark
    from reflective.search import BestOfN, Settings, solve_many
    from reflective.search.many import ROWS_IN_FLIGHT
    from reflective.tasks import mixture

    count, k = (2, 2) if setting.quick else (20, 32)
    problems = list(mixture("test", count, (1, 2)))
    engine = Reflective.from_pretrained("nano", threads=setting.threads).engine
    settings = Settings(max_tokens=512)
    in_flight = max(ROWS_IN_FLIGHT, getattr(engine, "max_rows", 0))
    rounds = 0

    def bare() -> Result:
        def work() -> None:
            for _ in solve_many(engine, problems, k, strategy=BestOfN("all"), settings=settings, in_flight=in_flight):
                pass

        return {"seconds": timed(work)}

    def recorded() -> Result:
        nonlocal rounds
        rounds += 1
        plan = Plan(k, BestOfN("all"), settings, {"name": "mixture"})
        return {"seconds": timed(lambda: run_benchmark(engine, problems, plan, folder / f"round{rounds}"))}

    return alternate({"bare": bare, "runner": recorded}, setting.repeats)


def main() -> int:
    setting = parse(__doc__)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        graded, spent = rates(setting)
        figures_s = figures(setting)
        progress(f"figures: {figures_s:.1f} s")
        report_s, peak = whole_report(setting, folder)
        progress(f"report: {report_s:.1f} s, {peak / 2**30:.2f} GiB")
        results = runner(setting, folder)
    overhead = ratio(results["runner"], results["bare"])
    report(
        "evaluate_speed",
        setting,
        {
            "sides": {name: summary(result) for name, result in results.items()},
            "ratio_of": "runner / bare engine",
            **overhead,
            "answers_graded_per_s": graded,
            "processor_ms_per_answer": spent,
            "figures_s": rounded(figures_s),
            "report_s": rounded(report_s),
            "report_peak_bytes": peak,
        },
        [
            Check("mixed answers graded a second", float(graded["mixed"]), ">=", WANTED),
            Check("figures of 1,319 x 32 trajectories, s", figures_s, "<=", 10.0),
            Check("report over 100,000 trajectories, s", report_s, "<=", 60.0),
            Check("its peak memory, GiB", peak / 2**30, "<=", 2.0),
            Check("runner / bare engine", overhead["ratio"], "<=", 1.03),
        ],
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
