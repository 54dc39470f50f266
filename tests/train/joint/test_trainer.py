"""The joint loss: equal to a plain statement of the equations, in one forward, under everything a trainer does to it.

Letters: B trajectories, n steps, T positions.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("trl")

from torch.nn.functional import binary_cross_entropy_with_logits, log_softmax

from reflective.judge.loss import UNGRADABLE, SPRLoss, spr_loss
from reflective.models import load_checkpoint
from reflective.train.joint.batch import NO_STEP, step_table, trimmed
from reflective.train.joint.run import JointRun, prepare
from reflective.train.joint.step import JointLoss
from tiny import tiny_model
from train.joint.fakes import HERE, STEP_TOKENS, tiny_joint

pytestmark = pytest.mark.slow

PAD, STEP = 259, STEP_TOKENS[3]


def made(tmp_path: Path, **changes: Any) -> JointRun:
    changes["head"] = {"dropout": 0.0, **changes.get("head", {})}
    run = prepare(tiny_joint(tmp_path, **changes), note=lambda _: None)
    run.trainer.current_gradient_accumulation_steps = 1
    run.trainer.model.train()
    return run


def batch_of(run: JointRun, outcomes: list[int], seed: int = 0, step_every: int = 4) -> dict[str, Any]:
    """Hand-made trajectories of unequal lengths, with steps in all but the last."""
    rng = torch.Generator().manual_seed(seed)
    count = len(outcomes)
    opening = run.judge.format.opening_ids
    prompts = [[*(torch.randint(100, 200, (5 + i,), generator=rng).tolist()), *opening] for i in range(count)]
    completions = []
    for i in range(count):
        ids = torch.randint(100, 200, (9 + 3 * i,), generator=rng).tolist()
        if i < count - 1 or count == 1:
            ids[step_every - 1 :: step_every] = [STEP] * len(ids[step_every - 1 :: step_every])
        completions.append(ids)
    p, c = max(map(len, prompts)), max(map(len, completions))
    batch: dict[str, Any] = {
        "prompt_ids": torch.tensor([[PAD] * (p - len(x)) + x for x in prompts]),
        "prompt_mask": torch.tensor([[0] * (p - len(x)) + [1] * len(x) for x in prompts]),
        "completion_ids": torch.tensor([x + [PAD] * (c - len(x)) for x in completions]),
        "completion_mask": torch.tensor([[1] * len(x) + [0] * (c - len(x)) for x in completions]),
        "advantages": torch.randn(count, generator=rng),
        "outcomes": torch.tensor(outcomes),
        "problem": torch.arange(count),
        "ended": torch.zeros(count, dtype=torch.bool),
    }
    batch["step_index"], _ = step_table(run.judge.config, prompts, completions, p)
    batch["old_per_token_logps"] = -3.0 - torch.rand(count, c, generator=rng)
    return run.trainer._count_tokens(batch)


def spr_of(run: JointRun, batch: dict[str, Any], step_logits: torch.Tensor) -> SPRLoss:
    """The trainer's SPR loss of a model that gives these step logits."""
    found: list[JointLoss] = []
    watched = run.trainer.figures.losses
    run.trainer.figures.losses = lambda mode, loss: found.append(loss)
    width = batch["prompt_ids"].shape[1] + batch["completion_ids"].shape[1]
    zeros = torch.zeros(len(batch["outcomes"]), width)
    run.trainer.compute_loss(
        lambda **_: SimpleNamespace(log_probs=zeros, entropy=zeros, step_logits=step_logits), batch
    )
    run.trainer.figures.losses = watched
    return found[0].spr


