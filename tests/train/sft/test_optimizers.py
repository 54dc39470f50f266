from __future__ import annotations

import math

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from reflective.train.sft.config import OptimizerConfig
from reflective.train.sft.optimizers import Muon, make_optimizers, orthogonalised, rate, split_parameters
from train.sft.fakes import ARCHITECTURE


@pytest.mark.parametrize("shape", [(3, 8, 20), (2, 20, 8), (1, 8, 8)])
def test_the_direction_is_nearly_orthogonal_and_keeps_the_singular_vectors(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    directions = orthogonalised(matrices)
    assert directions.shape == matrices.shape
    for matrix, direction in zip(matrices, directions):
        u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
        inner = u.T @ direction @ vt.T
        assert (inner.diag() > 0.5).all() and (inner.diag() < 1.3).all()
        assert (inner - inner.diag().diag()).abs().max() < 1e-3


def test_muon_agrees_with_torch_in_float32() -> None:
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    grads = [torch.randn(12, 6, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    weights = [torch.nn.Parameter(torch.ones(12, 6)) for _ in range(2)]
    ours = Muon(weights[:1], lr=0.02, momentum=0.95, weight_decay=0.1)
    theirs = torch.optim.Muon(weights[1:], lr=0.02, momentum=0.95, weight_decay=0.1)
    for grad in grads:
        for weight, optimizer in zip(weights, (ours, theirs)):
            weight.grad = grad.clone()
            optimizer.step()
    torch.testing.assert_close(weights[0], weights[1], atol=3e-3, rtol=0)  # theirs iterates in bfloat16


def test_every_parameter_is_in_exactly_one_group() -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**ARCHITECTURE, vocab_size=64))
    for matrices in ("muon", "adamw"):
        optimizers = make_optimizers(model, OptimizerConfig(matrices=matrices))
        grouped = [id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
        assert sorted(grouped) == sorted(id(p) for p in model.parameters())


def test_embeddings_and_norms_never_decay() -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**ARCHITECTURE, vocab_size=64))
    names = {id(p): name for name, p in model.named_parameters()}
    inner, outer, plain = split_parameters(model)
    assert not outer  # the head is tied to the embedding
    assert all(name.endswith("proj.weight") for name in (names[id(p)] for p in inner))
    assert {name for name in (names[id(p)] for p in plain) if "norm" not in name} == {"model.embed_tokens.weight"}
    (adamw,) = make_optimizers(model, OptimizerConfig(matrices="adamw"))
    assert all(group["weight_decay"] == 0 for group in adamw.param_groups if id(plain[0]) in map(id, group["params"]))


@pytest.mark.parametrize(
    ("schedule", "progress", "share"),
    [
        ("wsd", 0.05, 0.5),
        ("wsd", 0.1, 1.0),
        ("wsd", 0.5, 1.0),
        ("wsd", 0.75, 0.5),
        ("wsd", 1.0, 0.01),
        ("linear", 0.55, 0.5),
        ("cosine", 0.1, 1.0),
        ("cosine", 0.55, 0.5),
    ],
)
def test_the_rate_warms_up_stays_and_decays(schedule: str, progress: float, share: float) -> None:
    config = OptimizerConfig(schedule=schedule, warmup=0.1, decay=0.5)  # type: ignore[arg-type]
    assert math.isclose(rate(progress, config), share, abs_tol=1e-9)
