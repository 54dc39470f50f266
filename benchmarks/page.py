"""Does the page keep up? A run of nano's with 32 trajectories, replayed ten times as fast in Chromium, and the time
between two frames, from Chromium's own trace.

    python benchmarks/page.py            # a minute; needs Chromium and playwright
    python benchmarks/page.py --quick    # does it work?

The run is recorded from `reflective serve` as the page saves it, then loaded and replayed by the page's own buttons. A
frame is what lies between two `BeginMainThreadFrame` of the page: the replay asks for one at every refresh, so a long
one is one that the page's scripts, styles or layout held up.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

from common import Check, hardware, progress, rounded

from reflective.nano import EXAMPLES
from reflective.records.manifest import versions
from serve import Server, ask

LONGEST_MS = 100
SPEED = 10
LANES = 32
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CATEGORIES = ["devtools.timeline", "disabled-by-default-devtools.timeline.frame", "blink.user_timing", "toplevel"]


def recorded(port: int, problem: str, lanes: int) -> dict[str, Any]:
    """A run as the page saves it."""
    options = {"events": True, "steps": True, "effort": lanes, "answers": "all"}
    events: list[tuple[int, Any]] = []

    def take(seconds: float, line: bytes) -> None:
        chunk = json.loads(line[6:]) if line.startswith(b"data: {") else {}
        delta = chunk.get("choices", [{}])[0].get("delta", {}).get("content")
        for event in ({"type": "content", "delta": delta} if delta else None, chunk.get("reflective")):
            if event:
                events.append((round(1000 * seconds), event))

    asyncio.run(ask(port, problem, stream=True, effort="high", reflective=options, line=take))
    request = {"model": "nano", "messages": [{"role": "user", "content": problem}], "reflective": options}
    return {"format": "reflective run", "version": 1, "request": request, "events": events}


def replayed(url: str, run: Path) -> list[dict[str, Any]]:
    """Chromium's trace of a replay, until the answer is shown."""
    from playwright.sync_api import sync_playwright

    browser_path = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser_path is None:
        raise SystemExit(f"no Chromium here (looked for {', '.join(BROWSERS)}): apt install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(url)
        page.locator("#file").set_input_files(run)
        page.locator("#answer:not([hidden])").wait_for()
        page.get_by_label("Speed of the replay").select_option(str(SPEED))
        page.wait_for_timeout(1000)  # what the loaded run still sets
        browser.start_tracing(page=page, categories=CATEGORIES)
        page.evaluate("performance.mark('replay')")
        page.get_by_role("button", name="Replay").click()
        page.locator("#answer:not([hidden])").wait_for(timeout=120_000)
        page.evaluate("performance.mark('shown')")
        trace = json.loads(browser.stop_tracing())
        browser.close()
    found: list[dict[str, Any]] = trace["traceEvents"]
    return found


def frames_ms(trace: list[dict[str, Any]]) -> list[float]:
    """The length of each frame between the two marks."""
    marks = {e["name"]: e for e in trace if e["name"] in ("replay", "shown") and "blink.user_timing" in e["cat"]}
    began, over = marks["replay"]["ts"], marks["shown"]["ts"]
    begun = sorted(e["ts"] for e in trace if e["name"] == "BeginMainThreadFrame" and e["pid"] == marks["replay"]["pid"])
    inside = [began, *(ts for ts in begun if began < ts < over), over]
    return [(b - a) / 1000 for a, b in itertools.pairwise(inside)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="four trajectories, one replay")
    args = parser.parse_args()
    lanes, repeats = (4, 1) if args.quick else (LANES, 3)
    with Server() as server, tempfile.TemporaryDirectory() as folder:
        run = recorded(server.port, next(iter(EXAMPLES.values())), lanes)
        solved = run["events"][-1][1]
        progress(f"recorded {len(run['events'])} events in {run['events'][-1][0] / 1000:.1f} s")
        file = Path(folder) / "run.json"
        file.write_text(json.dumps(run), encoding="utf-8")
        rounds = [frames_ms(replayed(f"http://127.0.0.1:{server.port}/", file)) for _ in range(repeats)]
    longest = [max(frames) for frames in rounds]
    checks = [Check("longest frame of all replays, ms", max(longest), "<=", LONGEST_MS)]
    line = {
        "benchmark": "page",
        "setting": {"quick": args.quick, "lanes": lanes, "speed": SPEED, "repeats": repeats},
        "recorded": {
            "events": len(run["events"]),
            "seconds": run["events"][-1][0] / 1000,
            "tokens": solved["usage"]["completion_tokens"],
        },
        "frames": [len(frames) for frames in rounds],
        "median_ms": [rounded(statistics.median(frames)) for frames in rounds],
        "longest_ms": [rounded(value) for value in longest],
        "checks": [check.to_json(quick=args.quick) for check in checks],
        "hardware": hardware(),
        "versions": versions(("reflective", "playwright")),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
