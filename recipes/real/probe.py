"""Where in a model is it known that a response is right? Linear probes on what `sample.py` has kept, cross-validated.

    python recipes/real/probe.py runs/real/0.5b/train

Each probe is a logistic regression on one layer, on the state before each step's last token or the mean over its
tokens, and on the mean over the steps of a response or its last step. Told is the AUC within the problems of the folds
that it was not fitted on, over problems with right and wrong responses, which weigh alike; beside it that of figures
which need no training. For choosing what to build, not for publishing what a head is worth.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from reflective.evaluate.bootstrap import Bootstrap
from reflective.judge.metrics import auc
from reflective.records import Record
from reflective.shards import Place, load_features, read_shards
from reflective.train.rollouts import load_records

FOLDS = 5
DECAY = 0.1  # of the squared weights, on features of unit variance


def mixed(folder: Path) -> list[Record]:
    """The records that have right and wrong responses."""
    records = [record for record in load_records(folder) if record.trajectories]
    return [record for record in records if len(set(_rights(record)) & {True, False}) == 2]


def _rights(record: Record) -> list[bool | None]:
    return [t.verdict.right if t.verdict is not None else None for t in record.trajectories]


def responses(folder: Path, records: Sequence[Record], place: Place, last: bool) -> list[Tensor]:
    """A vector for each response of each record, (k, H) a record: its last step's, or the mean over its steps."""
    features = load_features(folder, place)
    found = []
    for record in records:
        steps = features[record.key]
        parts = steps.features.float().split(steps.counts)  # (n, H) each
        zero = torch.zeros(steps.features.shape[1])
        found.append(torch.stack([zero if not len(p) else p[-1] if last else p.mean(0) for p in parts]))
    return found


def probe(vectors: Sequence[Tensor], records: Sequence[Record]) -> list[list[float]]:
    """What a probe says of each response, fitted on the other folds; right and wrong ones of a problem weigh alike."""
    said: list[list[float]] = [[] for _ in records]
    for fold in range(FOLDS):
        chosen = [i for i in range(len(records)) if i % FOLDS != fold]
        x = torch.cat([vectors[i] for i in chosen])  # (R, H)
        rights = [right for i in chosen for right in _rights(records[i])]
        y = torch.tensor([float(right is True) for right in rights])
        shares = [Counter(_rights(records[i])) for i in chosen for _ in _rights(records[i])]
        weight = torch.tensor([0.0 if r is None else 1 / s[r] for r, s in zip(rights, shares, strict=True)])
        mean, deviation = x.mean(0), x.std(0) + 1e-4
        w = _fit((x - mean) / deviation, y, weight / weight.sum())
        for i in range(fold, len(records), FOLDS):
            said[i] = ((vectors[i] - mean) / deviation @ w).tolist()
    return said


def _fit(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    w = torch.zeros(x.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([w], max_iter=60)

    def closure() -> Tensor:
        optimizer.zero_grad()
        error = nn.functional.binary_cross_entropy_with_logits(x @ w, y, reduction="none")
        loss = (weight * error).sum() + DECAY * w.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    return w.detach()


def auc_line(name: str, figures: Sequence[Sequence[float | None]], records: Sequence[Record]) -> str:
    """The AUC within problems of a figure of each response, with its interval."""
    areas = [auc(f, _rights(r)) for f, r in zip(figures, records, strict=True)]
    values = np.array([[np.nan if area is None else area] for area in areas])
    (found,) = Bootstrap(len(records)).means(values)
    return f"{name:<40} {found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def lines(folder: Path) -> Iterator[str]:
    """All of it."""
    records = mixed(folder)
    yield f"{len(records)} problems with right and wrong responses, of {len(load_records(folder))}"
    votes = [[Counter(t.group for t in r.trajectories)[t.group] for t in r.trajectories] for r in records]
    yield auc_line("mean log-probability", [[t.mean_logprob for t in r.trajectories] for r in records], records)
    yield auc_line("shortness", [[-t.tokens for t in r.trajectories] for r in records], records)
    yield auc_line("how many give the same answer", votes, records)
    places = next(read_shards(folder)).features
    for place in places:
        for last in (False, True):
            name = f"{place}, {'last step' if last else 'mean over steps'}"
            yield auc_line(name, probe(responses(folder, records, place, last), records), records)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", help="a part that sample.py has written: FOLDER/train")
    for line in lines(Path(parser.parse_args(arguments).samples)):
        print(line, flush=True)


if __name__ == "__main__":
    main()
