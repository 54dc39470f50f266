"""Tables for tests, from lists: what each trajectory scored, whether it was right, and which answer it gave."""

from __future__ import annotations

import numpy as np

from reflective.evaluate.table import SCORES, Table

NAN = float("nan")


def table(
    right, score=None, group=None, *, closed=None, confidence=None, chosen=None, families=None, **scores
) -> Table:
    """Rows may differ in length. `right`: 1, 0 or None. `group` defaults to 0 for right and 1 for wrong ones."""
    problems, most = len(right), max(map(len, right), default=0)

    def padded(rows, empty):
        out = np.full((problems, most), empty, dtype=np.float64)
        for i, row in enumerate(rows):
            out[i, : len(row)] = [NAN if v is None else v for v in row]
        return out

    labels = padded(right, NAN)
    present = padded([[1.0] * len(row) for row in right], 0.0) == 1.0
    default = [[0 if r == 1 else 1 if r == 0 else -1 for r in row] for row in right]
    columns = {name: np.full((problems, most), NAN) for name in SCORES}
    for name, rows in {"score": score, **scores}.items():
        if rows is not None:
            columns[name] = padded(rows, NAN)
    return Table(
        keys=tuple(f"p{i}" for i in range(problems)),
        families=tuple(families or ("sum",) * problems),
        levels=("1",) * problems,
        present=present,
        right=labels,
        closed=present if closed is None else padded(closed, 0.0) == 1.0,
        finished=present,
        tokens=np.where(present, 10.0, NAN),
        group=padded(default if group is None else group, -1.0).astype(np.int64),
        let_go=np.full((problems, most), -1),
        scores=columns,
        chosen_right=np.array(
            [NAN if c is None else c for c in (chosen or [row[0] if row else 0.0 for row in right])], float
        ),
        confidence=np.array([NAN] * problems if confidence is None else confidence, float),
        seconds=np.ones(problems),
        prompt_tokens=np.full(problems, 7),
        written_tokens=np.full(problems, 10.0 * most),
    )


def random_table(seed=0, problems=40, n=8, *, ungradable=0.0) -> Table:
    """Problems of different difficulty, scores that know something, some ties."""
    rng = np.random.default_rng(seed)
    skill = rng.random((problems, 1))
    right = (rng.random((problems, n)) < skill).astype(float)
    score = (
        np.round(8 * np.clip(0.5 + 0.3 * (right - 0.5) + 0.2 * rng.standard_normal((problems, n)), 0, 1)) / 8
    )  # exact sums
    group = np.where(right == 1, 0, rng.integers(1, 4, (problems, n)))
    right[rng.random((problems, n)) < ungradable] = NAN
    return table(right.tolist(), score.tolist(), [by_first(row) for row in group.tolist()])


def by_first(groups):
    """Answers numbered in the order of their first trajectory, as `ballots` does."""
    numbers = {}
    return [numbers.setdefault(g, len(numbers)) for g in groups]
