"""The SPR loss: a case by hand, an independent statement of it in loops, its gradient, and what is left out."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from reflective.errors import TrainingError
from reflective.judge.loss import problem_balanced_weights, spr_loss

S = torch.tensor([[1.0, -2.0, 3.0], [-1.0, 0.5, 99.0], [4.0, 4.0, 4.0]])
Y = torch.tensor([1, 0, -1])
MASK = torch.tensor([[True, True, True], [True, True, False], [True, True, True]])


def bce(s: float, y: int) -> float:
    return -math.log(1 / (1 + math.exp(-s))) if y else -math.log(1 - 1 / (1 + math.exp(-s)))


def stated(
    steps: list[list[float]],
    outcomes: list[int],
    *,
    filtered: bool = True,
    balanced: bool = True,
    weights: list[float] | None = None,
    others: tuple[int, int] = (0, 0),
) -> float:
    """The loss in loops; `others` are the totals of the other ranks."""
    kept = [
        (s, y, weights[row] if weights else 1.0)
        for row, (logits, y) in enumerate(zip(steps, outcomes))
        if y in (0, 1)
        for s in logits
        if not filtered or (y == 1 and s > 0) or (y == 0 and s < 0)
    ]
    p = 1 + others[0] + sum(y == 1 for _, y, _ in kept)
    n = 1 + others[1] + sum(y == 0 for _, y, _ in kept)
    c = {1: 1.5 * n / (p + n), 0: p / (p + n)} if balanced else {0: 1.0, 1: 1.0}
    total = sum(v * c[y] for _, y, v in kept)
    return sum(v * c[y] * bce(s, y) for s, y, v in kept) / (total + 1e-5)


def padded(steps: list[list[float]]) -> tuple[Tensor, Tensor]:
    width = max(map(len, steps))
    logits = torch.tensor([[*row, *[math.nan] * (width - len(row))] for row in steps], dtype=torch.float32)
    return logits, torch.tensor([[i < len(row) for i in range(width)] for row in steps]).reshape(logits.shape)


def test_three_kept_steps_by_hand() -> None:
    result = spr_loss(S, Y, MASK)
    # kept: 1 and 3 of the right one, -1 of the wrong one; P = 3, N = 2; c_1 = 1.5·2/5 = 0.6, c_0 = 3/5 = 0.6
    want = 0.6 * (bce(1, 1) + bce(3, 1) + bce(-1, 0)) / (1.8 + 1e-5)
    assert result.loss.item() == pytest.approx(want, rel=1e-6)
    assert (result.kept_right, result.kept_wrong, result.steps_right, result.steps_wrong) == (2, 1, 3, 2)


def test_diagnostics_are_mean_scores_of_whole_trajectories() -> None:
    result = spr_loss(S, Y, MASK)
    right = math.exp(-(bce(1, 1) + bce(-2, 1) + bce(3, 1)) / 3)
    wrong = math.exp(-(bce(-1, 1) + bce(0.5, 1)) / 2)
    assert result.mean_score_right == pytest.approx(right, rel=1e-5)
    assert result.mean_score_wrong == pytest.approx(wrong, rel=1e-5)
    assert result.gap == pytest.approx(right - wrong, rel=1e-4)


def test_steps_that_disagree_with_the_outcome_teach_nothing() -> None:
    s = S.clone().requires_grad_()
    spr_loss(s, Y, MASK).loss.backward()
    assert s.grad is not None
    assert (s.grad != 0).tolist() == [[True, False, True], [True, False, False], [False, False, False]]


def test_a_logit_of_zero_agrees_with_nothing() -> None:
    result = spr_loss(torch.zeros(2, 1), torch.tensor([1, 0]), torch.ones(2, 1))
    assert (result.kept_right, result.kept_wrong, result.loss.item()) == (0, 0, 0.0)


def test_gradient_by_hand() -> None:
    s = S.clone().requires_grad_()
    spr_loss(s, Y, MASK).loss.backward()
    # d BCE/ds = σ(s) − y, each kept step weighing 0.6 of 1.8
    assert s.grad is not None
    assert s.grad[0, 0].item() == pytest.approx((1 / (1 + math.exp(-1)) - 1) * 0.6 / (1.8 + 1e-5), rel=1e-5)
    assert s.grad[1, 0].item() == pytest.approx((1 / (1 + math.exp(1)) - 0) * 0.6 / (1.8 + 1e-5), rel=1e-5)


rows = st.lists(
    st.tuples(st.lists(st.floats(-8, 8, width=32), max_size=4), st.sampled_from([1, 0, -1])), min_size=1, max_size=6
).filter(lambda rows: any(steps for steps, _ in rows))


@given(rows=rows, filtered=st.booleans(), balanced=st.booleans(), weighted=st.booleans())
@settings(deadline=None)
def test_loss_is_that_of_the_independent_statement(
    rows: list[tuple[list[float], int]], filtered: bool, balanced: bool, weighted: bool
) -> None:
    steps, outcomes = [s for s, _ in rows], [y for _, y in rows]
    weights = [0.5 + i for i in range(len(rows))] if weighted else None
    logits, mask = padded(steps)
    result = spr_loss(
        logits,
        torch.tensor(outcomes),
        mask,
        filter="self_supervised" if filtered else "none",
        class_balance=balanced,
        weights=torch.tensor(weights) if weights else None,
    )
    want = stated(steps, outcomes, filtered=filtered, balanced=balanced, weights=weights)
    assert result.loss.item() == pytest.approx(want, rel=1e-4, abs=1e-6)


def test_gradient_is_that_of_finite_differences() -> None:
    torch.manual_seed(0)
    s = torch.randn(4, 5) * 2
    y, mask = torch.tensor([1, 0, 1, 0]), torch.rand(4, 5) > 0.3
    leaf = s.clone().requires_grad_()
    spr_loss(leaf, y, mask).loss.backward()
    assert leaf.grad is not None
    step = 1e-2
    for i, j in [(0, 0), (1, 2), (2, 4), (3, 1)]:
        up, down = s.clone(), s.clone()
        up[i, j] += step
        down[i, j] -= step
        slope = (spr_loss(up, y, mask).loss - spr_loss(down, y, mask).loss) / (2 * step)
        assert leaf.grad[i, j].item() == pytest.approx(slope.item(), abs=1e-4)


def test_counts_of_all_ranks_balance_the_classes() -> None:
    seen: list[list[float]] = []

    def reduce(counts: Tensor) -> Tensor:
        seen.append(counts.tolist())
        return counts + torch.tensor([10.0, 4.0])  # what the other ranks had, their ones included

    result = spr_loss(S, Y, MASK, reduce_counts=reduce)
    assert seen == [[3.0, 2.0]]  # 1 added on this rank
    steps = [[1.0, -2.0, 3.0], [-1.0, 0.5]]
    assert result.loss.item() == pytest.approx(stated(steps, [1, 0], others=(10, 4)), rel=1e-5)
    assert (result.kept_right, result.kept_wrong) == (2, 1)  # this rank's own


@pytest.mark.parametrize("balance", [True, False])
def test_counts_are_reduced_once_even_without_any_step(balance: bool) -> None:
    """A rank that left out the reduction would hang all others."""
    calls = []
    s = torch.zeros(2, 0, requires_grad=True)
    result = spr_loss(
        s,
        torch.tensor([1, -1]),
        torch.zeros(2, 0),
        class_balance=balance,
        reduce_counts=lambda c: calls.append(1) or c,  # type: ignore[func-returns-value]
    )
    result.loss.backward()  # the graph is there, for DDP
    assert calls == [1] and result.loss.item() == 0.0
    assert result.mean_score_right is None and result.gap is None


def test_ungradable_trajectories_change_nothing() -> None:
    with_it, without = spr_loss(S, Y, MASK), spr_loss(S[:2], Y[:2], MASK[:2])
    assert torch.equal(with_it.loss, without.loss)
    assert with_it.gap == without.gap


def test_masked_places_are_never_read() -> None:
    s = S.clone()
    s[1, 2] = math.nan
    s.requires_grad_()
    result = spr_loss(s, Y, MASK)
    result.loss.backward()
    assert torch.equal(result.loss, spr_loss(S, Y, MASK).loss)
    assert s.grad is not None and s.grad.isfinite().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_real_logit_that_is_not_finite_is_an_error(bad: float) -> None:
    s = S.clone()
    s[0, 0] = bad
    with pytest.raises(TrainingError, match="diverged"):
        spr_loss(s, Y, MASK)


def test_bfloat16_logits_are_summed_in_float32() -> None:
    result = spr_loss(S.bfloat16(), Y, MASK)
    assert result.loss.dtype == torch.float32
    torch.testing.assert_close(result.loss, spr_loss(S, Y, MASK).loss)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step_logits": torch.zeros(3)}, "trajectories, steps"),
        ({"mask": torch.zeros(3, 2)}, r"\(3, 3\); got \(3, 2\)"),
        ({"outcomes": torch.zeros(2)}, r"outcomes must have shape \(3,\)"),
        ({"weights": torch.zeros(3, 1)}, r"weights must have shape \(3,\)"),
        ({"outcomes": torch.tensor([1, 0, 2])}, "1 .right., 0 .wrong. or -1"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(change: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spr_loss(**{"step_logits": S, "outcomes": Y, "mask": MASK, **change})  # type: ignore[arg-type]


def test_problem_balanced_weights_by_hand() -> None:
    problems = ["a", "a", "a", "a", "b", "b", "c", "c"]
    outcomes = torch.tensor([1, 0, 0, 0, 1, 1, 1, -1])
    # a: 4 gradable, 1 right, 3 wrong; b and c have right ones only
    want = [4 / 2, 4 / 6, 4 / 6, 4 / 6, 0, 0, 0, 0]
    assert problem_balanced_weights(problems, outcomes).tolist() == pytest.approx(want)
    assert problem_balanced_weights(problems, outcomes, one_sided=0.5).tolist()[4:] == [0.5, 0.5, 0.5, 0.0]


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([1, 0, -1])), min_size=1, max_size=20))
def test_right_and_wrong_of_a_problem_weigh_the_same(items: list[tuple[int, int]]) -> None:
    problems, outcomes = [p for p, _ in items], [y for _, y in items]
    weights = problem_balanced_weights(problems, torch.tensor(outcomes)).tolist()
    for problem in set(problems):
        sums = [
            sum(w for w, p, y in zip(weights, problems, outcomes) if p == problem and y == label) for label in (0, 1)
        ]
        assert sums[0] == pytest.approx(sums[1])


def test_problem_balanced_weights_want_a_problem_for_each() -> None:
    with pytest.raises(ValueError, match="1 problems for 2 outcomes"):
        problem_balanced_weights(["a"], torch.tensor([0, 1]))
