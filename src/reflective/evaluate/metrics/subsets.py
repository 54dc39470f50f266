"""What k of the n trajectories are worth, exactly: the expectation over all subsets of size k.

P problems, N trajectories, K budgets. Of n trajectories, sorted best first, the best of a random subset of size k is
among the first a with probability

    F(a, k) = 1 - C(n-a, k) / C(n, k)

so that pass@k of c right ones is F(c, k) (arXiv 2107.03374), and a trajectory at place a+1 is chosen with probability
F(a+1, k) - F(a, k); m equal ones share F(a+m, k) - F(a, k). A choice whose verdict is unknown says nothing: the value
of a problem is the probability that the choice is right, given that it can be judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from reflective.evaluate.table import Bools, Floats, Ints, Table

DENSE = 64  # budgets up to here are all looked at, larger ones in steps of a half octave


def budgets(n: int) -> list[int]:
    """The k to look at: every one up to 64; beyond, powers of two, those times three, and n itself."""
    if n <= DENSE:
        return list(range(1, n + 1))
    steps = {factor << i for factor in (2, 3) for i in range(n.bit_length())}
    return sorted({k for k in steps if k <= n} | {1, n})


def prefix_probability(n: int, ks: Sequence[int]) -> Floats:
    """F(a, k) for a = 0..n, (n+1, K). Every k is in 1..n."""
    a = np.arange(n + 1)[:, None]
    i = np.arange(max(ks, default=0))[None, :]
    # C(n-a, k) / C(n, k) = Π_{i<k} (n-a-i) / (n-i)
    miss = np.cumprod(np.maximum(n - a - i, 0) / np.maximum(n - i, 1), axis=1)  # (n+1, max k)
    out: Floats = 1.0 - miss[:, np.asarray(ks, dtype=np.int64) - 1]
    return out


def pass_at_k(table: Table, ks: Sequence[int]) -> Floats:
    """Whether a right one is among k, (P, K). Of a problem with fewer than k that can be judged, those are taken."""
    known = ~np.isnan(table.right) & table.present
    n, c = known.sum(1), np.where(known, table.right, 0.0).sum(1).astype(np.int64)
    out = np.full((table.problems, len(ks)), np.nan)
    for count in np.unique(n[n > 0]):
        rows = n == count
        out[rows] = prefix_probability(int(count), np.minimum(ks, count).tolist())[c[rows]]
    return without_trajectories(table, out)


def best_of_k(table: Table, keys: Sequence[NDArray[np.generic]], ks: Sequence[int]) -> Floats:
    """Whether the best of k is right, (P, K). `keys` are (P, N) each, the first decides; larger is better."""
    out = np.full((table.problems, len(ks)), np.nan)
    for n, rows in by_count(table):
        start, size, order = places([key[rows] for key in keys], table.present[rows], n)  # (R, n) each
        within = [min(k, n) for k in ks]
        f = prefix_probability(n, within)  # (n+1, K)
        weight = (f[start + size] - f[start]) / size[:, :, None]  # (R, n, K)
        right = np.take_along_axis(table.right[rows], order, axis=1)  # (R, n)
        known = ~np.isnan(right)
        hit = np.einsum("rn,rnk->rk", np.where(known, right, 0.0), weight)
        judged = np.einsum("rn,rnk->rk", known.astype(np.float64), weight)
        out[rows] = np.divide(hit, judged, out=np.full_like(hit, np.nan), where=judged > 1e-12)
    return without_trajectories(table, out)


def by_count(table: Table) -> Iterator[tuple[int, Ints]]:
    """The problems by their number of trajectories, those without any left out."""
    counts = table.present.sum(1)
    for n in np.unique(counts[counts > 0]):
        yield int(n), np.flatnonzero(counts == n)


def places(keys: Sequence[NDArray[np.generic]], present: Bools, n: int) -> tuple[Ints, Ints, Ints]:
    """Sorted best first: how many stand above, how many are equal (itself included), and which; (R, n) each."""
    ranked = [present, *keys]
    order = np.lexsort(tuple(reversed(ranked)), axis=-1)[:, ::-1][:, :n]
    new = np.zeros(order.shape, dtype=np.bool_)
    new[:, 0] = True
    for key in ranked:
        sorted_key = np.take_along_axis(key, order, axis=1)
        new[:, 1:] |= sorted_key[:, 1:] != sorted_key[:, :-1]
    place = np.broadcast_to(np.arange(n), order.shape)
    start = np.maximum.accumulate(np.where(new, place, 0), axis=1)
    ends = np.concatenate([new[:, 1:], np.ones((len(order), 1), dtype=np.bool_)], axis=1)
    end = np.minimum.accumulate(np.where(ends, place, n)[:, ::-1], axis=1)[:, ::-1]
    return start, end - start + 1, order


def without_trajectories(table: Table, values: Floats) -> Floats:
    """`values` (P, K), where a problem that nothing could be sampled for has the verdict of the run's own answer."""
    none = ~table.present.any(1)
    values[none] = table.chosen_right[none, None]
    return values
