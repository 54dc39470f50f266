"""Every published figure of a real model, computed from compact records: no sampling, no model, a few seconds.

    python recipes/real/figures.py recipes/real/records/qwen2.5-coder-0.5b-gsm8k --plots docs/results
    python recipes/real/figures.py recipes/real/records/qwen2.5-coder-0.5b-gsm8k-float32 --beside \
      recipes/real/records/qwen2.5-coder-0.5b-gsm8k

A folder holds one file of records for each head (`fit.py` wrote them), or one without scores, of which only what needs
no training is told. With --beside it is compared with other responses to the same problems. Markdown goes to standard
output. Brackets are 95 % intervals over problems; every k is judged over all subsets of what was sampled, so "best of
8" uses all 16.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from compact import read_compact

from reflective.cli import exit_code
from reflective.errors import InputError
from reflective.evaluate.bootstrap import Interval
from reflective.evaluate.metrics.calibration import Reliability
from reflective.evaluate.paired import Comparison, common, compare
from reflective.evaluate.report import write_plots
from reflective.evaluate.report.content import Run
from reflective.evaluate.report.figures import figures
from reflective.evaluate.selectors import LABELS
from reflective.evaluate.summary import Summary, accuracy_by_problem, summarise
from reflective.evaluate.table import Floats, Table
from reflective.records.manifest import Manifest

UNTRAINED = ("majority", "logprob")  # ways to choose that need no training
BUDGETS = (1, 2, 4, 8, 16)
DRAWN = ("accuracy", "reliability_confidence")
SIMULATIONS = 1000
HEADS = {"plain": "the paper's head", "logprobs": "the head with log-probabilities"}


@dataclass(frozen=True, slots=True)
class Judged:
    """What a head is worth on the test problems."""

    head: str
    table: Table
    summary: Summary

    @classmethod
    def read(cls, path: Path) -> Judged:
        """From a file of compact records."""
        table = Table.of(read_compact(path))
        return cls(path.name.partition(".")[0], table, summarise(table))

    @property
    def values(self) -> Mapping[str, Floats]:
        """The probability of a right answer of each strategy at the largest budget, by problem (P,)."""
        return self.summary.values

    @property
    def untrained(self) -> str:
        """The best way to choose that needs no training."""
        return max(self.possible(UNTRAINED), key=lambda name: float(np.nanmean(self.values[name])))

    def possible(self, names: Sequence[str]) -> list[str]:
        """The strategies that can be judged: programs can't vote."""
        return [name for name in names if name in self.values]

    def gain(self, over: str, of: str = "best_of_n") -> Comparison:
        """How far one strategy is ahead of another."""
        return compare(self.values[of], self.values[over])


def perfect_error(confidence: Floats, seed: int = 0) -> Interval:
    """The ECE that a perfectly calibrated confidence would show on so many problems: its outcomes drawn from itself."""
    stated = confidence[~np.isnan(confidence)]
    drawn = np.random.default_rng(seed).random((SIMULATIONS, len(stated))) < stated
    errors = [Reliability.of(stated, outcome.astype(np.float64)).error for outcome in drawn]
    low, high = np.quantile(errors, (0.025, 0.975))
    return Interval(float(np.mean(errors)), float(low), float(high), len(stated))


def report(folder: Path) -> str:
    """The figures of a folder of records as Markdown."""
    files = [Judged.read(path) for path in sorted(folder.glob("*.jsonl.gz"))]
    if not files:
        raise InputError(f"'{folder}' holds no compact records (*.jsonl.gz). fit.py writes them.")
    return "\n".join(_lines(files[0], [judged for judged in files if "best_of_n" in judged.values]))


