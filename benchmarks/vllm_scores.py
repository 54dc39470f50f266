"""What step scores cost in vLLM, and what they save: four ratios on the CPU, float32.

    vLLM with scores / plain vLLM             in the mode raw_logits, and in vLLM's default mode raw_logprobs
    the reference's way on vLLM / ours        generate, then re-read every trajectory with a second copy; time, memory
    over HTTP / in process (nano alone)       64 problems × 8 trajectories in flight, both through our engines

Plain vLLM runs without the plugin and without log-probabilities. All sides draw without per-request seeds and decode
no text, but for the last comparison, where both do the same real problems with the same seeds. Weights are random:
speed does not depend on them. The reference's second copy is a Hugging Face model, as in `reference_way.py`. Needs
vLLM; the model is compiled, as `vllm serve` does by default, unless the run is quick.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from common import (
    Check,
    Result,
    Run,
    Setting,
    Unavailable,
    compare_processes,
    parse,
    peak_memory,
    ratio,
    report,
    rounded,
    scratch,
    serve_if_asked,
    summary,
    timed,
)

LIMITS = {"raw_logits": 1.03, "raw_logprobs": 1.10, "http": 1.15}
TIME_AT_LEAST, MEMORY_AT_LEAST = 1.9, 1.8
PROBLEMS, SAMPLES = 64, 8
BLOCK = 128  # positions of the cache that vLLM hands out together on the CPU
SPARE = 8  # ids that the tokenizer does not use
ARCHITECTURES = {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


def environment(setting: Setting, **more: str) -> None:
    if importlib.util.find_spec("vllm") is None:
        raise Unavailable("vLLM is not installed. Install it with: make setup (Linux).")
    defaults = {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    if setting.threads and hasattr(os, "sched_getaffinity"):
        cores = sorted(os.sched_getaffinity(0))[: setting.threads]
        defaults["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, cores))
    for name, value in (defaults | more).items():
        os.environ.setdefault(name, value)


def folder_of(setting: Setting) -> Path:
    """A checkpoint of the shape: all but the weights of the backbone, which vLLM makes up."""
    from models import head, rule, settings_of, tokenizer
    from reflective.judge.config import JudgeConfig
    from reflective.judge.judge import Judge
    from reflective.judge.sidecar import write_judge

    folder = scratch() / "model"
    folder.mkdir()
    values = settings_of(setting)
    values |= {"architectures": [ARCHITECTURES[values["model_type"]]], "torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    tokenizer(values["vocab_size"] - SPARE).save_pretrained(folder)
    sizes: Any = SimpleNamespace(config=SimpleNamespace(**values))  # all that head and rule ask a model for
    steps = rule(sizes)
    known = {i for i in steps.step_ids if i < values["vocab_size"] - SPARE}
    config = JudgeConfig(values["hidden_size"], replace(steps, step_ids=frozenset(known)))
    (folder / "sprm").mkdir()
    write_judge(folder / "sprm", Judge(config, head(sizes)))
    return folder


def cache_bytes(setting: Setting) -> int:
    """Keys and values of all rows, in whole blocks with one to spare: no more, since peak memory is compared."""
    from models import settings_of

    values = settings_of(setting)
    width = values.get("head_dim") or values["hidden_size"] // values["num_attention_heads"]
    position = 2 * values["num_hidden_layers"] * values["num_key_value_heads"] * width * 4
    blocks = (setting.prompt + setting.tokens - 1) // BLOCK + 2
    return int(max((setting.rows + 2) * blocks * BLOCK, 2048)) * position


def generator(setting: Setting, *, scores: bool, **options: Any) -> tuple[Any, int]:
    """A function that writes all rows and gives back their tokens (and reads the scores of their steps).

    Also the memory that the libraries alone take.
    """
    from vllm import LLM, SamplingParams

    from models import prompt_ids
    from reflective.engines.vllm.slots import read_logit, slots_of
    from reflective.judge.format import step_positions
    from reflective.models.metadata import read_metadata

    folder = folder_of(setting)
    metadata = read_metadata(folder)
    slots = slots_of(metadata.tokenizer, metadata.model_config.get_text_config())
    libraries = peak_memory()
    llm = LLM(
        model=str(folder),
        load_format="dummy",
        skip_tokenizer_init=True,
        dtype="float32",
        enforce_eager=setting.quick,
        max_model_len=max(1024, setting.prompt + setting.tokens),
        max_num_seqs=max(setting.rows, 32),
        kv_cache_memory_bytes=cache_bytes(setting),
        **options,
    )
    asked = {"logprob_token_ids": list(slots.ids), "flat_logprobs": True} if scores else {}
    params = SamplingParams(
        n=setting.rows, temperature=1.0, max_tokens=setting.tokens, ignore_eos=True, detokenize=False, **asked
    )
    prompt = list(prompt_ids(setting))

    def write() -> list[list[int]]:
        (out,) = llm.generate([{"prompt_token_ids": prompt}], params, use_tqdm=False)
        rows = [list(one.token_ids) for one in out.outputs]
        assert sum(map(len, rows)) == setting.rows * setting.tokens
        if scores:
            for one, ids in zip(out.outputs, rows, strict=True):
                flat = one.logprobs
                for position in step_positions(metadata.judge.format, ids, prompt):
                    start = flat.start_indices[position]
                    read_logit(*flat.logprobs[start + 1 : start + 3])
        return rows

    return write, libraries


def measured(work: Any, libraries: int) -> Run:
    return lambda: {"seconds": timed(work), "libraries_bytes": libraries}


def plain(setting: Setting) -> Run:
    environment(setting, VLLM_PLUGINS="", VLLM_ENABLE_V1_MULTIPROCESSING="0")
    return measured(*generator(setting, scores=False))


def raw_logits(setting: Setting) -> Run:
    environment(setting, VLLM_ENABLE_V1_MULTIPROCESSING="0")
    return measured(*generator(setting, scores=True, logprobs_mode="raw_logits"))


def raw_logprobs(setting: Setting) -> Run:
    environment(setting, VLLM_ENABLE_V1_MULTIPROCESSING="0")
    return measured(*generator(setting, scores=True))


def reference(setting: Setting) -> Run:
    environment(setting, VLLM_PLUGINS="", VLLM_ENABLE_V1_MULTIPROCESSING="0")
    import torch

    from models import head, prompt_ids, random_model, rule
    from reflective.judge.format import step_positions

    write, libraries = generator(setting, scores=False)
    scorer = random_model(setting)
    judge, steps, prompt = head(scorer), rule(scorer), list(prompt_ids(setting))

    @torch.inference_mode()
    def score(ids: list[int]) -> None:
        positions = step_positions(steps, ids, prompt)
        out = scorer(input_ids=torch.tensor([[*prompt, *ids]]), output_hidden_states=True)
        judge(out.hidden_states[-2][0, [len(prompt) + p - 1 for p in positions]])

    def work() -> None:
        for ids in write():
            score(ids)

    return measured(work, libraries)


# ---- over HTTP and in process, through our engines


def searches(engine: Any, setting: Setting) -> Run:
    from reflective.engines.base import Finished, Request, Sampling

    problems = 2 if setting.quick else PROBLEMS
    prompts = [engine.encode_prompt(f"What is {3 * i + 7} * {i + 2} + {i}?") for i in range(problems)]

    def run() -> Result:
        tokens = steps = 0
        start = time.perf_counter()
        for number, prompt in enumerate(prompts):
            for sample in range(SAMPLES):
                seed = number * SAMPLES + sample
                engine.submit(Request(prompt, Sampling(), seed=seed, max_tokens=setting.tokens))
        while engine.busy:
            for event in engine.step():
                if isinstance(event, Finished):
                    tokens += event.trajectory.tokens
                    steps += len(event.trajectory.steps)
                    engine.cancel(event.id)
        return {"seconds": time.perf_counter() - start, "tokens": tokens, "steps": steps}

    return run


def in_process(setting: Setting) -> Run:
    environment(setting, VLLM_CPU_KVCACHE_SPACE="1")
    from reflective.engines.vllm.engine import VLLMEngine

    rows = PROBLEMS * SAMPLES
    return searches(
        VLLMEngine.from_source("nano", dtype="float32", max_rows=rows, enforce_eager=setting.quick), setting
    )


def http(setting: Setting) -> Run:
    environment(setting, VLLM_CPU_KVCACHE_SPACE="1")
    import urllib.request

    from reflective.engines.remote.engine import OpenAIEngine
    from reflective.models import resolve_source

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(resolve_source("nano"))]
    command += ["--dtype", "float32", "--host", "127.0.0.1", "--port", str(port), "--logprobs-mode", "raw_logits"]
    command += ["--max-num-seqs", str(PROBLEMS * SAMPLES), "--block-size", "32", "--no-enable-chunked-prefill"]
    command += ["--disable-log-stats", "--disable-uvicorn-access-log", *(["--enforce-eager"] if setting.quick else [])]
    server = subprocess.Popen(command, stdout=sys.stderr, stderr=sys.stderr)  # of this process group: ends with it
    for _ in range(1200):
        if server.poll() is not None:
            raise RuntimeError("vllm serve ended")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                break
        except OSError:
            time.sleep(0.5)
    return searches(OpenAIEngine.from_source("nano", [f"http://127.0.0.1:{port}/v1"]), setting)


COST = {"plain": plain, "raw_logits": raw_logits, "raw_logprobs": raw_logprobs, "reference": reference}
DISTANCE = {"in_process": in_process, "http": http}


def main() -> None:
    serve_if_asked(COST | DISTANCE)
    setting = parse(__doc__)
    results, about = compare_processes(__file__, list(COST), setting)
    if setting.shape == "nano":
        more, said = compare_processes(__file__, list(DISTANCE), setting)
        results, about = results | more, about | said
    ratios: dict[str, Result] = {}
    for name, over, under in (
        ("raw_logits", "raw_logits", "plain"),
        ("raw_logprobs", "raw_logprobs", "plain"),
        ("reference", "reference", "raw_logits"),
        ("http", "http", "in_process"),
    ):
        if over in results and under in results:
            ratios[name] = ratio(results[over], results[under])
    peaks = {name: results[name][-1]["peak_memory_bytes"] for name in COST if name in results}
    memory = without = None
    if {"reference", "raw_logits"} <= set(peaks):
        memory = peaks["reference"] / peaks["raw_logits"]
        own = {name: peaks[name] - results[name][-1]["libraries_bytes"] for name in peaks}
        without = own["reference"] / own["raw_logits"]
    figures: Result = {
        "sides": {name: summary(runs, _tokens(name, runs, setting)) for name, runs in results.items()},
        "unavailable": {name: told["unavailable"] for name, told in about.items() if "unavailable" in told},
        "ratio_of": "seconds, vLLM with scores (raw_logits) / plain vLLM",
        **ratios.get("raw_logits", {"ratio": None}),
        "ratios": ratios,
        "peak_memory_bytes": peaks,
        "memory_ratio": rounded(memory),
        "memory_ratio_without_libraries": rounded(without),
    }
    checks = [Check(name, ratios[name]["ratio"], "<=", limit) for name, limit in LIMITS.items() if name in ratios]
    if "reference" in ratios and setting.shape == "half":  # of nano, most memory is Python's
        checks.append(Check("reference, time", ratios["reference"]["ratio"], ">=", TIME_AT_LEAST))
        checks.append(Check("reference, memory", memory, ">=", MEMORY_AT_LEAST))
    report("vllm_scores", setting, figures, checks)


def _tokens(name: str, runs: list[Result], setting: Setting) -> int:
    return int(runs[-1]["tokens"]) if name in DISTANCE else setting.rows * setting.tokens


if __name__ == "__main__":
    main()
