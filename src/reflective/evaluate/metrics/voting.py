"""Votes among k trajectories: the expectation over subsets, from a fixed number of random ones.

P problems, N trajectories, G distinct answers, D draws, K budgets. A draw is a random order of a problem's
trajectories, its first k are the subset of size k; so every k sees the same draws, and so do both votes. At k = 1 a
vote is a single sample, and at k = n there is one subset: these values are exact. The rules are those of
`reflective.search`: a trajectory without an answer casts no vote; of equally strong answers the one whose best member
scores higher wins, then the one that came first; where no voter is scored, each vote counts one; without a voter there
is no answer, which is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from reflective.evaluate.metrics.subsets import pass_at_k, without_trajectories
from reflective.evaluate.table import Floats, Ints, Table

DRAWS = 100  # subsets of each size and problem: an error of at most 0.05 for a problem, 0.05/√P for their mean
CELLS = 2_000_000  # of a block of problems, to bound memory
NUDGE = 1e-7  # of a weight: breaks ties and nothing else
EARLY = 1e-5  # of a score, as far as ties go


def votes_at_k(table: Table, ks: Sequence[int], *, draws: int = DRAWS, seed: int = 0) -> Mapping[str, Floats]:
    """Whether the winning answer of k is right: "majority" and "weighted", (P, K) each."""
    problems, n = table.present.shape
    out = {name: np.full((problems, len(ks)), np.nan) for name in ("majority", "weighted")}
    if not n or not problems:
        return {name: without_trajectories(table, values) for name, values in out.items()}
    group_right = _right_of_groups(table)  # (P, G)
    rng = np.random.default_rng(seed)
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
    r, n = present.shape
    g = group_right.shape[1]
    order = np.where(present[:, None, :], rng.random((r, draws, n)), 2.0).argsort(axis=2)  # (R, D, N): absent ones last
    row = np.arange(r)[:, None]
    votes = np.zeros((r * draws, g))
    weight = np.zeros((r * draws, g))
    best = np.zeros((r * draws, g))  # σ(S) of the best member, 0 where none is scored
    early = np.zeros((r * draws, g))  # (n - i) / n of the first member i, so that the first answer ranks highest
    line = np.arange(r * draws)
    judgeable = ~np.isnan(table.right[rows]).all(1)
    out = {name: np.full((r, len(ks)), np.nan) for name in ("majority", "weighted")}
    for j in range(max(ks)):
        drawn = order[:, :, min(j, n - 1)]  # (R, D)
        voter = (group[row, drawn] >= 0).ravel() & (j < n)
        index = drawn.ravel()[voter]
        at = line[voter], group[row, drawn].ravel()[voter]
        s = score[row, drawn].ravel()[voter]
        votes[at] += 1.0
        weight[at] += np.nan_to_num(s)
        best[at] = np.maximum(best[at], np.where(np.isnan(s), 0.0, 1.0 / (1.0 + np.exp(-np.clip(s, -30, 30)))))
        early[at] = np.maximum(early[at], 1.0 - index / n)
        if j + 1 in ks:
            column = list(ks).index(j + 1)
            rank = best + early * EARLY  # breaks ties: the best score, then the first
            majority = votes + rank / 4  # a vote more always wins
            weighted = np.where(weight.any(1, keepdims=True), weight + NUDGE * rank, majority)
            for name, tally in (("majority", majority), ("weighted", weighted)):
                out[name][:, column] = _value(tally, votes, group_right, judgeable, r, draws)
    return out


def _value(tally: Floats, votes: Floats, group_right: Floats, judgeable: object, r: int, draws: int) -> Floats:
    """The mean over draws of whether the winner is right, among those that can be judged; (R,)."""
    tally = np.where(votes > 0, tally, -np.inf)
    winner = tally.argmax(1).reshape(r, draws)
    value = group_right[np.arange(r)[:, None], winner]  # (R, D)
    value = np.where(votes.any(1).reshape(r, draws), value, np.where(np.asarray(judgeable)[:, None], 0.0, np.nan))
    known = ~np.isnan(value)
    total, count = np.where(known, value, 0.0).sum(1), known.sum(1)
    mean: Floats = np.divide(total, count, out=np.full(r, np.nan), where=count > 0)
    return mean
