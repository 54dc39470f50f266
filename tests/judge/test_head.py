"""The head's equation on numbers worked out by hand, its key names, and the gradient that it lets through."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from reflective.judge.aggregate import sigmoid
from reflective.judge.heads.paper import (
    BACKBONE_GRADIENT_SCALE,
    SPRMHead,
    from_reference,
    scale_backbone_gradient,
    to_reference,
)
from reflective.judge.logprobs import times_probability


def set_weights(head: SPRMHead, w1: list[list[float]], b1: list[float], w2: list[float], b2: float) -> None:
    head.load_state_dict(
        {
            "hidden.weight": torch.tensor(w1),
            "hidden.bias": torch.tensor(b1),
            "output.weight": torch.tensor([w2]),
            "output.bias": torch.tensor([b2]),
        },
        strict=False,
    )


def reference_module(hidden_size: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(hidden_size, 2 * hidden_size), nn.ReLU(), nn.Dropout(0.5), nn.Linear(2 * hidden_size, 1)
    )


def test_the_logit_is_that_of_the_equation() -> None:
    head = SPRMHead(1).eval()
    set_weights(head, [[2.0], [-1.0]], [1.0, 0.5], [3.0, 10.0], -4.0)
    # h=1: relu(3, -0.5) = (3, 0) -> 9 - 4 = 5;  h=-2: relu(-3, 2.5) = (0, 2.5) -> 25 - 4 = 21
    assert head(torch.tensor([[1.0], [-2.0]])).tolist() == [5.0, 21.0]


def test_log_probability_features_add_their_weighted_sum() -> None:
    head = SPRMHead(1, logprob_features=True).eval()
    set_weights(head, [[2.0], [-1.0]], [1.0, 0.5], [3.0, 10.0], -4.0)
    h, c = torch.tensor([[1.0]]), torch.tensor([[-0.5, -4.0]])
    assert head(h, c).tolist() == [5.0]  # without effect at the start
    assert head.logprob_weight is not None
    head.logprob_weight.data = torch.tensor([2.0, 0.25])
    assert head(h, c).tolist() == [3.0]  # 5 + 2·(-0.5) + 0.25·(-4)


def test_a_head_says_whether_it_wants_log_probabilities() -> None:
    h, c = torch.zeros(2, 4), torch.zeros(2, 2)
    with pytest.raises(ValueError, match="built without"):
        SPRMHead(4)(h, c)
    with pytest.raises(ValueError, match="built with "):
        SPRMHead(4, logprob_features=True)(h)
    with pytest.raises(ValueError, match=r"shape \(2, 2\)"):
        SPRMHead(4, logprob_features=True)(h, torch.zeros(2, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_logits_are_float32_for_any_input_type(dtype: torch.dtype) -> None:
    head = SPRMHead(8).eval()
    h = torch.randn(3, 5, 8).to(dtype)
    assert head(h).dtype == torch.float32
    assert head(h).shape == (3, 5)
    torch.testing.assert_close(head(h), head(h.float()))


def test_weights_are_float32_whatever_the_default_type() -> None:
    torch.set_default_dtype(torch.bfloat16)
    try:
        head = SPRMHead(4)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {p.dtype for p in head.parameters()} == {torch.float32}


def test_a_head_in_bfloat16_still_gives_float32_logits() -> None:
    assert SPRMHead(4).to(torch.bfloat16).eval()(torch.randn(2, 4)).dtype == torch.float32


def test_no_position_gives_no_logit() -> None:
    assert SPRMHead(4)(torch.zeros(0, 4)).shape == (0,)


def test_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match=r"width 4; got shape \(2, 5\)"):
        SPRMHead(4)(torch.zeros(2, 5))


def test_dropout_acts_in_training_only() -> None:
    head, h = SPRMHead(64), torch.randn(1, 64)
    assert head(h) != head(h)
    head.eval()
    assert head(h) == head(h)


@pytest.mark.parametrize(("hidden_size", "parameters"), [(1536, 4_724_737), (3584, 25_704_449), (5120, 52_449_281)])
def test_the_head_has_the_papers_size(hidden_size: int, parameters: int) -> None:
    with torch.device("meta"):
        head = SPRMHead(hidden_size)
    assert sum(p.numel() for p in head.parameters()) == parameters  # the paper says 5M, 26M and 53M


def test_a_reference_head_gives_the_same_logits() -> None:
    theirs, ours, h = reference_module(16).eval(), SPRMHead(16).eval(), torch.randn(4, 16)
    ours.load_state_dict(from_reference(theirs.state_dict()))
    torch.testing.assert_close(ours(h), theirs(h).squeeze(-1))
    theirs.load_state_dict(to_reference(ours.state_dict()))


def test_conversion_there_and_back_is_the_identity() -> None:
    state = SPRMHead(4).state_dict()
    back = from_reference(to_reference(state))
    assert back.keys() == state.keys() and all(torch.equal(back[k], state[k]) for k in state)


def test_wrapped_bfloat16_reference_weights_become_float32() -> None:
    theirs = reference_module(4).to(torch.bfloat16).state_dict()
    ours = from_reference({f"module.{key}": tensor for key, tensor in theirs.items()})
    assert {t.dtype for t in ours.values()} == {torch.float32}
    assert torch.equal(ours["hidden.weight"], theirs["0.weight"].float())


def test_other_keys_are_not_a_reference_head() -> None:
    with pytest.raises(ValueError, match="got 0\\.weight"):
        from_reference({"0.weight": torch.zeros(2, 1)})
    with pytest.raises(ValueError, match="can't hold logprob_weight"):
        to_reference(SPRMHead(2, logprob_features=True).state_dict())


@given(scale=st.floats(0, 1, width=32), values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=5))
@settings(deadline=None)
def test_gradient_is_scaled_exactly_and_the_value_kept_exactly(scale: float, values: list[float]) -> None:
    h = torch.tensor(values, requires_grad=True)
    out = scale_backbone_gradient(h, scale)
    assert torch.equal(out, h)
    upstream = torch.arange(1.0, len(values) + 1)
    out.backward(upstream)
    assert h.grad is not None and torch.equal(h.grad, upstream * scale)


def test_the_backbone_gets_a_ten_thousandth() -> None:
    assert BACKBONE_GRADIENT_SCALE == 1e-4
    h = torch.randn(3, 8, requires_grad=True)
    head = SPRMHead(8).eval()
    head(h).sum().backward()
    full, h.grad = h.grad, None
    head_gradient = head.hidden.weight.grad
    head.zero_grad()
    head(scale_backbone_gradient(h)).sum().backward()
    torch.testing.assert_close(h.grad, 1e-4 * full)
    torch.testing.assert_close(head.hidden.weight.grad, head_gradient)  # the head itself learns at full rate


def test_a_score_counts_how_probable_its_tokens_were() -> None:
    head = SPRMHead(4, logprob_features=True, probability_exponent=3.0).eval()
    plain = SPRMHead(4, logprob_features=True).eval()
    plain.load_state_dict(head.state_dict())
    h, c = torch.randn(5, 4), torch.tensor([[-0.5, -1.0], [0.0, 0.0], [-20.0, -30.0], [-1e-6, -1.0], [-2.0, -2.0]])
    # σ(s') = σ(s) · p³
    want = torch.sigmoid(plain(h, c)) * torch.exp(3 * c[:, 0])
    torch.testing.assert_close(torch.sigmoid(head(h, c)), want, rtol=1e-5, atol=1e-12)
    assert head(h, c)[1] == plain(h, c)[1]
    one_by_one = [times_probability(s, mean, 3.0) for s, mean in zip(plain(h, c).tolist(), c[:, 0].tolist())]
    torch.testing.assert_close(head(h, c), torch.tensor(one_by_one), rtol=1e-4, atol=1e-5)


def test_an_exponent_needs_log_probabilities() -> None:
    with pytest.raises(ValueError, match="logprob_features"):
        SPRMHead(4, probability_exponent=1.0)


def test_a_score_of_a_certain_token_stays_bit_for_bit() -> None:
    assert times_probability(37.5, 0.0, 8.0) == 37.5 and times_probability(-1.25, -3.0, 0.0) == -1.25
    assert sigmoid(times_probability(50.0, -0.1, 10.0)) == pytest.approx(math.exp(-1.0))
