"""TRL's `GRPOConfig` from the settings of a joint run."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import torch
from trl import GRPOConfig

from reflective.errors import InputError
from reflective.settings import check_names
from reflective.train.joint.config import JointConfig

VLLM_MODES = {"vllm_server": "server", "vllm_colocate": "colocate"}
# TRL's sampling settings, which this package's engine does not read
UNREAD = {
    "torch": ("top_p", "top_k", "min_p", "repetition_penalty", "generation_kwargs", "cache_implementation", "use_vllm")
}


def grpo_arguments(config: JointConfig, processes: int, device: torch.device, held_out: int) -> GRPOConfig:
    """TRL's settings for `processes` processes on `device`, with `held_out` problems to evaluate on.

    Raises `InputError` where a batch can't be cut as asked for or a [trl] setting is unknown.
    """
    per_generation, per_step = config.batches(processes)
    policy, rollouts, log = config.policy, config.rollouts, config.log
    bf16 = use_bfloat16(config, device)
    evaluates = bool(log.evaluate_every and held_out)
    values: dict[str, Any] = {
        "output_dir": config.output,
        "seed": config.seed,
        "max_steps": config.steps,
        "use_cpu": device.type == "cpu",
        "bf16": bf16,
        "gradient_checkpointing": config.gradient_checkpointing,
        "per_device_train_batch_size": config.micro_batch,
        "gradient_accumulation_steps": per_step,
        "steps_per_generation": per_generation,
        "num_iterations": policy.iterations,
        "num_generations": rollouts.group,
        "max_completion_length": rollouts.max_tokens,
        "temperature": rollouts.temperature,
        "learning_rate": policy.lr,
        "weight_decay": policy.weight_decay,
        "lr_scheduler_type": policy.schedule,
        "warmup_steps": policy.warmup_steps,
        "max_grad_norm": policy.max_grad_norm or math.inf,  # with 0, TRL would neither clip nor report a norm
        "loss_type": policy.loss,
        "beta": policy.kl,
        "use_bias_correction_kl": policy.kl_corrected,
        "epsilon": policy.clip,
        "epsilon_high": policy.clip_high,
        "reward_weights": list(config.rewards.weights) or None,
        "logging_steps": log.every,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,
        "report_to": list(log.report_to) or "none",
        "save_strategy": "steps",
        "save_steps": log.save_every,
        "save_total_limit": log.keep,
        "do_eval": evaluates,
        "eval_strategy": "steps" if evaluates else "no",
        "eval_steps": log.evaluate_every or None,
        "eval_on_start": evaluates,
        "num_generations_eval": log.evaluate_group,
        "per_device_eval_batch_size": _evaluated_at_once(config, processes, held_out) if evaluates else 1,
        "disable_tqdm": True,
        "log_level": "error",  # or the tracker warns of every figure that a batch lacks
        "log_level_replica": "error",
        "ddp_find_unused_parameters": False,  # the head is fed in every forward that has a backward
        "dataloader_pin_memory": device.type != "cpu",
    }
    if rollouts.engine in VLLM_MODES:
        values |= {"use_vllm": True, "vllm_mode": VLLM_MODES[rollouts.engine]}
        values |= {f"vllm_{name}": value for name, value in rollouts.vllm.items()}
    ours = sorted(set(config.trl) & (set(values) | set(UNREAD.get(rollouts.engine, ()))))
    if ours:
        raise InputError(
            f"[trl] {ours[0]} has no effect there: "
            + ("another table sets it." if ours[0] in values else f'rollouts by "{rollouts.engine}" don\'t read it.')
        )
    check_names([*values, *config.trl], [f.name for f in fields(GRPOConfig)], "setting of TRL")
    try:
        return GRPOConfig(**{**values, **config.trl})
    except (ValueError, TypeError) as error:
        raise InputError(f"TRL refuses the settings: {error}") from error


def use_bfloat16(config: JointConfig, device: torch.device) -> bool:
    """Whether to compute in bfloat16: as set, or wherever the GPU supports it."""
    if config.precision != "auto":
        return config.precision == "bfloat16"
    return device.type == "cuda" and torch.cuda.is_bf16_supported()


def _evaluated_at_once(config: JointConfig, processes: int, held_out: int) -> int:
    """Held-out trajectories in a batch of each process: whole groups that divide the total, since the trainer would
    fill up a last smaller batch with duplicates."""
    group = config.log.evaluate_group
    total = held_out * group
    most = max(config.micro_batch, group)
    fitting = [n for n in range(1, most + 1) if total % (n * processes) == 0 and n * processes % group == 0]
    if not fitting:
        raise InputError(
            f"{held_out} held-out problems × {group} trajectories can't be shared by {processes} processes. "
            "Choose [data] held_out or [log] evaluate_group so that they can."
        )
    return fitting[-1]