def plain_statement(model: Any, head: Any, run: JointRun, batch: dict[str, Any]) -> torch.Tensor:
    """GRPO and the SPR loss, with nothing of TRL and nothing of ours but the weights."""
    settings = run.config.head
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    seen = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    out = model(input_ids=ids, attention_mask=seen, output_hidden_states=True)
    width = batch["completion_ids"].shape[1]
    # as TRL, without position_ids
    logps = log_softmax(out.logits[:, -width - 1 : -1].float(), -1).gather(2, batch["completion_ids"].unsqueeze(2))
    logps = logps.squeeze(2)
    counted = (batch["outcomes"] != UNGRADABLE).unsqueeze(1) * batch["completion_mask"]
    ratio = (logps - batch["old_per_token_logps"]).exp()
    advantage = batch["advantages"].unsqueeze(1)
    low, high = 1 - run.config.policy.clip, 1 + (run.config.policy.clip_high or run.config.policy.clip)
    objective = torch.minimum(ratio * advantage, ratio.clamp(low, high) * advantage)
    if run.config.policy.kl:
        apart = batch["ref_per_token_logps"] - logps  # "low_var": exp(d) − d − 1
        objective = objective - run.config.policy.kl * (apart.exp() - apart - 1)
    if run.config.policy.loss == "grpo":  # the mean over trajectories that are graded
        graded = counted.sum(1) > 0
        policy = -((objective * counted).sum(1)[graded] / counted.sum(1)[graded]).mean()
    else:  # "bnpo"
        policy = -(objective * counted).sum() / counted.sum()

    terms, weights, p, n = [], [], 1, 1
    for row in range(len(ids)):
        y = int(batch["outcomes"][row])
        for position in batch["step_index"][row].tolist():
            if position < 0 or y == UNGRADABLE:
                continue
            h = out.hidden_states[-2][row, position]
            h = settings.backbone_gradient_scale * h + (1 - settings.backbone_gradient_scale) * h.detach()
            s = head.output.weight[0] @ torch.relu(head.hidden.weight @ h + head.hidden.bias) + head.output.bias[0]
            if settings.filter == "none" or (s > 0) == (y == 1):
                p, n = p + (y == 1), n + (y == 0)
                terms.append(binary_cross_entropy_with_logits(s, torch.tensor(float(y))))
                weights.append((y, float(batch["step_weights"][row]) if settings.problem_balanced else None))
    w = torch.tensor([(1.5 * n / (p + n) if y else p / (p + n)) if v is None else v for y, v in weights])
    spr = (torch.stack(terms) * w).sum() / (w.sum() + 1e-5)
    return policy + settings.coefficient * spr


@pytest.mark.parametrize(
    ("head", "policy"),
    [
        ({}, {}),
        ({"filter": "none", "coefficient": 0.3}, {"kl": 0.1}),
        ({"backbone_gradient_scale": 1e-4}, {"loss": "grpo"}),
        ({"problem_balanced": True}, {"loss": "grpo", "kl": 0.1}),
    ],
)
def test_loss_and_gradients_equal_a_plain_statement(
    tmp_path: Path, head: dict[str, Any], policy: dict[str, Any]
) -> None:
    run = made(tmp_path, head=head, policy=policy)
    batch = batch_of(run, [1, 0, UNGRADABLE, 1, 0, 1])
    if policy.get("kl"):
        batch["ref_per_token_logps"] = batch["old_per_token_logps"] - 6.0  # near those of random weights
    if head.get("problem_balanced"):
        batch["step_weights"] = torch.tensor([0.5, 2.0, 0.0, 1.0, 0.25, 1.5])
    loss = run.trainer.compute_loss(run.trainer.model, batch)
    loss.backward()
    plain = load_checkpoint(run.config.model, dtype="float32", device="cpu")
    head = plain.judge.head
    assert head is not None
    stated = plain_statement(plain.model, head, run, batch)
    stated.backward()
    assert float(loss) == pytest.approx(float(stated), abs=1e-6)
    theirs = {**dict(plain.model.named_parameters()), **{f"sprm.{k}": p for k, p in head.named_parameters()}}
    ours = dict(run.trainer.model.named_parameters())
    assert ours.keys() == theirs.keys()
    for name, parameter in ours.items():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, atol=1e-6, rtol=1e-5, msg=name)


