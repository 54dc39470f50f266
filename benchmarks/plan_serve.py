"""Does `reflective plan serve` predict what the server does? Nano, requests at random times over loopback.

The rates are measured on the engine, and what a request costs besides on the idle server; the lengths come from other
seeds than the load. Then the load runs, and the median and the 95th percentile of its latency are compared with the
simulated ones. The server runs in a process of its own. Beside other work on the machine the figures mean nothing.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import aiohttp
from common import Check, parse, progress, report, rounded

from reflective import Reflective
from reflective.nano import EXAMPLES
from reflective.serve.plan.measure import measured_rates
from reflective.serve.plan.outcome import work_s
from reflective.serve.plan.rates import Rates
from reflective.serve.plan.simulate import Load, Outcome, simulate

WITHIN = 0.20  # of the real figures
EFFORT = 4
SAMPLED = 32  # trajectories of each prompt, to draw lengths from
BUSY = 0.25  # of what full replicas could write; steps with few rows are worth more, so it is busier than that
PROMPTS = tuple(EXAMPLES.values())


def measured(most_rows: int) -> tuple[Rates, tuple[tuple[int, ...], ...], float, float]:
    """Rates; tokens of reasonings, problem by problem, of answers and of prompts."""
    with Reflective.from_pretrained("nano") as model:
        rates = measured_rates(model.engine, PROMPTS, most_rows=most_rows)
        lengths: list[list[int]] = []
        answers, prompts = [], []
        for solution in (model.solve(prompt, effort=SAMPLED, seed=1000) for prompt in PROMPTS):
            prompts.append(solution.usage.prompt_tokens)
            lengths.append([])
            for t in solution.trajectories:
                whole = t.index == solution.selected and t.answer_text
                tail = len(model.engine.tokenizer.encode(t.answer_text)) if whole else 0  # type: ignore[attr-defined]
                lengths[-1].append(max(t.tokens - tail, 1))
                answers += [tail] if whole else []
    return rates, tuple(map(tuple, lengths)), sum(answers) / max(len(answers), 1), sum(prompts) / len(prompts)


def body(seed: int) -> dict[str, Any]:
    """A request."""
    message = {"role": "user", "content": PROMPTS[seed % len(PROMPTS)]}
    return {"model": "nano", "messages": [message], "seed": seed, "reflective": {"effort": EFFORT}}


async def latencies(url: str, starts: list[float], seed: int) -> list[float]:
    """Seconds of requests that start at these times."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:

        async def one(index: int, at: float) -> float:
            await asyncio.sleep(max(at - time.perf_counter(), 0))
            began = time.perf_counter()
            async with client.post(f"{url}/v1/chat/completions", json=body(seed + index)) as response:
                assert response.status == 200, await response.text()
                await response.read()
            return time.perf_counter() - began

        now = time.perf_counter()
        return list(await asyncio.gather(*(one(i, now + at) for i, at in enumerate(starts))))


def service(work: Any) -> Any:
    """What `work` gives with the address of a server of its own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "reflective", "serve", "--model", "nano", "--port", str(port)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ})
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        return work(url)
    finally:
        process.terminate()
        process.wait(30)


def main() -> None:
    setting = parse(__doc__, repeats=1)
    most_rows = 4 if setting.quick else 64
    requests = 20 if setting.quick else 600
    progress("measuring the rates")
    rates, lengths, answer, prompt = measured(most_rows)
    load = Load(1.0, EFFORT, answer_tokens=answer, prompt_tokens=prompt, lengths=lengths, requests=requests)
    load = replace(load, per_minute=60 * BUSY / work_s(load, rates))
    idle = simulate(replace(load, per_minute=0.001, requests=500), rates)

    def work(url: str) -> tuple[Rates, list[float]]:
        alone: list[float] = []
        for seed in range(2 * len(PROMPTS)):
            alone += asyncio.run(latencies(url, [0.0], 2000 + seed))
        ours = Outcome.quantile(alone[len(PROMPTS) :], 0.5) - Outcome.quantile(idle.latency, 0.5)
        progress(f"a request alone: {Outcome.quantile(alone, 0.5):.3f} s, {ours:+.3f} s to the simulated one")
        chance, at, starts = random.Random(1), 0.0, []
        for _ in range(requests):
            at += chance.expovariate(load.per_minute / 60)
            starts.append(at)
        progress(f"{requests} requests in {at:.0f} s")
        return replace(rates, request_s=max(ours, 0.0)), asyncio.run(latencies(url, starts, 5000))[requests // 5 :]

    rates, real = service(work)
    foreseen = simulate(replace(load, requests=max(requests, 2000)), rates)
    sides = {
        side: {"median_s": rounded(Outcome.quantile(values, 0.5)), "p95_s": rounded(Outcome.quantile(values, 0.95))}
        for side, values in (("predicted", foreseen.latency), ("server", real))
    }
    ratios = {key: sides["predicted"][key] / sides["server"][key] for key in ("median_s", "p95_s")}
    checks = [Check(f"{key} predicted / real, off 1", abs(ratios[key] - 1), "<=", WITHIN) for key in ratios]
    figures = {
        "sides": sides,
        "ratio_of": "median seconds, predicted / server",
        "ratio": rounded(ratios["median_s"]),
        "ratio_p95": rounded(ratios["p95_s"]),
        "per_minute": rounded(load.per_minute),
        "busy": rounded(foreseen.busy),
        "requests": requests,
    }
    report("plan_serve", setting, figures, checks)


if __name__ == "__main__":
    main()
