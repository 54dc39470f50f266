"""What is watched, by hand-computed values."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("trl")

from reflective.judge.config import JudgeConfig
from reflective.judge.format import between_marks
from reflective.judge.loss import spr_loss
from reflective.train.joint.batch import NO_STEP, logprob_table, step_table
from reflective.train.joint.metrics import Figures, held_out_figures
from reflective.train.joint.step import JointLoss
from reflective.train.selection import Candidate


class Alone:
    """An accelerator of one process."""

    device = torch.device("cpu")

    def reduce(self, table: torch.Tensor, how: str) -> torch.Tensor:
        assert how == "sum"
        return table


def candidate(score: float | None, right: bool | None, logprob: float = 0.0) -> Candidate:
    return Candidate(score=score, right=right, closed=True, mean_logprob=logprob)


def test_selection_on_held_out_problems() -> None:
    first = [candidate(0.9, True, -1.0), candidate(0.2, False, -0.5), candidate(0.95, False, -2.0)]
    second = [candidate(0.1, False), candidate(0.3, True)]
    figures = held_out_figures([(4, c) for c in first] + [(9, c) for c in second])
    assert figures["spr/single"] == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert figures["spr/best_of_n"] == 0.5 and figures["spr/oracle"] == 1.0
    assert figures["spr/logprob"] == 0.0  # −0.5 in the first; a tie in the second goes to the first
    assert figures["spr/auc_within_problems"] == pytest.approx((0.5 + 1.0) / 2)
    assert held_out_figures([]) == {}


def test_ungradable_trajectories_count_neither_right_nor_wrong() -> None:
    group = [candidate(0.9, None), candidate(0.5, True), candidate(0.2, False)]
    figures = held_out_figures([(1, c) for c in group] + [(2, candidate(0.7, None))])
    assert figures["spr/single"] == 0.5 and figures["spr/best_of_n"] == 1.0 and figures["spr/oracle"] == 1.0


def test_the_gap_is_that_of_the_rollouts_where_they_are_scored() -> None:
    kept = Figures("geometric_mean")
    kept.rollout("train", [1, 1, 0, -1, 0], [0.8, 0.6, 0.3, 0.99, None])
    logits, outcomes = torch.tensor([[2.0, -1.0], [-3.0, 0.5]]), torch.tensor([1, 0])
    loss = spr_loss(logits, outcomes, torch.ones(2, 2, dtype=torch.bool))
    tokens = {"count": 8.0, "entropy": 4.0, "clip_ratio/low_mean": 2.0}
    kept.losses("train", JointLoss(loss.loss, 0.25, loss, logits, tokens))
    figures = kept.take("train", Alone())
    assert figures["spr/score_right"] == pytest.approx(0.7) and figures["spr/score_wrong"] == pytest.approx(0.3)
    assert figures["spr/gap"] == pytest.approx(0.4) and figures["spr/kept"] == pytest.approx(0.5)
    assert figures["spr/policy_loss"] == pytest.approx(0.25)
    assert figures["entropy"] == 0.5 and figures["clip_ratio/low_mean"] == 0.25 and "kl" not in figures
    assert kept.take("train", Alone()) == {}


def test_a_step_lies_where_its_token_was_drawn_from() -> None:
    sprm = JudgeConfig(4, between_marks([7], 1, 2))
    prompts, completions = [[5, 1], [9, 5, 1]], [[3, 7, 3, 3, 7], [3, 3]]
    table, places = step_table(sprm, prompts, completions, prompt_width=3)
    assert places == [[1, 4], []]
    assert table.tolist() == [[3, 6], [NO_STEP, NO_STEP]]  # 3 + 1 − 1, 3 + 4 − 1
    alone, _ = step_table(sprm, prompts[1:], completions[1:], prompt_width=3)
    assert alone.tolist() == [[NO_STEP]]  # one column, though there is no step


def test_log_probabilities_of_a_step_are_mean_and_lowest() -> None:
    logprobs: list[Any] = [[-1.0, -3.0, -2.0, -4.0, -6.0], [-1.0, -1.0]]
    table = logprob_table(logprobs, [[1, 4], []])
    assert table.tolist() == [[[-2.0, -3.0], [-4.0, -6.0]], [[0.0, 0.0], [0.0, 0.0]]]