def gradients(run: JointRun, batch: dict[str, Any], **changes: Any) -> dict[str, torch.Tensor]:
    run.trainer.model.zero_grad(set_to_none=True)
    run.trainer.compute_loss(run.trainer.model, {**batch, **changes}).backward()
    return {n: p.grad.clone() for n, p in run.trainer.model.named_parameters() if p.grad is not None}


def test_the_backbone_gets_exactly_the_scale_of_the_gradient(tmp_path: Path) -> None:
    found = []
    for i, scale in enumerate((1.0, 0.125)):
        run = made(tmp_path, head={"backbone_gradient_scale": scale}, output=str(tmp_path / str(i)))
        batch = batch_of(run, [1, 0, 1])
        found.append(gradients(run, batch, advantages=torch.zeros(3)))  # the SPR loss alone
    whole, part = found
    backbone = [n for n in whole if not n.startswith("sprm.") and whole[n].abs().max() > 0]
    assert backbone and any(n.startswith("sprm.") for n in whole)
    for name in whole:
        scale = 1.0 if name.startswith("sprm.") else 0.125
        torch.testing.assert_close(part[name], scale * whole[name], rtol=1e-6, atol=0, msg=name)


def test_one_forward_serves_both_losses(tmp_path: Path) -> None:
    run = made(tmp_path, steps=2)
    backbone, passes = run.trainer.model.base_model, []
    backbone.register_forward_hook(lambda module, *_: passes.append(module.training))
    run.trainer.train()
    # 2 steps of 8 trajectories in micro-batches of 4; the engine decodes by itself
    assert passes == [True] * 4


@pytest.mark.parametrize("layer", [0, 1, -2, -1])
def test_the_feature_is_the_hidden_state(tmp_path: Path, layer: int) -> None:
    changes = {"fresh": True, "layer": layer, "step_tokens": list(STEP_TOKENS)}
    run = made(tmp_path, head=changes, rollouts={"engine": "trl"})
    batch = batch_of(run, [1, 0])
    lm = run.trainer.model.eval()
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    seen = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    out = lm(input_ids=ids, attention_mask=seen, step_index=batch["step_index"])
    states = lm(input_ids=ids, attention_mask=seen, output_hidden_states=True).hidden_states
    index = batch["step_index"].clamp(min=0).unsqueeze(2).expand(-1, -1, states[layer].shape[2])
    expected = lm.sprm(states[layer].gather(1, index))
    torch.testing.assert_close(out.step_logits, expected, atol=1e-6, rtol=1e-6)


def test_ungradable_trajectories_teach_nobody(tmp_path: Path) -> None:
    run = made(tmp_path)
    kept = batch_of(run, [1, 0, 1])
    first = gradients(run, kept)
    doubled = {k: torch.cat([v, v]) if isinstance(v, torch.Tensor) and v.dim() else v for k, v in kept.items()}
    doubled["outcomes"] = torch.tensor([1, 0, 1, UNGRADABLE, UNGRADABLE, UNGRADABLE])
    second = gradients(run, run.trainer._count_tokens(doubled))
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(second[name], first[name], atol=1e-6, rtol=1e-5, msg=name)


def test_a_batch_without_any_step_teaches_the_policy_alone(tmp_path: Path) -> None:
    run = made(tmp_path)
    batch = batch_of(run, [1, 0])
    batch["step_index"] = torch.full_like(batch["step_index"], NO_STEP)
    found = gradients(run, batch)
    assert all(bool((found[n] == 0).all()) for n in found if n.startswith("sprm."))
    assert any(bool((found[n] != 0).any()) for n in found if not n.startswith("sprm."))


def test_padding_that_a_micro_batch_does_not_need_changes_nothing(tmp_path: Path) -> None:
    run = made(tmp_path)
    batch = batch_of(run, [1, 0, 1])
    wide = dict(batch)
    for name in ("prompt_ids", "prompt_mask"):
        wide[name] = torch.cat([torch.zeros_like(batch[name][:, :3]), batch[name]], 1)
    for name in ("completion_ids", "completion_mask", "old_per_token_logps"):
        wide[name] = torch.cat([batch[name], torch.zeros_like(batch[name][:, :5])], 1)
    wide["step_index"] = torch.where(batch["step_index"] == NO_STEP, NO_STEP, batch["step_index"] + 3)
    narrow = trimmed(wide)
    assert all(torch.equal(narrow[name], batch[name]) for name in batch)


