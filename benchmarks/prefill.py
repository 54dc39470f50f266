"""A long prompt is read once, however many trajectories share it: prefill for n rows / prefill for one.

Each run reads the prompt and draws one token of each row. Were nothing shared, the ratio would be n.
"""

from __future__ import annotations

from common import Check, Result, Run, alternate, parse, ratio, report, summary, timed

from models import engine, random_model, write

AT_MOST = 1.5  # beside the prompt: copying its keys and values to the rows, and drawing


def main() -> None:
    setting = parse(__doc__, prompt=1024, tokens=1)
    writer = engine(setting, random_model(setting))

    def side(rows: int) -> Run:
        def run() -> Result:
            return {"seconds": timed(lambda: write(writer, setting, rows=rows, tokens=1))}

        return run

    many, one = f"n={setting.rows}", "n=1"
    results = alternate({many: side(setting.rows), one: side(1)}, setting.repeats)
    cost = ratio(results[many], results[one])
    figures = {
        "sides": {name: summary(runs) for name, runs in results.items()},
        "ratio_of": f"seconds, {many} / {one}",
        **cost,
    }
    report("prefill", setting, figures, [Check("time", cost["ratio"], "<=", AT_MOST)])


if __name__ == "__main__":
    main()
