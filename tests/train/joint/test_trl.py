"""What is overridden of TRL is as it was when the overrides were written. Where this fails, read TRL's changes."""

import inspect

import pytest

trl = pytest.importorskip("trl")

from transformers import Trainer  # noqa: E402

from reflective.train.joint.trl.checkpoints import WholeCheckpoints  # noqa: E402
from reflective.train.joint.trl.trainer import JointTrainer  # noqa: E402

GRPO = {
    "_tokenize_prompts": "(self, prompts: list)",
    "_calculate_rewards": "(self, inputs, prompts, completions, completion_ids_list)",
    "_generate_and_score_completions": (
        "(self, inputs: list[dict[str, torch.Tensor | typing.Any]]) -> dict[str, torch.Tensor | typing.Any]"
    ),
    "compute_loss": "(self, model, inputs, return_outputs=False, num_items_in_batch=None)",
    "log": "(self, logs: dict[str, float], start_time: float | None = None) -> None",
    "_save_checkpoint": "(self, model, trial)",
    "_send_telemetry": "(self)",
}
TRAINER = {
    "evaluate": (
        "(self, eval_dataset: torch.utils.data.dataset.Dataset | dict[str, torch.utils.data.dataset.Dataset] | None = "
        "None, ignore_keys: list[str] | None = None, metric_key_prefix: str = 'eval') -> dict[str, float]"
    ),
    "create_optimizer": "(self, model=None) -> torch.optim.optimizer.Optimizer",
    "_clip_grad_norm": "(self, model)",
    "_run_epoch": (
        "(self, model, epoch, train_dataloader, steps_in_epoch, num_update_steps_per_epoch, trial, "
        "ignore_keys_for_eval, start_time, resume_from_checkpoint, epochs_trained, steps_trained_in_current_epoch)"
    ),
    "_save": "(self, output_dir: str | None = None, state_dict: dict | None = None) -> None",
}
OURS = {"__init__", "create_model_card", "_get_train_sampler"}


def signature(owner, name):
    return str(inspect.signature(getattr(owner, name))).replace("typing.Any", "Any")


def test_the_version_is_the_pinned_one():
    assert trl.__version__.startswith("1.16.")


@pytest.mark.parametrize(
    ("owner", "name", "expected"),
    [(trl.GRPOTrainer, n, s) for n, s in GRPO.items()] + [(Trainer, n, s) for n, s in TRAINER.items()],
)
def test_overridden_methods_have_their_signature(owner, name, expected):
    assert signature(owner, name) == expected.replace("typing.Any", "Any")


def test_every_override_is_watched():
    inherited = set(dir(trl.GRPOTrainer))
    ours = {**vars(WholeCheckpoints), **vars(JointTrainer)}
    overridden = {name for name, value in ours.items() if callable(value) and name in inherited}
    assert {n for n in overridden if not n.startswith("__")} - OURS == set(GRPO) | set(TRAINER)


def test_the_order_of_the_data_comes_from_a_generator():
    assert list(inspect.signature(trl.GRPOTrainer._get_train_sampler).parameters) == ["self", "dataset"]
    from trl.trainer.utils import RepeatSampler

    first, second = (RepeatSampler(range(20), 1, seed=3) for _ in range(2))
    list(first)
    first.generator.manual_seed(3)
    assert list(first) == list(second)


def test_trl_calls_the_model_once_with_what_the_forward_takes():
    source = inspect.getsource(trl.GRPOTrainer._get_per_token_logps_and_entropies)
    assert source.count("model(**model_inputs") == 1 and "fused_lm_head=True" in source
    assert inspect.getsource(trl.GRPOTrainer._compute_loss).count("self._get_per_token_logps_and_entropies(") == 1


def test_names_that_are_read_or_set_are_there():
    """Attributes of TRL's that the overrides use without overriding them."""
    source = inspect.getsource(trl.GRPOTrainer)
    for name in (
        "self._step",
        "self._buffered_inputs",
        "self._metrics[mode]",
        "self.rollout_func(prompts, self)",
        '"tool_mask"',
        '"num_items_in_batch"',
        '"old_per_token_logps"',
        '"sampling_per_token_logps"',
        "self.vllm_generation",
        "self.current_gradient_accumulation_steps",
        "self.aux_loss_enabled",
    ):
        assert name in source, name
    assert "self.args.output_dir" in inspect.getsource(Trainer._get_output_dir)  # set while a checkpoint is written
    from trl.generation.vllm_generation import VLLMGeneration

    assert "self._iter_named_params()" in inspect.getsource(VLLMGeneration.sync_weights)
    source = inspect.getsource(VLLMGeneration)
    for name in ("self.llm = LLM(\n", "seed=accelerator.process_index", "self.vllm_client = VLLMClient(", "self.mode"):
        assert name in source, name