def test_accumulation_divides_both_losses(tmp_path: Path) -> None:
    run = made(tmp_path)
    batch = batch_of(run, [1, 0, 1])
    whole = run.trainer.compute_loss(run.trainer.model, batch)
    run.trainer.current_gradient_accumulation_steps = 4
    quarter = run.trainer.compute_loss(run.trainer.model, batch)
    assert float(quarter) == pytest.approx(float(whole) / 4, abs=1e-7)


def test_the_class_weights_are_those_of_all_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made(tmp_path, head={"filter": "none"})
    batch = batch_of(run, [1, 0, 1])
    elsewhere = torch.tensor([2.0, 30.0])  # kept steps of another rank
    asked = []

    def reduce(counts: torch.Tensor, how: str) -> torch.Tensor:
        asked.append(how)
        return counts + elsewhere

    monkeypatch.setattr(run.trainer.accelerator, "reduce", reduce)
    logits = torch.randn(batch["step_index"].shape, generator=torch.Generator().manual_seed(0))
    found = spr_of(run, batch, logits).loss
    mask = batch["step_index"] != NO_STEP
    expected = spr_loss(logits, batch["outcomes"], mask, filter="none", reduce_counts=lambda c: c + elsewhere).loss
    alone = spr_loss(logits, batch["outcomes"], mask, filter="none").loss
    assert asked == ["sum"] and float(found) == float(expected) != float(alone)


def test_gradient_checkpointing_changes_no_gradient(tmp_path: Path) -> None:
    run = made(tmp_path)
    batch = batch_of(run, [1, 0, 1])
    expected = gradients(run, batch)
    run.trainer.model.gradient_checkpointing_enable()
    found = gradients(run, batch)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-6, rtol=1e-5, msg=name)


def test_bfloat16_leaves_the_head_in_float32(tmp_path: Path) -> None:
    run = made(tmp_path, precision="bfloat16", steps=2)
    assert run.trainer.args.bf16
    run.trainer.train()
    assert all(p.dtype == torch.float32 for p in run.trainer.model.parameters())
    batch = batch_of(run, [1, 0, 1])
    seen: list[torch.dtype] = []
    run.trainer.model.sprm.output.register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    loss = run.trainer.compute_loss(run.trainer.model_wrapped, batch)
    assert seen == [torch.float32] and bool(loss.isfinite())


def test_adapters_and_the_head_learn_and_the_backbone_stays(tmp_path: Path) -> None:
    run = made(tmp_path, lora={"rank": 2}, steps=2)
    before = {n: p.clone() for n, p in run.trainer.model.named_parameters()}
    run.trainer.train()
    moved = {n for n, p in run.trainer.model.named_parameters() if not torch.equal(p, before[n])}
    assert moved and all("lora_" in n or ".sprm." in n for n in moved)
    assert any("lora_B" in n for n in moved) and any(".sprm." in n for n in moved)


def test_the_head_has_its_own_rate(tmp_path: Path) -> None:
    run = made(tmp_path, head={"lr": 0.125, "weight_decay": 0.25})
    optimizer = run.trainer.create_optimizer()
    *policy, head = optimizer.param_groups
    assert (head["lr"], head["weight_decay"]) == (0.125, 0.25)
    assert {id(p) for p in head["params"]} == {id(p) for p in run.trainer.model.sprm.parameters()}
    assert {g["lr"] for g in policy} == {1e-3}
    every = [id(p) for g in optimizer.param_groups for p in g["params"]]
    assert len(every) == len(set(every)) == len(list(run.trainer.model.parameters()))


