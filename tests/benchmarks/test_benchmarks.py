"""The benchmarks work: each in a quick run, and what they share by hand-computed values."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
QUICK = ["scores_cost", "hf_generate", "operators", "reference_way", "floor", "prefill", "startup", "evaluate_speed"]
QUICK += ["joint_step", "edge", "limits", "plan_serve", "effort_auto"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def common():
    """The helper, loaded by its path: `benchmarks/` is no package."""
    spec = importlib.util.spec_from_file_location("benchmarks_common", FOLDER / "common.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


# a script as it runs where vLLM is not installed
WITHOUT_VLLM = """
import runpy, sys
from pathlib import Path
sys.modules["vllm"] = None
del sys.argv[0]
sys.path[0] = str(Path(sys.argv[0]).parent)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(script, *arguments, timeout=600, python=()):
    command = [sys.executable, *python, str(FOLDER / f"{script}.py"), "--quick", "--threads", "1", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=timeout)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.long
@pytest.mark.parametrize("script", QUICK)
def test_a_quick_run_ends_in_one_line_with_both_sides_and_the_ratio(script):
    line = run(script)
    assert line["benchmark"] == script and line["setting"]["quick"] is True
    assert line["ratio"] > 0 and all(side["median_s"] > 0 for side in line["sides"].values())
    assert line["hardware"]["cores"] >= 1 and {"python", "torch", "transformers"} <= set(line["versions"])
    assert all(check["reached"] is None for check in line["checks"])


