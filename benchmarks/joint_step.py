"""What judging costs in training, and what rollouts by our engine are worth: joint training on nano.

    step: a joint step / the same GRPO step of TRL without the SPR loss, same batch, same weights
    rollouts: generation by TRL's default / by the embedded engine, same prompts, same weights

`--rows` are problems, 8 trajectories each. Lengths are nano's own: both sides write until it ends a text.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from common import Check, Result, Setting, alternate, parse, progress, ratio, report, summary, timed
from trl import GRPOTrainer

from reflective.settings import make_settings
from reflective.train.joint.batch import trimmed
from reflective.train.joint.config import JointConfig
from reflective.train.joint.run import prepare

STEP_AT_MOST = 1.03
ROLLOUTS_AT_LEAST = 4.0
GROUP = 8
MICRO_BATCH = 32
MAX_TOKENS = 320
ROLLOUT_REPEATS = 3  # that ratio is large, and TRL's side takes minutes


def main() -> None:
    setting = parse(__doc__, repeats=9)
    if setting.threads:
        torch.set_num_threads(setting.threads)
    with tempfile.TemporaryDirectory() as folder:
        group = 2 if setting.quick else GROUP
        trainer = prepare(config(setting, folder, group), note=progress).trainer
        trainer.model.train()
        rows = [dict(trainer.train_dataset[i]) for i in range(setting.rows) for _ in range(group)]
        prompts = [row["prompt"] for row in rows]
        written: dict[str, list[int]] = {"reflective": [], "trl": []}
        rollouts = alternate(
            {
                "trl": lambda: generation(written["trl"], lambda: by_trl(trainer, prompts, group)),
                "reflective": lambda: generation(written["reflective"], lambda: by_us(trainer, prompts)),
            },
            min(setting.repeats, ROLLOUT_REPEATS),
        )
        batch = trainer._generate_and_score_completions(rows)
        trainer.create_optimizer()
        steps = alternate(
            {
                "joint": lambda: {"seconds": timed(lambda: step(trainer, batch, trainer.compute_loss))},
                "grpo": lambda: {"seconds": timed(lambda: step(trainer, batch, grpo_alone(trainer)))},
            },
            setting.repeats,
        )
    cost, gain = ratio(steps["joint"], steps["grpo"]), ratio(rollouts["trl"], rollouts["reflective"])
    tokens = int(batch["completion_mask"].sum())
    mean = {name: round(sum(counts) / len(counts)) for name, counts in written.items()}
    figures = {
        "sides": {
            **{name: summary(results, tokens) for name, results in steps.items()},
            **{f"rollouts, {name}": summary(results, mean[name]) for name, results in rollouts.items()},
        },
        "ratio_of": "seconds, joint step / GRPO step",
        **cost,
        "rollouts": gain,
        "trajectories": len(rows),
        "steps_scored": int((batch["step_index"] >= 0).sum()),
    }
    setting = replace(setting, rows=len(rows), tokens=MAX_TOKENS)
    report(
        "joint_step",
        setting,
        figures,
        [
            Check("joint step / GRPO step", cost["ratio"], "<=", STEP_AT_MOST),
            Check("TRL's generation / ours", gain["ratio"], ">=", ROLLOUTS_AT_LEAST),
        ],
    )


def config(setting: Setting, folder: str, group: int) -> JointConfig:
    """Joint training of the shipped model as `recipes/nano/joint.toml` does it."""
    return make_settings(
        JointConfig,
        {
            "model": "nano",
            "output": folder,
            "steps": 1,
            "micro_batch": min(MICRO_BATCH, setting.rows * group),
            "device": "cpu",
            "data": {"source": "mixture", "levels": [1, 2], "problems": 2 * setting.rows, "held_out": 0},
            "rollouts": {"problems": setting.rows, "group": group, "max_tokens": 8 if setting.quick else MAX_TOKENS},
            "policy": {"lr": 1e-12, "kl": 0.0},
            "head": {"lr": 1e-12},
            "log": {"report_to": []},
        },
    )


def generation(written: list[int], write: Callable[[], list[list[int]]]) -> Result:
    """Times a generation and notes how many tokens it wrote."""
    found: list[list[int]] = []
    seconds = timed(lambda: found.extend(write()))
    written.append(sum(map(len, found)))
    return {"seconds": seconds}


def by_us(trainer: Any, prompts: list[str]) -> list[list[int]]:
    """The embedded engine, scores included."""
    completions: list[list[int]] = trainer.rollout_func(prompts, trainer)["completion_ids"]
    return completions


def by_trl(trainer: Any, prompts: list[str], group: int) -> list[list[int]]:
    """What TRL does where nothing else is asked for: Hugging Face generation."""
    ids, images, fields = trainer._tokenize_prompts(prompts)
    completions: list[list[int]] = trainer._generate_single_turn(ids, images, fields, group)[0]
    return completions


def grpo_alone(trainer: Any) -> Callable[[Any, dict[str, Any]], torch.Tensor]:
    """TRL's own loss on the same batch; padding is cut off here, too, or the comparison would flatter us."""
    return lambda model, inputs: GRPOTrainer._compute_loss(trainer, model, trimmed(inputs))


def step(trainer: Any, batch: dict[str, Any], loss: Callable[[Any, dict[str, Any]], torch.Tensor]) -> None:
    """One optimizer step over the whole batch, in micro-batches."""
    size = trainer.args.per_device_train_batch_size
    count = len(batch["outcomes"]) // size
    trainer.current_gradient_accumulation_steps = count
    for i in range(count):
        micro = {k: v[i * size : (i + 1) * size] if v.dim() else v for k, v in batch.items()}
        loss(trainer.model, micro).backward()
    torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
    trainer.optimizer.step()
    trainer.model.zero_grad()


if __name__ == "__main__":
    main()
