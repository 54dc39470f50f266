"""The reference's way / ours, in time and in peak memory, both with scores.

The reference serves two copies of the weights: one generates, the other re-reads every finished trajectory, one
request at a time, asks for the hidden states of all layers, and applies the head to `hidden_states[-2]`. What is kind
to it here: both copies and one tokenizer share one process, the text that it decodes is not tokenized again, and
nothing goes over HTTP. Both sides generate with Hugging Face classes in float32 and decode the text.

Peak memory is that of the side's process, Python and its libraries included.
"""

from __future__ import annotations

from common import (
    Check,
    Result,
    Run,
    Setting,
    compare_processes,
    parse,
    peak_memory,
    ratio,
    report,
    rounded,
    serve_if_asked,
    summary,
    timed,
)

TIME_AT_LEAST, MEMORY_AT_LEAST = 1.9, 1.8  # at 0.5B


def reference(setting: Setting) -> Run:
    import torch

    from models import generate, head, random_model, rule, tokenizer
    from reflective.judge.format import step_positions

    libraries = peak_memory()
    policy, scorer = random_model(setting), random_model(setting)
    judge, steps, names = head(scorer), rule(scorer), tokenizer(int(scorer.config.vocab_size))

    @torch.inference_mode()
    def score(ids: list[int]) -> float | None:
        positions = step_positions(steps, ids[setting.prompt :], ids[: setting.prompt])
        if not positions:
            return None
        out = scorer(input_ids=torch.tensor([ids]), output_hidden_states=True)
        features = out.hidden_states[-2][0, [setting.prompt + p - 1 for p in positions]]  # (n, H)
        return float(judge(features).sigmoid().log().mean().exp())

    def work() -> None:
        for ids in generate(policy, setting).tolist():
            names.decode(ids[setting.prompt :])  # what it sends to the scorer
            score(ids)

    def run() -> Result:
        return {"seconds": timed(work), "libraries_bytes": libraries}

    return run


def ours(setting: Setting) -> Run:
    from models import engine, random_model, write

    libraries = peak_memory()
    writer = engine(setting, random_model(setting))

    def run() -> Result:
        return {"seconds": timed(lambda: write(writer, setting)), "libraries_bytes": libraries}

    return run


SIDES = {"reference": reference, "ours": ours}


def main() -> None:
    serve_if_asked(SIDES)
    setting = parse(__doc__)
    results, _ = compare_processes(__file__, list(SIDES), setting)
    gain = ratio(results["reference"], results["ours"])
    peaks = {name: runs[-1]["peak_memory_bytes"] for name, runs in results.items()}
    before = {name: runs[-1]["libraries_bytes"] for name, runs in results.items()}
    memory = peaks["reference"] / peaks["ours"]
    figures = {
        "sides": {name: summary(runs, setting.rows * setting.tokens) for name, runs in results.items()},
        "ratio_of": "seconds, reference / ours",
        **gain,
        "peak_memory_bytes": peaks,
        "memory_ratio": rounded(memory),
        "memory_ratio_without_libraries": rounded(
            (peaks["reference"] - before["reference"]) / (peaks["ours"] - before["ours"])
        ),
    }
    checks = [Check("time", gain["ratio"], ">=", TIME_AT_LEAST), Check("memory", memory, ">=", MEMORY_AT_LEAST)]
    report("reference_way", setting, figures, checks if setting.shape == "half" else [])


if __name__ == "__main__":
    main()