@pytest.mark.long
def test_a_quick_run_of_the_server_under_load_loses_nothing():
    command = [sys.executable, str(FOLDER / "serve.py"), "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    line = json.loads(done.stdout.splitlines()[-1])
    assert len(line["parts"]) == 6 and all(check["reached"] is None for check in line["checks"])
    values = {check["name"]: check["value"] for check in line["checks"]}
    for name in ("left behind after a second", "failed requests", "idle connections that were lost"):
        assert values[name] == 0
    for name in ("share of the others answered", "share answered or cleanly refused"):
        assert values[name] == 1


@pytest.mark.long
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium here")
def test_a_quick_run_of_the_page_measures_its_frames():
    command = [sys.executable, str(FOLDER / "page.py"), "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    line = json.loads(done.stdout.splitlines()[-1])
    assert line["recorded"]["tokens"] > 100 and line["frames"][0] > 3 and line["longest_ms"][0] >= line["median_ms"][0]


@pytest.mark.long
def test_the_benchmark_for_gpus_runs_on_a_cpu_and_says_so_where_there_is_no_gpu():
    command = [sys.executable, str(FOLDER / "gpu.py"), "--quick"]
    done = subprocess.run([*command, "--device", "cpu"], capture_output=True, text=True, env=ENVIRONMENT)
    line = json.loads(done.stdout.splitlines()[-1])
    assert line["device"] == "cpu" and len(line["results"]) == 4 and not line["left_out"]
    assert line["results"]["half, n = 32"]["reference_over_ours"] > 0
    hidden = {**ENVIRONMENT, "CUDA_VISIBLE_DEVICES": ""}
    none = subprocess.run(["sh", str(FOLDER / "gpu.sh")], capture_output=True, text=True, env=hidden)
    assert none.returncode == 2 and "no CUDA device" in none.stderr and not none.stdout


@pytest.mark.long
def test_the_larger_shape_and_the_memory_of_both_ways():
    line = run("reference_way", "--shape", "half")
    assert line["memory_ratio"] > 0 and line["memory_ratio_without_libraries"] > 1
    assert [check["name"] for check in line["checks"]] == ["time", "memory"]


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_vllm_is_compared():
    line = run("vllm_cpu", timeout=1800)
    assert line["ratio"] > 0 and line["faster"].startswith("vllm_"), line["unavailable"]


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_scores_in_vllm_are_compared_in_both_modes_with_the_references_way_and_over_http():
    line = run("vllm_scores", timeout=1800)
    assert line["unavailable"] == {} and set(line["ratios"]) == {"raw_logits", "raw_logprobs", "reference", "http"}
    assert all(found["ratio"] > 0 for found in line["ratios"].values())


@pytest.mark.slow
def test_without_vllm_it_is_told_and_ours_is_measured():
    line = run("vllm_cpu", python=("-c", WITHOUT_VLLM))
    assert line["ratio"] is None and set(line["sides"]) == {"ours"}


@pytest.mark.slow
def test_run_all_prints_a_table_and_one_line(tmp_path):
    kept = tmp_path / "lines.jsonl"
    command = [sys.executable, str(FOLDER / "run_all.py"), "--quick", "--threads", "1", "--shape", "nano"]
    command += ["--only", "scores_cost", "prefill", "--output", str(kept)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    line = json.loads(done.stdout)
    assert [result["benchmark"] for result in line["results"]] == ["scores_cost", "prefill"] and line["failed"] == []
    assert len(kept.read_text().splitlines()) == 2
    assert "| scores_cost | nano |" in done.stderr


def test_sides_alternate_and_the_order_turns_around_after_a_round_that_does_not_count(common):
    order = []

    def side(name):
        return lambda: order.append(name) or {"seconds": float(len(order))}

    results = common.alternate({"a": side("a"), "b": side("b")}, 3)
    assert "".join(order) == "ab" + "ab" + "ba" + "ab"
    assert [r["seconds"] for r in results["a"]] == [3.0, 6.0, 7.0]


def test_ratio_is_that_of_the_medians_with_the_spread_of_the_rounds(common):
    a, b = ([{"seconds": s} for s in seconds] for seconds in ((2.0, 8.0, 3.0), (1.0, 2.0, 1.5)))
    assert common.ratio(a, b) == {"ratio": 2.0, "ratio_low": 2.0, "ratio_high": 4.0}
    assert common.summary(a, tokens=30) == {"median_s": 3.0, "runs_s": [2.0, 8.0, 3.0], "tokens_per_s": 10.0}


@pytest.mark.parametrize(
    ("value", "sign", "limit", "reached"),
    [(2.0, ">=", 2.0, True), (1.9, ">=", 2.0, False), (1.02, "<=", 1.02, True), (1.03, "<=", 1.02, False)],
)
def test_a_check_is_reached_on_the_right_side_of_its_limit(common, value, sign, limit, reached):
    check = common.Check("x", value, sign, limit)
    assert check.to_json(quick=False)["reached"] is reached
    assert check.to_json(quick=True)["reached"] is None
    assert common.Check("x", None, sign, limit).to_json(quick=False)["reached"] is None


SIDE = """
import os, sys, time
sys.path.insert(0, {folder!r})
from common import Setting, Unavailable, scratch, serve_if_asked

def counting(setting):
    count = 0
    def run():
        nonlocal count
        count += 1
        print("noise on stdout")
        folder = scratch() / str(count)
        folder.mkdir()
        return {{"seconds": 1.0, "count": count, "pid": os.getpid(), "rows": setting.rows, "folder": str(folder)}}
    return run

def missing(setting):
    raise Unavailable("buy more memory")

def failing(setting):
    raise ZeroDivisionError("on purpose")

serve_if_asked({{"counting": counting, "missing": missing, "failing": failing}})
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "side.py"
    path.write_text(SIDE.format(folder=str(FOLDER)))
    return str(path)


def process_state(pid):
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_side_is_stopped_while_it_is_not_its_turn_and_killed_at_the_end(common, script):
    worker = common.Worker(script, "counting", common.Setting(rows=7))
    first, second = worker.run(), worker.run()
    assert (first["count"], second["count"], first["rows"]) == (1, 2, 7) and first["peak_memory_bytes"] > 1e6
    deadline = time.monotonic() + 10
    while process_state(first["pid"]) != "T" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process_state(first["pid"]) == "T" and Path(second["folder"]).is_dir()
    worker.kill()
    assert not Path(second["folder"]).parent.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(first["pid"], 0)


def test_a_side_that_is_not_available_or_fails_is_left_out_and_told(common, script):
    before = signal.getsignal(signal.SIGTERM)
    try:
        results, about = common.compare_processes(script, ["counting", "missing", "failing"], common.Setting(repeats=2))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert list(results) == ["counting"] and len(results["counting"]) == 2
    assert about["missing"] == {"unavailable": "buy more memory"}
    assert "ZeroDivisionError: on purpose" in about["failing"]["unavailable"]
