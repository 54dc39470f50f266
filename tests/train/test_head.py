"""What is chosen behind a fitted head, on rollouts whose best choice is known."""

from __future__ import annotations

import torch

from reflective.sprm.head import SPRMHead
from reflective.train.head import EXPONENTS, fit_exponent
from reflective.train.rollouts import Rollouts


def rollouts(logprobs: list[float], outcomes: list[int]) -> Rollouts:
    """Four trajectories of one step for each of two problems; hidden states of zero, so that every MLP(h) is equal."""
    count = len(outcomes)
    return Rollouts(
        features=torch.zeros(count, 4),
        logprob_features=torch.tensor([[x, x] for x in logprobs]),
        starts=list(range(count + 1)),
        problems=[i // 4 for i in range(count)],
        outcomes=outcomes,
        tokens=[5] * count,
        mean_logprobs=logprobs,
        answers=["1"] * count,
        closed=[True] * count,
        families=["f"] * count,
    )


def head(weight: float) -> SPRMHead:
    made = SPRMHead(4, logprob_features=True).eval()
    assert made.logprob_weight is not None
    made.logprob_weight.data = torch.tensor([weight, 0.0])
    return made


def test_an_exponent_is_taken_where_the_probability_knows_better() -> None:
    # the head prefers the unlikely ones, and they are wrong
    likely = rollouts([-1.0, -1.0, -0.1, -1.0] * 2, [0, 0, 1, 0] * 2)
    made = head(-2.0)
    chosen, tried = fit_exponent(made, likely, "geometric_mean")
    # of k = 2 one pair in two holds a right one, of k = 4 every group: (0.5 + 1) / 2
    assert chosen > 0 and tried[chosen] == 0.75 and tried[0.0] == 0.0
    assert all(tried[v] < 0.75 for v in EXPONENTS if v < chosen)
    assert made.probability_exponent == 0.0, "setting it is left to the caller"


def test_no_exponent_is_taken_where_it_gains_nothing() -> None:
    unlikely = rollouts([-0.1, -0.1, -1.0, -0.1] * 2, [0, 0, 1, 0] * 2)
    chosen, tried = fit_exponent(head(-2.0), unlikely, "geometric_mean")
    assert chosen == 0.0 and tried[0.0] == 0.75
