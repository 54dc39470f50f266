"""Hugging Face `generate(num_return_sequences=n)` without scores / our engine with scores, on the same weights."""

from __future__ import annotations

from common import Check, Result, Run, Setting, compare_processes, parse, ratio, report, serve_if_asked, summary, timed

AT_LEAST = {"nano": 6.0, "half": 2.4}


def hugging_face(setting: Setting) -> Run:
    from models import generate, random_model

    model = random_model(setting)

    def run() -> Result:
        return {"seconds": timed(lambda: generate(model, setting))}

    return run


def ours(setting: Setting) -> Run:
    from models import engine, random_model, write

    writer = engine(setting, random_model(setting))

    def run() -> Result:
        return {"seconds": timed(lambda: write(writer, setting))}

    return run


SIDES = {"hugging_face": hugging_face, "ours": ours}


def main() -> None:
    serve_if_asked(SIDES)
    setting = parse(__doc__)
    results, _ = compare_processes(__file__, list(SIDES), setting)
    gain = ratio(results["hugging_face"], results["ours"])
    tokens = setting.rows * setting.tokens
    figures = {
        "sides": {name: summary(runs, tokens) for name, runs in results.items()},
        "ratio_of": "seconds, Hugging Face / ours",
        **gain,
    }
    report("hf_generate", setting, figures, [Check("time", gain["ratio"], ">=", AT_LEAST[setting.shape])])


if __name__ == "__main__":
    main()
