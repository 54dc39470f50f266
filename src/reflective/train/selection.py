"""What selecting by score is worth, from trajectories that have been sampled, scored and graded once.

Groups of k are cut from each problem's trajectories in order, without overlap; unequal rests are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from reflective.judge.calibrate import EVIDENCE_CLIP, Sample
from reflective.selection import Vote, best_by_logprob, best_by_score, vote


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a selector sees of a trajectory, and whether it is right (None: ungradable).

    `group` is the number of its answer among the problem's distinct answers (None: it states none).
    """

    score: float | None
    right: bool | None
    closed: bool
    mean_logprob: float | None
    group: int | None = None
    index: int = 0


def vote_of(group: Sequence[Candidate], *, weighted: bool) -> Vote[Candidate] | None:
    """The vote of some trajectories of a problem."""
    return vote(group, [c.group for c in group], weighted=weighted)


def budgets(candidates: Sequence[Sequence[Candidate]]) -> list[int]:
    """1, 2, 4, … up to the trajectories that every problem has."""
    least = min((len(group) for group in candidates), default=0)
    return [2**i for i in range(least.bit_length()) if 2**i <= least]


def cut(candidates: Sequence[Sequence[Candidate]], k: int) -> Iterator[Sequence[Candidate]]:
    """All groups of k."""
    for group in candidates:
        for start in range(0, len(group) - k + 1, k):
            yield group[start : start + k]


def selection_table(candidates: Sequence[Sequence[Candidate]]) -> dict[str, dict[str, float]]:
    """Accuracy by k and selector. Problems weigh the same; an ungradable choice counts as not right."""
    table: dict[str, dict[str, float]] = {}
    for k in budgets(candidates):
        groups = list(cut(candidates, k))
        chosen: dict[str, Sequence[Candidate | None]] = {
            "single": [c for group in groups for c in group[:1]],
            "best_of_n": [best_by_score(group) for group in groups],
            "majority": [found.winner if (found := vote_of(g, weighted=False)) else None for g in groups],
            "weighted": [found.winner if (found := vote_of(g, weighted=True)) else None for g in groups],
            "logprob": [best_by_logprob(group) for group in groups],
        }
        row = {name: sum(c is not None and c.right is True for c in cs) / len(cs) for name, cs in chosen.items()}
        row["oracle"] = sum(any(c.right for c in group) for group in groups) / len(groups)
        table[str(k)] = row
    return table


def calibration_samples(candidates: Sequence[Sequence[Candidate]]) -> Iterator[Sample]:
    """What `fit_calibration` learns from: every strategy at every budget; ungradable choices left out.

    Groups of k are fewer the larger k is, and weigh as much more: every budget counts the same.
    """
    for k in budgets(candidates):
        for group in cut(candidates, k):
            picks: list[tuple[str, Candidate, float | None]] = []
            best = best_by_score(group)
            if best.closed:
                picks.append(("single" if k == 1 else "best_of_n", best, best.score))
                if k == 1:
                    picks.append(("best_of_n", best, best.score))
            for name, weighted in (("majority", False), ("weighted", True)):
                found = vote_of(group, weighted=weighted)
                if found is not None:
                    picks.append((name, found.winner, found.share))
            for name, pick, evidence in picks:
                if pick.right is not None and evidence is not None:
                    clipped = min(max(evidence, EVIDENCE_CLIP), 1 - EVIDENCE_CLIP)
                    yield Sample(name, clipped, k, pick.right, pick.score, pick.mean_logprob, float(k))
