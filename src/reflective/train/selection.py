"""What selecting by score is worth, from trajectories that have been sampled, scored and graded once.

Groups of k are cut from each problem's trajectories in order, without overlap; unequal rests are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from reflective.judge.calibrate import EVIDENCE_CLIP, Sample


@dataclass(frozen=True, slots=True)
class Candidate:
    """A trajectory as a selector sees it, and whether it is right (None: ungradable)."""

    score: float | None
    right: bool | None
    answer: str | None
    closed: bool
    mean_logprob: float


def best_by_score(group: Sequence[Candidate]) -> Candidate:
    """Closed before unclosed, scored before unscored, high before low, then the first."""
    return max(group, key=lambda c: (c.closed, c.score is not None, c.score or 0.0))


def best_by_logprob(group: Sequence[Candidate]) -> Candidate:
    """The closed one with the highest mean token log-probability, a selector that needs no training."""
    return max(group, key=lambda c: (c.closed, c.mean_logprob))


def vote(group: Sequence[Candidate], *, weighted: bool) -> tuple[Candidate | None, float]:
    """The winning answer's best trajectory and its share of the votes; equal texts are equal answers."""
    voters = [c for c in group if c.answer is not None]
    if not voters:
        return None, 0.0
    votes: dict[str, float] = {}
    for c in voters:
        votes[str(c.answer)] = votes.get(str(c.answer), 0.0) + ((c.score or 0.0) if weighted else 1.0)
    best = {answer: max((c.score or 0.0) for c in voters if c.answer == answer) for answer in votes}
    winner = max(votes, key=lambda answer: (votes[answer], best[answer]))
    share = votes[winner] / (sum(votes.values()) or 1.0)
    return max((c for c in voters if c.answer == winner), key=lambda c: c.score or 0.0), share


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
            "majority": [vote(group, weighted=False)[0] for group in groups],
            "weighted": [vote(group, weighted=True)[0] for group in groups],
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
            picks: list[tuple[str, Candidate | None, float | None]] = []
            best = best_by_score(group)
            if best.closed:
                picks.append(("single" if k == 1 else "best_of_n", best, best.score))
                if k == 1:
                    picks.append(("best_of_n", best, best.score))
            for name, weighted in (("majority", False), ("weighted", True)):
                winner, share = vote(group, weighted=weighted)
                picks.append((name, winner, share))
            for name, pick, evidence in picks:
                if pick is not None and pick.right is not None and evidence is not None:
                    clipped = min(max(evidence, EVIDENCE_CLIP), 1 - EVIDENCE_CLIP)
                    yield Sample(name, clipped, k, pick.right, pick.score, pick.mean_logprob, float(k))
