"""What the compiled decoding step is worth: our engine through PyTorch's operators / through the compiled step."""

from __future__ import annotations

from common import Result, Run, alternate, parse, ratio, report, summary, timed

from models import engine, random_model, write
from reflective.engines.torch.backbones.native import library


def main() -> None:
    setting = parse(__doc__)
    if library() is None:
        raise SystemExit("The decoding step is not compiled here: install a C compiler, then reflective again.")

    def side(compiled: bool) -> Run:
        writer = engine(setting, random_model(setting), compiled=compiled)

        def run() -> Result:
            return {"seconds": timed(lambda: write(writer, setting))}

        return run

    results = alternate({"operators": side(False), "compiled": side(True)}, setting.repeats)
    tokens = setting.rows * setting.tokens
    figures = {
        "sides": {name: summary(runs, tokens) for name, runs in results.items()},
        "ratio_of": "seconds, operators / compiled",
        **ratio(results["operators"], results["compiled"]),
    }
    report("operators", setting, figures, [])


if __name__ == "__main__":
    main()
