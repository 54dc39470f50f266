"""Trajectories written by vLLM, in TRL's two modes: what it is sent, what comes back, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("trl")

from torch.nn.functional import log_softmax

from engines.serving import serving_folder
from engines.vllm_runs import NEEDS_VLLM
from engines.vllm_runs import prepare as import_vllm
from reflective.errors import DependencyError, InputError, TrainingError
from reflective.judge.format import step_positions
from reflective.models import load_checkpoint
from reflective.train.joint.batch import NO_STEP
from reflective.train.joint.config import JointConfig
from reflective.train.joint.reporting import read_curves
from reflective.train.joint.run import JointRun, prepare
from reflective.train.joint.trl import vllm as with_vllm
from train.joint.fakes import STEP_TOKENS, tiny_joint

TRL_SETS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "VLLM_ENABLE_V1_MULTIPROCESSING")


@pytest.fixture(scope="module", autouse=True)
def group_of_one() -> Iterator[None]:
    """vLLM in this process leaves a process group behind, which no other test may find."""
    yield
    if torch.distributed.is_initialized():
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        cleanup_dist_env_and_memory()


def configured(folder: Path, engine: str, **changes: Any) -> JointConfig:
    """A run on a model of sizes that vLLM has, whose weights move far in a step."""
    if not (folder / "model-qwen2").exists():
        serving_folder(folder / "model-qwen2", step_token_ids=STEP_TOKENS)
    changes["rollouts"] = {"engine": engine, "temperature": 0.7, **changes.get("rollouts", {})}
    return tiny_joint(folder, family="qwen2", **{"steps": 3, "policy": {"lr": 0.01}, **changes})


def batches_of(run: JointRun) -> list[dict[str, Any]]:
    """What each generation of the run brought, and the log-probabilities that the weights of that moment give."""
    trainer, found = run.trainer, []
    generate = trainer._generate_and_score_completions

    def watched(inputs: Any) -> Any:
        batch = generate(inputs)
        found.append({**batch, "policy": tempered(run, batch)})
        return batch

    trainer._generate_and_score_completions = watched
    trainer.train()
    return found


def tempered(run: JointRun, batch: dict[str, Any], model: Any = None) -> torch.Tensor:
    """log π_T of the completions (B, T): the model's forward, divided by the temperature."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    seen = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    places = (seen.cumsum(1) - 1).clamp(min=0)
    width = batch["completion_ids"].shape[1]
    with torch.no_grad():
        out = (model or run.trainer.model)(input_ids=ids, attention_mask=seen, position_ids=places)
    logits = out.logits[:, -width - 1 : -1].float() / run.config.rollouts.temperature
    return log_softmax(logits, -1).gather(2, batch["completion_ids"].unsqueeze(2)).squeeze(2)


def check_steps(run: JointRun, batch: dict[str, Any]) -> None:
    """The head reads before each step token of what was written."""
    width, found = batch["prompt_ids"].shape[1], 0
    for row, mask in enumerate(batch["completion_mask"].bool()):
        prompt = batch["prompt_ids"][row][batch["prompt_mask"][row].bool()].tolist()
        places = step_positions(run.judge.format, batch["completion_ids"][row][mask].tolist(), prompt)
        index = batch["step_index"][row]
        assert index[index != NO_STEP].tolist() == [width - 1 + place for place in places]
        found += len(places)
    assert found > 0


@pytest.mark.long
@NEEDS_VLLM
def test_vllm_in_this_process_follows_the_optimizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TRL_SETS:
        monkeypatch.delenv(name, raising=False)
    import_vllm()
    run = prepare(configured(tmp_path, "vllm_colocate"), note=lambda _: None)
    before = load_checkpoint(run.config.model, dtype="float32", device="cpu").model
    batches = batches_of(run)
    assert len(batches) == 3
    for batch in batches:
        mask = batch["completion_mask"].bool()
        assert batch["policy"][mask].abs().max() > 1
        # what vLLM drew from is π_T of the weights of this very step, and so the importance ratio is 1
        torch.testing.assert_close(batch["sampling_per_token_logps"][mask], batch["policy"][mask], atol=2e-3, rtol=1e-3)
        torch.testing.assert_close(batch["importance_sampling_ratio"], torch.ones(8, 1), atol=0.02, rtol=0)
        check_steps(run, batch)
    stale = (tempered(run, batches[-1], before) - batches[-1]["policy"])[batches[-1]["completion_mask"].bool()]
    assert stale.abs().max() > 0.5
    served = run.trainer.vllm_generation.llm.llm_engine.model_executor.driver_worker.model_runner.model
    assert served._reflective is None  # the plugin is there, and has left the model alone
    assert "spr/gap" in read_curves(run.folder)


SHIFT = 0.05  # nats a token by which the server's arithmetic is off


class Served:
    """A vLLM server behind TRL's client: it writes with the weights that it was sent."""

    def __init__(self, folder: str, logprobs_mode: str = "processed_logprobs") -> None:
        self.model: Any = load_checkpoint(folder, dtype="float32", device="cpu").model
        self.logprobs_mode, self.received, self.resets = logprobs_mode, list[dict[str, torch.Tensor]](), 0

    def __call__(self, **_: Any) -> Served:
        return self

    def init_communicator(self, device: Any) -> None:
        """No NCCL here."""

    def get_server_info(self) -> dict[str, Any]:
        return {"model_config": {"logprobs_mode": self.logprobs_mode}}

    def update_named_params(self, metadata: Any, named_params: Any) -> None:
        weights = {name: p.detach().clone() for name, p in named_params}
        assert metadata == [(name, str(p.dtype).removeprefix("torch."), list(p.shape)) for name, p in weights.items()]
        assert not self.model.load_state_dict(weights, strict=False).unexpected_keys
        self.received.append(weights)

    def reset_prefix_cache(self) -> None:
        self.resets += 1

    @torch.inference_mode()
    def generate(self, prompts: list[list[int]], n: int, temperature: float, max_tokens: int, **_: Any) -> Any:
        completions, logprobs = [], []
        for prompt in [prompt for prompt in prompts for _ in range(n)]:
            ids, values = list(prompt), []
            while len(values) < max_tokens and (not values or ids[-1] != self.model.config.eos_token_id):
                choices = log_softmax(self.model(torch.tensor([ids])).logits[0, -1] / temperature, -1)
                ids.append(int(choices.exp().multinomial(1)))
                values.append([float(choices[ids[-1]]) - SHIFT])
            completions.append(ids[len(prompt) :])
            logprobs.append(values)
        return {"prompt_ids": prompts, "completion_ids": completions, "logprobs": logprobs, "logprob_token_ids": None}


