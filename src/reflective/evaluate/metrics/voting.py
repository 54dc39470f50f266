"""Votes among k trajectories: the expectation over subsets, from a fixed number of random ones.

P problems, N trajectories, G distinct answers, D draws, K budgets. A draw is a random order of a problem's
trajectories, its first k are the subset of size k; so every k sees the same draws, and so do both votes. At k = 1 a
vote is a single sample, and at k = n there is one subset: these values are exact. The rules of the vote are those of
`reflective.selection`; without a voter there is no answer, which is wrong.

"possible" is whether a right answer is among the k of the same draws. No vote can exceed it, while it may exceed the
exact pass@k by chance: what a vote makes of a right answer that is there is measured against it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from reflective.evaluate.metrics.subsets import pass_at_k, without_trajectories
from reflective.evaluate.table import Bools, Floats, Ints, Table
from reflective.selection import score_ranks, winners

DRAWS = 100  # subsets of each size and problem: an error of at most 0.05 for a problem, 0.05/√P for their mean
CELLS = 2_000_000  # of a block of problems, to bound memory
NAMES = ("majority", "weighted", "possible")


def votes_at_k(table: Table, ks: Sequence[int], *, draws: int = DRAWS, seed: int = 0) -> Mapping[str, Floats]:
    """Whether the winning answer of k is right: "majority" and "weighted"; and "possible". (P, K) each."""
    problems, n = table.present.shape
    out = {name: np.full((problems, len(ks)), np.nan) for name in NAMES}
    if not n or not problems:
        return {name: without_trajectories(table, values) for name, values in out.items()}
    group_right = _right_of_groups(table)  # (P, G)
    rng = np.random.default_rng(abs(seed))
    block = max(1, CELLS // (draws * n))
    for first in range(0, problems, block):
        rows = np.arange(first, min(first + block, problems))
        values = _block(table, rows, group_right[rows], ks, draws, rng)
        for name, value in values.items():
            out[name][rows] = value
    if 1 in ks:
        for value in out.values():
            value[:, list(ks).index(1)] = pass_at_k(table, [1])[:, 0]
    return {name: without_trajectories(table, value) for name, value in out.items()}


def _right_of_groups(table: Table) -> Floats:
    """Whether each distinct answer is right: the mean of its members' verdicts, NaN where none is known."""
    problems = table.problems
    g = max(int(table.group.max(initial=-1)) + 1, 1)
    known = (table.group >= 0) & ~np.isnan(table.right)
    cell = (np.arange(problems)[:, None] * g + table.group)[known]
    right = np.bincount(cell, weights=table.right[known], minlength=problems * g)
    count = np.bincount(cell, minlength=problems * g)
    mean: Floats = np.divide(right, count, out=np.full(problems * g, np.nan), where=count > 0).reshape(problems, g)
    return mean


def _block(
    table: Table, rows: Ints, group_right: Floats, ks: Sequence[int], draws: int, rng: np.random.Generator
) -> dict[str, Floats]:
    """The values of some problems; R of them."""
    present, group = table.present[rows], table.group[rows]
    score = table.scores["score"][rows]
    rank = score_ranks(score)
    r, n = present.shape
    g = group_right.shape[1]
    order = np.where(present[:, None, :], rng.random((r, draws, n)), 2.0).argsort(axis=2)  # (R, D, N): absent ones last
    row, line = np.arange(r)[:, None], np.arange(r * draws)
    votes = np.zeros((r * draws, g))
    weight = np.zeros((r * draws, g))
    best = np.zeros((r * draws, g), dtype=np.int64)  # the rank of the best member's score
    first = np.full((r * draws, g), n)  # the first member
    negative, positive = np.zeros(r * draws, dtype=np.bool_), np.zeros(r * draws, dtype=np.bool_)  # a score is
    right, right_answer = np.nan_to_num(table.right[rows], nan=0.0), np.nan_to_num(group_right, nan=0.0)
    possible = np.zeros(r * draws)
    judgeable = np.any(~np.isnan(table.right[rows]), axis=1, keepdims=True)  # (R, 1)
    out = {name: np.full((r, len(ks)), np.nan) for name in NAMES}
    for j in range(max(ks)):
        drawn = order[:, :, min(j, n - 1)]  # (R, D)
        voter = (group[row, drawn] >= 0).ravel() & (j < n)
        index = drawn.ravel()[voter]
        at = line[voter], group[row, drawn].ravel()[voter]
        s = score[row, drawn].ravel()[voter]
        s = np.where(np.isfinite(s), s, 0.0)
        votes[at] += 1.0
        weight[at] += s
        best[at] = np.maximum(best[at], rank[row, drawn].ravel()[voter])
        first[at] = np.minimum(first[at], index)
        negative[at[0]] |= s < 0
        positive[at[0]] |= s > 0
        possible[at[0]] = np.maximum(possible[at[0]], right_answer[at[0] // draws, at[1]])
        if j < n:
            possible = np.maximum(possible, right[row, drawn].ravel())
        if j + 1 in ks:
            column = list(ks).index(j + 1)
            weighs = (positive & ~negative)[:, None]
            for name, strength in (("majority", votes), ("weighted", np.where(weighs, weight, votes))):
                winner = winners(np.where(votes > 0, strength, -np.inf), best, first, n)
                out[name][:, column] = _value(winner, votes, group_right, judgeable, r, draws)
            out["possible"][:, column] = np.where(judgeable[:, 0], possible.reshape(r, draws).mean(1), np.nan)
    return out


def _value(winner: Ints, votes: Floats, group_right: Floats, judgeable: Bools, r: int, draws: int) -> Floats:
    """The mean over draws of whether the winner is right, among those that can be judged; (R,)."""
    value = group_right[np.arange(r)[:, None], winner.reshape(r, draws)]  # (R, D)
    value = np.where(votes.any(1).reshape(r, draws), value, np.where(judgeable, 0.0, np.nan))
    known = ~np.isnan(value)
    total, count = np.where(known, value, 0.0).sum(1), known.sum(1)
    mean: Floats = np.divide(total, count, out=np.full(r, np.nan), where=count > 0)
    return mean
