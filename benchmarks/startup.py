"""How long a user waits: `reflective --help`, and `reflective solve` on nano to its first scored step, each cold.

Cold means a new process. What a run of `solve` takes after its first scored step is subtracted, so leaving the process
still counts against us. The first run of each is told apart, since files may then come from the disk.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from importlib import resources

from common import Check, Result, Setting, alternate, median, parse, progress, report, rounded, summary

HELP_AT_MOST_S, FIRST_STEP_AT_MOST_S = 0.3, 6.0
PROBLEM = "Using the numbers 3, 7, 11, 25 (each at most once), create an expression that equals 58."


def reflective(setting: Setting, *arguments: str) -> tuple[float, str]:
    """Seconds of a command, and what it printed."""
    environment = dict(os.environ)
    if setting.threads:
        environment["OMP_NUM_THREADS"] = str(setting.threads)
    start = time.perf_counter()
    command = [sys.executable, "-m", "reflective", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    taken = time.perf_counter() - start
    if not done.stdout:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return taken, done.stdout


def main() -> None:
    setting = parse(__doc__)
    effort = "2" if setting.quick else "high"

    def help_() -> Result:
        return {"seconds": reflective(setting, "--help")[0]}

    def first_step() -> Result:
        taken, printed = reflective(setting, "solve", PROBLEM, "--effort", effort, "--json", "-q")
        timing = json.loads(printed)["timing"]
        after = timing["total_s"] - timing["first_step_s"] if timing["first_step_s"] is not None else 0.0
        return {"seconds": taken - after}

    runs = {"help": help_}
    if (resources.files("reflective.nano") / "weights" / "config.json").is_file():
        runs["solve_to_first_scored_step"] = first_step
    else:
        progress("nano is not part of this installation: only --help is measured")
    first = {name: run()["seconds"] for name, run in runs.items()}
    results = alternate(runs, setting.repeats)
    solved = median(results["solve_to_first_scored_step"]) if "solve_to_first_scored_step" in results else None
    figures = {
        "sides": {name: summary(found) | {"first_run_s": rounded(first[name])} for name, found in results.items()},
        "ratio_of": "seconds, help / its limit",
        "ratio": rounded(median(results["help"]) / HELP_AT_MOST_S),
    }
    checks = [
        Check("help in seconds", median(results["help"]), "<=", HELP_AT_MOST_S),
        Check("solve to its first scored step in seconds", solved, "<=", FIRST_STEP_AT_MOST_S),
    ]
    report("startup", setting, figures, checks)


if __name__ == "__main__":
    main()
