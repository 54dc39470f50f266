"""Where in a model is it known that a response is right? Linear probes on what `sample.py` has kept, cross-validated.

    python recipes/real/probe.py runs/real/0.5b/train

The probes are those of `train head --layer auto` (`reflective.train.head.probe`), on the state before each step's last
token or the mean over its tokens, and on the mean over the steps of a response or its last step. Told is the AUC within
problems with right and wrong responses, which weigh alike; beside it that of figures which need no training. For
choosing what to build, not for publishing what a head is worth.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from reflective.cli import exit_code
from reflective.evaluate.bootstrap import Bootstrap
from reflective.judge.metrics import auc
from reflective.records import Record
from reflective.shards import read_shards
from reflective.train.head.probe import judge_probes
from reflective.train.rollouts import load_records, load_rollouts


def mixed(records: Sequence[Record]) -> list[Record]:
    """The records that have right and wrong responses."""
    return [record for record in records if {True, False} <= set(_rights(record))]


def _rights(record: Record) -> list[bool | None]:
    return [t.verdict.right if t.verdict is not None else None for t in record.trajectories]


def auc_line(name: str, areas: Sequence[float | None]) -> str:
    """The mean of AUCs within problems, with its interval."""
    values = np.array([[np.nan if area is None else area] for area in areas])
    (found,) = Bootstrap(len(areas)).means(values)
    return f"{name:<40} {found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def lines(folder: Path) -> Iterator[str]:
    """All of it."""
    every = load_records(folder)
    records = mixed(every)
    yield f"{len(records)} problems with right and wrong responses, of {len(every)}"
    votes = [Counter(t.group for t in r.trajectories) for r in records]
    untrained = {
        "mean log-probability": [[t.mean_logprob for t in r.trajectories] for r in records],
        "shortness": [[-t.tokens for t in r.trajectories] for r in records],
        "how many give the same answer": [[v[t.group] for t in r.trajectories] for r, v in zip(records, votes)],
    }
    for name, figures in untrained.items():
        yield auc_line(name, [auc(f, _rights(r)) for f, r in zip(figures, records, strict=True)])
    for place in next(read_shards(folder)).features:
        rollouts = load_rollouts(folder, place)
        for aggregation, read in (("mean", "mean over steps"), ("last", "last step")):
            yield auc_line(f"{place}, {read}", judge_probes(rollouts, aggregation).aucs)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", help="a part that sample.py has written: FOLDER/train")
    for line in lines(Path(parser.parse_args(arguments).samples)):
        print(line, flush=True)


if __name__ == "__main__":
    sys.exit(exit_code(main))
