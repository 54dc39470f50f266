"""The server under load, with nano: against the bare engine, one after another, cut off, unfair, and with many
connections. The load comes from this process, over loopback; the server and the bare engine run in processes of their
own, by turns.

    python benchmarks/serve.py                  # about ten minutes on two quiet cores
    python benchmarks/serve.py --quick          # does it work?
    python benchmarks/serve.py --only throughput fairness
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import contextmanager, suppress
from typing import Any

from common import Check, hardware, progress, rounded

from reflective.records.manifest import versions
from reflective.tasks import load_problems

IN_FLIGHT = 64
PARTS = ("throughput", "first_event", "cut", "fairness", "connections", "signal")


# ---- the two sides


def problems(count: int) -> list[str]:
    return [p.text for p in load_problems("lcm", limit=count)]


def bare(count: int) -> None:
    """The engine alone, all problems at once: seconds for each line on standard input."""
    from reflective import Reflective

    texts = problems(count)
    with Reflective.from_pretrained("nano") as model:
        k, strategy, settings = model.plan(effort="low", seed=1)
        from reflective.search import solve_many

        for _ in sys.stdin:
            began = time.perf_counter()
            done = solve_many(
                model.engine,
                texts,
                k,
                strategy=strategy,
                settings=settings,
                calibration=model.calibration,
                in_flight=2 * IN_FLIGHT,
            )
            tokens = sum(solution.usage.completion_tokens for _, solution in done)
            print(json.dumps({"seconds": time.perf_counter() - began, "tokens": tokens}), flush=True)


@contextmanager
def process(*arguments: str) -> Any:
    with subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as started:
        try:
            yield started
        finally:
            started.kill()


class Server:
    """`reflective serve` in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "reflective", "serve", "--port", str(self.port), *arguments],
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + 300
        while time.monotonic() < until:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.1)
        self.process.kill()
        raise SystemExit("the server did not start")

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def memory_mb(self) -> float:
        """Resident."""
        with open(f"/proc/{self.process.pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def gauge(self, name: str) -> float:
        """A figure of /metrics."""
        return figure(asyncio.run(get(self.port, "/metrics"))[1], name)


def figure(metrics: str, name: str) -> float:
    """A figure of what /metrics gave."""
    found = re.search(rf"^{name} (\S+)$", metrics, re.MULTILINE)
    return float(found[1]) if found else float("nan")


# ---- a client that costs little


async def get(port: int, path: str) -> tuple[int, str]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    got = (await reader.read()).decode()
    writer.close()
    return int(got.split()[1]), got.partition("\r\n\r\n")[2]


async def ask(
    port: int,
    text: str,
    *,
    stream: bool = False,
    effort: str = "low",
    cut_s: float | None = None,
    line: Callable[[float, bytes], None] = lambda seconds, line: None,
    **more: Any,
) -> dict[str, Any]:
    """One request on a connection of its own; seconds to the answer, and to the first scored step or progress.

    `line` gets every line of a stream with the seconds since its request."""
    asked = {"model": "nano", "messages": [{"role": "user", "content": text}], "reasoning_effort": effort, "seed": 1}
    body = json.dumps(asked | {"stream": stream} | more).encode()
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    first, got = None, b""
    try:
        async with asyncio.timeout(cut_s):
            while part := await reader.read(65536):
                before, got = got, got + part
                if stream:
                    for found in (before.rpartition(b"\n")[2] + part).split(b"\n")[:-1]:
                        line(time.perf_counter() - began, found.strip())
                if first is None and b'"reflective"' in got:
                    first = time.perf_counter() - began
    except TimeoutError:
        return {"status": 0, "seconds": time.perf_counter() - began, "first": first, "cut": True}
    except ConnectionError:
        return {"status": 0, "seconds": time.perf_counter() - began, "first": first, "whole": False, "body": b""}
    finally:
        writer.close()
    status = int(got.split(maxsplit=2)[1]) if got else 0
    whole = b"data: [DONE]" in got if stream else got.rstrip().endswith(b"}")
    return {"status": status, "seconds": time.perf_counter() - began, "first": first, "whole": whole, "body": got}


async def together(jobs: list[Coroutine[Any, Any, dict[str, Any]]]) -> list[dict[str, Any]]:
    return list(await asyncio.gather(*jobs))


# ---- what is measured


def throughput(quick: bool) -> tuple[dict[str, Any], list[Check]]:
    count, rounds = (8, 1) if quick else (IN_FLIGHT, 5)
    texts = problems(count)
    times: dict[str, list[float]] = {"server": [], "bare": [], "one after another": []}
    with Server() as server, process(__file__, "--bare", str(count)) as engine:

        def run_bare() -> float:
            engine.stdin.write("\n")
            engine.stdin.flush()
            return float(json.loads(engine.stdout.readline())["seconds"])

        def run_server() -> float:
            began = time.perf_counter()
            got = asyncio.run(together([ask(server.port, text) for text in texts]))
            taken = time.perf_counter() - began
            if not all(g["status"] == 200 and g["whole"] for g in got):
                raise SystemExit("a request failed under load")
            return taken

        sides: list[tuple[str, Callable[[], float]]] = [("server", run_server), ("bare", run_bare)]
        for _, run in sides:
            run()
        for i in range(rounds):
            for name, run in sides if i % 2 else sides[::-1]:
                times[name].append(run())
        for _ in range(1 if quick else 2):
            began = time.perf_counter()
            for text in texts[: max(4, count // 4)]:
                asyncio.run(ask(server.port, text))
            times["one after another"].append((time.perf_counter() - began) * count / max(4, count // 4))
    medians = {name: statistics.median(found) for name, found in times.items()}
    ratios = [a / b for a, b in zip(times["server"], times["bare"])]
    return {
        "median_s": {name: rounded(value) for name, value in medians.items()},
        "server_over_bare_per_round": [rounded(r) for r in ratios],
    }, [
        Check("server / bare engine", statistics.median(ratios), "<=", 1.10),
        Check("in flight / one after another", medians["one after another"] / medians["server"], ">=", 5),
    ]


def first_event(quick: bool) -> tuple[dict[str, Any], list[Check]]:
    texts = problems(10)
    with Server() as server:
        asyncio.run(ask(server.port, texts[0]))
        runs = [asyncio.run(ask(server.port, text, stream=True)) for text in texts[: 2 if quick else 10]]
    median = statistics.median(run["first"] for run in runs)
    return {"first_progress_event_s": rounded(median)}, [Check("first progress event, ms", 1000 * median, "<=", 150)]


def cut(quick: bool) -> tuple[dict[str, Any], list[Check]]:
    count = 16 if quick else 200
    draw = random.Random(0)
    with Server() as server:
        texts = problems(16)

        async def run() -> list[dict[str, Any]]:
            limits = [draw.uniform(0.01, 3.0) if i % 2 else None for i in range(count)]
            jobs = [ask(server.port, texts[i % 16], stream=True, cut_s=limit) for i, limit in enumerate(limits)]
            return await together(jobs)

        got = asyncio.run(run())
        time.sleep(1.0)
        left = sum(
            server.gauge(f"reflective_{name}") for name in ("queue_requests", "active_requests", "active_trajectories")
        )
    stayed = [g for i, g in enumerate(got) if not i % 2]
    answered = sum(g["status"] == 200 and g["whole"] for g in stayed)
    return {"requests": count, "cut": sum("cut" in g for g in got), "answered": answered}, [
        Check("left behind after a second", left, "<=", 0),
        Check("share of the others answered", answered / len(stayed), ">=", 1),
    ]


def fairness(quick: bool) -> tuple[dict[str, Any], list[Check]]:
    texts = problems(10)
    rounds = 1 if quick else 5
    with Server() as server:

        async def client(text: str) -> float:
            return statistics.median([(await ask(server.port, text))["seconds"] for _ in range(rounds)])

        async def low() -> list[float]:
            return await asyncio.gather(*map(client, texts))

        async def beside() -> list[float]:
            async def endless() -> None:
                while True:
                    await ask(server.port, texts[0], effort="high")

            high = asyncio.create_task(endless())
            await asyncio.sleep(1.0)
            found = await low()
            high.cancel()
            return found

        asyncio.run(low())
        alone = asyncio.run(low())
        contended = asyncio.run(beside())
    slower = [b / a for a, b in zip(alone, contended)]
    medians = {"alone_s": rounded(statistics.median(alone)), "beside_s": rounded(statistics.median(contended))}
    return medians | {"slower": [rounded(r) for r in slower]}, [
        Check("the slowest of ten low clients beside an endless high one, times as slow", max(slower), "<=", 2.0)
    ]


def connections(quick: bool) -> tuple[dict[str, Any], list[Check]]:
    """Idle connections ask /health now and then, since the server closes those that ask nothing for 75 seconds."""
    idle, active, requests = (50, 10, 40) if quick else (1800, 200, 10_000)
    texts = problems(16)
    with Server("--queue", "4096") as server:

        async def run() -> tuple[int, int, list[float]]:
            over = asyncio.Event()
            failed, memory = 0, []

            async def held() -> None:
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                last = False
                while not last:
                    last = over.is_set()
                    writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    head = await reader.readuntil(b"\r\n\r\n")
                    await reader.readexactly(int(re.search(rb"content-length: (\d+)", head)[1]))  # type: ignore[index]
                    if not last:
                        with suppress(TimeoutError):
                            await asyncio.wait_for(over.wait(), 30)
                writer.close()

            async def work(count: int) -> None:
                nonlocal failed
                left = count

                async def worker(number: int) -> None:
                    nonlocal failed, left
                    while left > 0:
                        left -= 1
                        got = await ask(server.port, texts[number % 16], effort="none", max_tokens=4)
                        failed += not (got["status"] == 200 and got["whole"])
                        if left % max(count // 20, 1) == 0:
                            memory.append(server.memory_mb())

                await asyncio.gather(*(worker(i) for i in range(active)))

            waiting = [asyncio.create_task(held()) for _ in range(idle)]
            await work(max(requests // 10, active))  # warms up
            memory.clear()
            await work(requests)
            over.set()
            ended = await asyncio.gather(*waiting, return_exceptions=True)
            return failed, sum(end is not None for end in ended), memory

        began = time.perf_counter()
        failed, lost, memory = asyncio.run(run())
        taken = time.perf_counter() - began
    change = max(abs(value / memory[0] - 1) for value in memory)
    figures = {"connections": idle + active, "requests": requests, "seconds": rounded(taken)}
    return figures | {"memory_mb": [round(m) for m in memory]}, [
        Check("failed requests", failed, "<=", 0),
        Check("idle connections that were lost", lost, "<=", 0),
        Check("change of memory since the first of the requests", change, "<=", 0.05),
    ]


def ended(quick: bool) -> tuple[dict[str, Any], list[Check]]:
    texts = problems(16)
    with Server() as server:

        async def run() -> tuple[list[dict[str, Any]], float]:
            jobs = [
                asyncio.create_task(
                    ask(server.port, texts[i % 16], effort="low" if i % 2 else "high", stream=i % 3 == 0)
                )
                for i in range(16 if quick else 64)
            ]
            await asyncio.sleep(1.5)
            inside = 0.0
            while inside + sum(job.done() for job in jobs) < len(jobs):  # until all are accepted
                text = (await get(server.port, "/metrics"))[1]
                inside = figure(text, "reflective_queue_requests") + figure(text, "reflective_active_requests")
            began = time.perf_counter()
            server.process.send_signal(signal.SIGTERM)
            return [await job for job in jobs], began

        got, began = asyncio.run(run())
        code = server.process.wait(30)
        taken = time.perf_counter() - began
    clean = sum((g["status"] == 200 and (g["whole"] or b'"error"' in g["body"])) or g["status"] == 503 for g in got)
    return {"requests": len(got), "exit_code": code, "exit_s": rounded(taken)}, [
        Check("share answered or cleanly refused", clean / len(got), ">=", 1),
        Check("seconds to the exit", taken, "<=", 10),
    ]


RUNS = {
    "throughput": throughput,
    "first_event": first_event,
    "cut": cut,
    "fairness": fairness,
    "connections": connections,
    "signal": ended,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny run of each part")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="these parts")
    parser.add_argument("--bare", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.bare:
        bare(args.bare)
        return
    line: dict[str, Any] = {"benchmark": "serve", "setting": {"quick": args.quick}, "parts": {}, "checks": []}
    for name in args.only:
        progress(name)
        figures, checks = RUNS[name](args.quick)
        line["parts"][name] = figures
        line["checks"] += [check.to_json(quick=args.quick) for check in checks]
        progress(json.dumps(line["parts"][name]) + " " + json.dumps([c.to_json(quick=args.quick) for c in checks]))
    line |= {"hardware": hardware(), "versions": versions(("reflective", "torch", "uvicorn", "fastapi"))}
    print(json.dumps(line))


if __name__ == "__main__":
    main()