def with_server(monkeypatch: pytest.MonkeyPatch, config: JointConfig, server: Served) -> JointRun:
    """A run whose server is in this process, where NCCL is not needed."""
    from trl.generation import vllm_generation

    monkeypatch.setattr(vllm_generation, "VLLMClient", server)
    monkeypatch.setattr(with_vllm, "check_vllm", lambda *_: None)
    return prepare(config, note=lambda _: None)


@NEEDS_VLLM
@pytest.mark.parametrize("rank", [0, 2])
def test_a_server_gets_the_backbone_and_no_head_before_each_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    config = configured(tmp_path, "vllm_server", lora={"rank": rank})
    server = Served(config.model)
    backbone = {name: p.clone() for name, p in server.model.named_parameters()}
    run = with_server(monkeypatch, config, server)
    for batch in batches_of(run):
        counted = batch["completion_mask"]
        sampled, policy = batch["sampling_per_token_logps"], batch["policy"]
        torch.testing.assert_close((sampled + SHIFT) * counted, policy * counted, atol=1e-4, rtol=1e-4)
        # Π π_T(token) / q(token), q being what the server says that it drew from
        expected = (SHIFT * counted.sum(1, keepdim=True)).exp()
        torch.testing.assert_close(batch["importance_sampling_ratio"], expected, atol=1e-3, rtol=1e-3)
        check_steps(run, batch)
    assert len(server.received) == server.resets == 3
    assert all(weights.keys() == backbone.keys() for weights in server.received)
    for name, tensor in backbone.items():
        torch.testing.assert_close(server.received[0][name], tensor, atol=1e-6, rtol=0)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert (server.received[2][name] - server.received[1][name]).abs().max() > 1e-4


@NEEDS_VLLM
@pytest.mark.parametrize(
    ("mode", "temperature", "right"),
    [
        ("processed_logprobs", 0.7, True),
        ("raw_logprobs", 1.0, True),
        ("raw_logprobs", 0.7, False),
        ("raw_logits", 1.0, False),
    ],
)
def test_a_server_that_tells_other_log_probabilities_than_it_draws_from_is_refused(
    mode: str, temperature: float, right: bool
) -> None:
    generation: Any = SimpleNamespace(
        mode="server",
        temperature=temperature,
        vllm_client=SimpleNamespace(get_server_info=lambda: {"model_config": {"logprobs_mode": mode}}),
        accelerator=SimpleNamespace(is_main_process=True),
        _iter_named_params=lambda: iter([("model.norm.weight", 1), ("sprm.hidden.weight", 2), ("lm_head.weight", 3)]),
    )
    with nullcontext() if right else pytest.raises(InputError, match=f"--logprobs-mode {mode}: .*processed_logprobs"):
        with_vllm.keep_head_out(generation)
        assert [name for name, _ in generation._iter_named_params()] == ["model.norm.weight", "lm_head.weight"]


@pytest.mark.parametrize(
    ("engine", "vllm", "words"),
    [
        ("vllm_server", {}, "by NCCL, from a CUDA device, and this run trains on 'cpu'"),
        ("vllm_colocate", {"enable_sleep_mode": True}, "does not sleep on the CPU"),
        ("torch", {"max_model_length": 9}, "engine is 'torch'"),
    ],
)
def test_what_can_not_run_is_refused_before_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, vllm: dict[str, Any], words: str
) -> None:
    monkeypatch.setattr(with_vllm, "find_spec", lambda _: object())
    config = replace(configured(tmp_path, engine, rollouts={"vllm": vllm}), model="no such model")
    with pytest.raises(InputError, match=words):
        prepare(config, note=lambda _: None)


def test_a_head_that_reads_log_probabilities_gets_the_models_own_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(with_vllm, "find_spec", lambda _: object())
    fresh = {"fresh": True, "logprob_features": True}
    for temperature, more in ((0.7, {}), (1.0, {"top_p": 0.9})):
        config = configured(tmp_path, "vllm_colocate", head=fresh, rollouts={"temperature": temperature}, trl=more)
        with pytest.raises(InputError, match="at temperature 1, without filters"):
            prepare(config, note=lambda _: None)


def test_vllm_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(with_vllm, "find_spec", lambda _: None)
    with pytest.raises(DependencyError, match=r"pip install .*\[vllm\]"):
        prepare(configured(tmp_path, "vllm_colocate"), note=lambda _: None)


@NEEDS_VLLM
def test_a_server_that_is_not_there_ends_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(with_vllm, "check_vllm", lambda *_: None)
    nowhere = {"server_base_url": "http://127.0.0.1:9", "server_timeout": 0.0}
    with pytest.raises(TrainingError, match="can't be reached.*vllm serve MODEL") as refused:
        prepare(configured(tmp_path, "vllm_server", rollouts={"vllm": nowhere}), note=lambda _: None)
    assert "\n" not in str(refused.value)