def test_a_generation_is_learnt_from_as_often_as_asked(tmp_path: Path) -> None:
    run = made(tmp_path, policy={"iterations": 2, "minibatches": 2}, steps=8)
    calls = []
    write = run.trainer.rollout_func
    run.trainer.rollout_func = lambda texts, trainer: calls.append(trainer.state.global_step) or write(texts, trainer)
    run.trainer.train()
    assert calls == [0, 4]


def test_a_plain_start_precedes_the_filter(tmp_path: Path) -> None:
    run = made(tmp_path, head={"plain_steps": 3})
    batch = batch_of(run, [1, 0, 1])
    steps = int((batch["step_index"] != NO_STEP).sum())

    def kept() -> int:
        logits = torch.linspace(-1, 1, batch["step_index"].numel()).view_as(batch["step_index"])
        loss = spr_of(run, batch, logits)
        return loss.kept_right + loss.kept_wrong

    assert kept() == steps
    run.trainer.state.global_step = 3
    assert 0 < kept() < steps


def test_log_probability_features_are_those_of_the_rollout(tmp_path: Path) -> None:
    run = made(tmp_path, head={"fresh": True, "logprob_features": True, "step_tokens": list(STEP_TOKENS)}, steps=1)
    caught = {}
    compute = run.trainer.compute_loss
    run.trainer.compute_loss = lambda model, inputs, **_: caught.update(trimmed(inputs)) or compute(model, inputs)
    run.trainer.train()
    row = int((caught["step_index"] != NO_STEP).sum(1).argmax())
    width = caught["prompt_ids"].shape[1]
    first = int(caught["step_index"][row, 0]) - width + 1  # the first step token's place in the completion
    logprobs = caught["old_per_token_logps"][row, : first + 1]
    expected = torch.stack([logprobs.mean(), logprobs.min()])
    torch.testing.assert_close(caught["step_logprobs"][row, 0], expected, atol=1e-5, rtol=1e-5)
    assert bool(run.trainer.model.sprm.logprob_weight.abs().sum() > 0)  # it has learnt


def test_the_tiny_model_has_norms_of_heads(tmp_path: Path) -> None:
    """What the engine holds by value is there to go stale (tests of the rollouts rely on it)."""
    assert hasattr(tiny_model("qwen3").model.layers[0].self_attn, "q_norm")


def test_balanced_weights_are_those_of_whole_groups(tmp_path: Path) -> None:
    run = made(tmp_path, head={"problem_balanced": True})
    rows = [dict(run.trainer.train_dataset[i]) for i in range(2) for _ in range(4)]
    batch = run.trainer._generate_and_score_completions(rows)
    outcomes = batch["outcomes"].tolist()
    for start in (0, 4):
        group = outcomes[start : start + 4]
        right, wrong = group.count(1), group.count(0)
        for row, outcome in enumerate(group, start):
            both = right and wrong and outcome != UNGRADABLE
            expected = (right + wrong) / (2 * group.count(outcome)) if both else 0.0
            assert float(batch["step_weights"][row]) == pytest.approx(expected)


def test_an_ungradable_trajectory_is_none_whatever_other_rewards_say(tmp_path: Path) -> None:
    names = [f"{HERE}:chance", f"{HERE}:length"]
    run = made(tmp_path, rewards={"functions": names, "outcome": names[0]})
    kept = {}
    calculate = run.trainer._calculate_rewards
    run.trainer._calculate_rewards = lambda *a: kept.update(rewards=calculate(*a)) or kept["rewards"]
    rows = [dict(run.trainer.train_dataset[i]) for i in range(8) for _ in range(4)]
    batch = run.trainer._generate_and_score_completions(rows)
    unknown = batch["outcomes"] == UNGRADABLE
    assert unknown.any() and not unknown.all()
    assert kept["rewards"][unknown].isnan().all() and not kept["rewards"][~unknown].isnan().any()
    for start in range(0, 32, 4):  # what is left of a group is compared with its own mean
        mine = slice(start, start + 4)
        advantages = batch["advantages"][mine][~unknown[mine]]
        assert float(advantages.sum()) == pytest.approx(0.0, abs=1e-4)