def _lines(first: Judged, heads: list[Judged]) -> Iterator[str]:
    yield (
        f"{first.table.problems} test problems × {first.table.budget} responses, "
        f"{first.summary.figures['tokens_per_trajectory'].value:.0f} tokens each on average."
    )
    yield from ("", "| right answers | " + " | ".join(f"k = {k}" for k in _ks(first)) + " |")
    yield "|---" * (1 + len(_ks(first))) + "|"
    for name in first.possible(("oracle", *UNTRAINED)):
        yield _curve_row(first, name, LABELS[name])
    for judged in heads:
        for name in judged.possible(("best_of_n", "weighted")):
            yield _curve_row(judged, name, f"{LABELS[name]}, {HEADS[judged.head]}")
    if not heads:
        yield ""
        for name in first.possible(UNTRAINED):
            gain = _points(first.gain("single", name))
            yield f"At k = {first.table.budget}, {LABELS[name]} − single sample, points: {gain}"
        return
    yield from ("", f"| at k = {first.table.budget} | " + " | ".join(HEADS[j.head] for j in heads) + " |")
    yield "|---" * (1 + len(heads)) + "|"
    votes = {
        "best of k − majority, points": [_points(j.gain("majority")) for j in heads if "majority" in j.values],
        "weighted vote − majority, points": [
            _points(j.gain("majority", "weighted")) for j in heads if "weighted" in j.values
        ],
    }
    rows = {
        "best of k − single sample, points": [_points(j.gain("single")) for j in heads],
        "best of k − best untrained selector, points": [
            f"{_points(j.gain(j.untrained))} ({LABELS[j.untrained]})" for j in heads
        ],
        **{label: cells for label, cells in votes.items() if cells},
        "AUC within problems": [_share(j.summary.ranking["best_of_n"]["auc_within"]) for j in heads],
        "the same of the mean log-probability": [_share(j.summary.ranking["logprob"]["auc_within"]) for j in heads],
        "ECE of the confidence": [_share(j.summary.figures["ece_confidence"]) for j in heads],
        "ECE of a perfectly calibrated one": [_share(perfect_error(j.table.confidence)) for j in heads],
    }
    for label, cells in rows.items():
        yield f"| {label} | " + " | ".join(cells) + " |"


def beside(folder: Path, other: Path) -> str:
    """How far `folder` is ahead of `other` on the problems that both have, head by head, as Markdown."""
    return "\n".join(_differences(folder, other))


def _differences(folder: Path, other: Path) -> Iterator[str]:
    yield f"| {folder.name} − {other.name}, points | single sample | best of k | weighted vote of k | k | problems |"
    yield "|---|---|---|---|---|---|"
    paths = sorted(path for path in folder.glob("*.jsonl.gz") if (other / path.name).exists())
    if not paths:
        raise InputError(f"'{folder}' and '{other}' hold no compact records of the same head (NAME.jsonl.gz).")
    for path in paths:
        ours, theirs = common(Table.of(read_compact(path)), Table.of(read_compact(other / path.name)))
        k = min(ours.budget, theirs.budget)
        values = [accuracy_by_problem(table, [1, k]) for table in (ours, theirs)]
        columns = (("oracle", 0), ("best_of_n", 1), ("weighted", 1))  # of one, the oracle is a single sample
        cells = [_points(compare(*(value[name][:, column] for value in values))) for name, column in columns]
        head = HEADS[path.name.partition(".")[0]]
        yield f"| {head} | " + " | ".join(cells) + f" | {k} | {ours.problems} |"


def _ks(judged: Judged) -> list[int]:
    return [k for k in BUDGETS if k <= judged.table.budget]


def _curve_row(judged: Judged, name: str, label: str) -> str:
    points = dict(zip(judged.summary.curves[name].ks, judged.summary.curves[name].points, strict=True))
    return f"| {label} | " + " | ".join(_share(points[k]) for k in _ks(judged)) + " |"


def _share(interval: Interval) -> str:
    return f"{interval.value:.3f} ({interval.low:.3f} to {interval.high:.3f})"


def _points(found: Comparison) -> str:
    interval = f" ({100 * found.low:+.1f} to {100 * found.high:+.1f})"
    return f"{100 * found.difference:+.1f}{interval if found.low == found.low else ''}"  # NaN: nothing varies


def draw(folder: Path, plots: Path) -> None:
    """Accuracy against k and the reliability diagram of each head, as PNG and CSV."""
    for path in sorted(folder.glob("*.jsonl.gz")):
        judged = Judged.read(path)
        manifest = Manifest({}, folder.name, "best_of_n", judged.table.budget, 0, {}, judged.table.problems, "")
        run = Run(f"{folder.name}-{judged.head}", folder, manifest, judged.table, judged.summary)
        write_plots([figure for figure in figures([run]) if figure.id in DRAWN], plots)


def main() -> None:
    """Print the figures, and draw where a folder for plots is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", help="a folder of compact records")
    parser.add_argument("--beside", metavar="RECORDS", help="compare with these, on the problems that both have")
    parser.add_argument("--plots", metavar="FOLDER", help="draw the accuracy and the reliability here")
    args = parser.parse_args()
    print(beside(Path(args.records), Path(args.beside)) if args.beside else report(Path(args.records)))
    if args.plots:
        draw(Path(args.records), Path(args.plots))


if __name__ == "__main__":
    sys.exit(exit_code(main))
