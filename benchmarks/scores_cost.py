"""What scoring every step costs: generating with scores / without, by the same engine on the same weights."""

from __future__ import annotations

from common import Check, Result, Run, alternate, parse, ratio, report, summary, timed

from models import engine, random_model, rule, write

AT_MOST = 1.02


def main() -> None:
    setting = parse(__doc__, repeats=9)
    model = random_model(setting)
    writer = engine(setting, model)
    head, nothing = writer.head, frozenset[int]()
    watched = writer.judge.format.watched

    def side(with_scores: bool) -> Run:
        def run() -> Result:
            writer.head, writer.scored = (head, True) if with_scores else (None, False)
            writer._watched = watched if with_scores else nothing  # no step is looked for, either
            return {"seconds": timed(lambda: write(writer, setting))}

        return run

    results = alternate({"with scores": side(True), "without scores": side(False)}, setting.repeats)
    tokens = setting.rows * setting.tokens
    cost = ratio(results["with scores"], results["without scores"])
    figures = {
        "sides": {name: summary(runs, tokens) for name, runs in results.items()},
        "ratio_of": "seconds, with scores / without scores",
        **cost,
        "step_tokens": len(rule(model).step_ids),
    }
    report("scores_cost", setting, figures, [Check("time", cost["ratio"], "<=", AT_MOST)])


if __name__ == "__main__":
    main()
