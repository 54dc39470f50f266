"""What a calibration learns from: choices of every strategy at every budget, by hand."""

from __future__ import annotations

import pytest

from reflective.train.selection import Candidate, calibration_samples


def candidate(score: float, answer: str, logprob: float) -> Candidate:
    return Candidate(score=score, right=answer == "4", closed=True, mean_logprob=logprob, group=int(answer))


GROUP = [candidate(0.5, "3", -0.4), candidate(0.9, "4", -0.1), candidate(0.6, "3", -0.3), candidate(0.2, "5", -0.5)]


def test_every_choice_comes_with_the_facts_of_its_trajectory() -> None:
    samples = list(calibration_samples([GROUP]))
    best_of_4 = [s for s in samples if s.strategy == "best_of_n" and s.k == 4]
    assert [(s.evidence, s.right, s.score, s.mean_logprob) for s in best_of_4] == [(0.9, True, 0.9, -0.1)]
    # 3 has two of four votes; its best trajectory speaks for it
    (vote,) = [s for s in samples if s.strategy == "majority" and s.k == 4]
    assert (vote.evidence, vote.right, vote.score, vote.mean_logprob) == (0.5, False, 0.6, -0.3)
    singles = [s for s in samples if s.strategy == "single"]
    assert [s.score for s in singles] == [0.5, 0.9, 0.6, 0.2] and {s.k for s in singles} == {1}


def test_every_budget_counts_the_same() -> None:
    samples = list(calibration_samples([GROUP, GROUP]))
    for strategy in ("best_of_n", "majority", "weighted"):
        weights = {k: sum(s.weight for s in samples if (s.strategy, s.k) == (strategy, k)) for k in (1, 2, 4)}
        assert list(weights.values()) == pytest.approx([8.0, 8.0, 8.0])


def test_ungradable_choices_are_left_out() -> None:
    unknown = [Candidate(0.9, None, True, -0.1, group=4)] * 2
    assert list(calibration_samples([unknown])) == []
