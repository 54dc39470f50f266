"""TRL's `GRPOTrainer` around `joint_step`: it iterates, samples, normalises rewards, and updates the weights.

What is overridden, and why (TRL 1.16; `tests/train/joint/test_trl.py` holds the signatures):

| method | reason |
|---|---|
| `compute_loss` | the loss is `joint_step`'s |
| `_tokenize_prompts` | prompts open the reasoning as everywhere in this package |
| `_calculate_rewards` | the outcome of each trajectory, over all ranks, is the head's label |
| `_generate_and_score_completions` | positions and labels of steps enter the batch; old log-probabilities are exact |
| `create_optimizer`, `_clip_grad_norm` | the head has its own group, rate and clipping |
| `log`, `evaluate` | the head's figures; an evaluation leaves the random streams where they were |
| `_send_telemetry`, `create_model_card` | nothing is sent anywhere; a run's folder is no publication |
| `_save_checkpoint`, `_save`, `_run_epoch`, `_get_train_sampler` | checkpoints are whole, resumption is exact |

TRL computes the policy's losses that `joint_step` does not state ([policy] loss "cispo", "sapo", …, and settings of
[trl] that change the loss), from the output of the same forward.

Letters: B trajectories, n steps, T positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reflective.errors import TrainingError
from reflective.judge.judge import Judge
from reflective.judge.loss import RIGHT, UNGRADABLE, WRONG, problem_balanced_weights
from reflective.train.joint.batch import logprob_table, step_table, unpadded
from reflective.train.joint.config import JointConfig
from reflective.train.joint.metrics import Figures
from reflective.train.joint.rollouts import LOGPROBS, SCORE, EngineRollouts
from reflective.train.joint.scored_model import attach_head, base_model, is_head
from reflective.train.joint.step import GRPO_LOSSES, joint_step
from reflective.train.joint.trl.checkpoints import WholeCheckpoints
from reflective.train.joint.trl.vllm import keep_head_out

RIGHT_ABOVE = 0.5  # a reward of the outcome function above this says right
TRAJECTORY_MEANS = ("grpo", "dr_grpo", "sapo", "luspo")  # losses that TRL divides by trajectories, not by tokens
LOSS_SETTINGS = frozenset(  # of [trl], with which TRL computes the policy's loss
    "delta entropy_coef importance_sampling_level off_policy_mask_threshold router_aux_loss_coef top_entropy_quantile "
    "use_adaptive_entropy".split()
)


class JointTrainer(WholeCheckpoints):
    """Trains policy and head together; see the module's docstring.

    `encode` gives a prompt's tokens, with the reasoning opened. The head becomes the model's submodule `sprm`.
    """

    def __init__(
        self, model: Any, judge: Judge, config: JointConfig, encode: Callable[[str], Sequence[int]], **options: Any
    ) -> None:
        if judge.head is None:
            raise TrainingError("joint training needs a judge with a head; make one with init_judge.")
        self.judge, self.config, self._encode = judge, config, encode
        self._tokens, self._seconds = 0.0, 0.0  # since the speed was last logged
        super().__init__(model, **options)
        # last: TRL's own patch of the forward is in place, its `disable_dropout` has passed, and adapters are wrapped
        # around the model without one for the head
        lm = base_model(self.model)
        layer = judge.config.layer_index(lm.config.get_text_config().num_hidden_layers)
        attach_head(lm, judge.head.to(lm.device), layer, config.head.backbone_gradient_scale)
        judge.head.requires_grad_(True)
        self.figures = Figures(judge.aggregation)
        generation = getattr(self, "vllm_generation", None)
        if generation is not None:
            keep_head_out(generation)

    @property
    def micro_batches_done(self) -> int:
        """Forward and backward passes of training so far, those before a resumption included."""
        return int(self._step)

    def _send_telemetry(self) -> None:
        """Nothing."""

    # ---- the batch

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [list(self._encode(prompt)) for prompt in prompts], None, {}

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Tensor:
        functions, outcome = self.config.rewards.functions, self.config.rewards.outcome
        rewards: Tensor = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        self._outcomes = outcomes_of(rewards[:, functions.index(outcome)])  # of all ranks
        # NaN from every function: TRL then leaves an ungradable trajectory out of its group's mean
        return rewards.masked_fill((self._outcomes == UNGRADABLE).unsqueeze(1), torch.nan)  # (B, functions)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        seen = self.state.num_input_tokens_seen
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        mode = "train" if self.model.training else "eval"
        self._add_labels(batch, inputs, self.num_generations if mode == "train" else self.num_generations_eval)
        self._add_steps(batch, inputs)
        self._tokens += self.state.num_input_tokens_seen - seen
        self.figures.number(mode, "spr/gradable", float((batch["outcomes"] != UNGRADABLE).sum()), len(inputs))
        if LOGPROBS in inputs[0]:
            self.figures.rollout(mode, batch["outcomes"].tolist(), [row[SCORE] for row in inputs])
            sampled = batch.pop("sampling_per_token_logps")
            if self.temperature == 1.0:
                # π_old is the policy that sampled: π/π_old is exact even where engine and trainer round differently
                batch["old_per_token_logps"] = sampled
        return self._count_tokens(batch)

    def _add_labels(self, batch: dict[str, Any], inputs: list[dict[str, Any]], group: int) -> None:
        """This rank's outcomes (B,), and weights (B,) by the outcomes of whole groups where they are asked for."""
        count, device = len(inputs), batch["completion_ids"].device
        mine = slice(self.accelerator.process_index * count, (self.accelerator.process_index + 1) * count)
        batch["outcomes"] = self._outcomes[mine]
        if self.config.head.problem_balanced:
            problems = [i // group for i in range(len(self._outcomes))]
            batch["step_weights"] = problem_balanced_weights(problems, self._outcomes)[mine]
        batch["problem"] = torch.tensor([row["problem"] for row in inputs], device=device)
        if "sampling_per_token_logps" in batch:  # NaN where vLLM had none
            tokens, logprobs = batch["completion_mask"], batch["sampling_per_token_logps"].nan_to_num()
            batch["mean_logprob"] = (logprobs * tokens).sum(1) / tokens.sum(1).clamp(min=1)  # (B, T) -> (B,)

    def _add_steps(self, batch: dict[str, Any], inputs: list[dict[str, Any]]) -> None:
        """Positions that the head reads (B, n), its log-probability features (B, n, 2), and which rows ended (B,)."""
        device = batch["completion_ids"].device
        prompts = unpadded(batch["prompt_ids"], batch["prompt_mask"])
        completions = unpadded(batch["completion_ids"], batch["completion_mask"])
        table, places = step_table(self.judge.config, prompts, completions, batch["prompt_ids"].shape[1])
        batch["step_index"] = table.to(device)
        if self.judge.logprob_terms is not None:
            logprobs: Any = [row.get(LOGPROBS) for row in inputs]
            if logprobs[0] is None:  # vLLM: TRL has them as a tensor
                logprobs = batch["sampling_per_token_logps"].tolist()
            batch["step_logprobs"] = logprob_table(logprobs, places).to(device)
        ended = [bool(ids) and ids[-1] in self.eos_token_ids for ids in completions]
        batch["ended"] = torch.tensor(ended, device=device)

    def _count_tokens(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch with the tokens of graded trajectories on all ranks, by which "dapo" divides."""
        graded = (batch["outcomes"] != UNGRADABLE).unsqueeze(1)  # (B, 1)
        batch["num_items_in_batch"] = self.accelerator.gather((batch["completion_mask"] * graded).sum()).sum()
        return batch

    # ---- the loss

    def compute_loss(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> Tensor:
        config, training = self.config, self.model.training
        # dapo's count spans a generation on all ranks; the mean is that of a micro-batch on one
        parts = self.accelerator.num_processes * (self.args.steps_per_generation if training else 1)
        stated = config.policy.loss in GRPO_LOSSES and LOSS_SETTINGS.isdisjoint(config.trl)
        found = joint_step(
            model,
            config,
            {**inputs, "mean_tokens": inputs["num_items_in_batch"] / parts},
            steps_done=self.state.global_step,
            accumulated=self.current_gradient_accumulation_steps if training else 1,
            reduce_counts=lambda counts: self.accelerator.reduce(counts, "sum"),  # on every rank, steps or none
            policy_loss=None if stated and not self.aux_loss_enabled else self._policy_loss,
            **({"output_router_logits": True} if self.aux_loss_enabled else {}),
        )
        self.figures.losses("train" if training else "eval", found)
        if not training:
            self.figures.candidates(inputs, found.step_logits)
        self._refuse_diverged("the loss", float(found.loss.detach()))
        return found.loss

    def _policy_loss(self, out: Any, batch: Mapping[str, Any]) -> Tensor:
        """TRL's loss from the output of the forward that is made, over the trajectories that are graded."""
        graded = batch["outcomes"] != UNGRADABLE  # (B,)
        mask = graded.to(batch["completion_mask"].dtype).unsqueeze(1).expand_as(batch["completion_mask"])  # (B, T)
        loss: Tensor = super()._compute_loss(lambda **_: out, {**batch, "tool_mask": mask})
        if self.loss_type in TRAJECTORY_MEANS:
            loss = loss * len(graded) / graded.sum().clamp(min=1)
        # TRL has divided by the accumulated micro-batches, and `joint_step` will
        return loss * (self.current_gradient_accumulation_steps if self.model.training else 1)

    def _refuse_diverged(self, what: str, value: float) -> None:
        """Stop before NaN or infinity reaches the weights."""
        if not math.isfinite(value):
            raise TrainingError(
                f"{what} is {value} in step {self.state.global_step + 1}: training diverged. The weights are still "
                "those before the step, and so is the last checkpoint. To go on with a lower [policy] lr, [head] lr or "
                "max_grad_norm, name that checkpoint as the model of a new run."
            )

    # ---- the optimizer

    def create_optimizer(self, model: Any = None) -> Any:
        """TRL's, with the head's parameters in a group of their own."""
        fresh = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if fresh:
            mine = self.head_parameters(model)
            ids = {id(p) for p in mine}
            for group in optimizer.param_groups:
                group["params"] = [p for p in group["params"] if id(p) not in ids]
            rate = {"lr": self.config.head.lr, "weight_decay": self.config.head.weight_decay}
            optimizer.add_param_group({"params": mine, **rate})
        return optimizer

    def head_parameters(self, model: Any = None) -> list[nn.Parameter]:
        """The head's parameters in this model (a wrapped model has its own)."""
        return [p for name, p in (self.model if model is None else model).named_parameters() if is_head(name)]

    def _clip_grad_norm(self, model: Any) -> Any:
        if self.is_deepspeed_enabled:  # clips by itself, everything together
            return super()._clip_grad_norm(model)
        head = self.head_parameters(model)
        ids = {id(p) for p in head}
        rest = [p for p in model.parameters() if id(p) not in ids]
        norm = _whole(self.accelerator.clip_grad_norm_(head, self.config.head.max_grad_norm or math.inf))
        policy_norm = _whole(self.accelerator.clip_grad_norm_(rest, self.args.max_grad_norm))
        self._refuse_diverged("the gradient's norm", float(norm + policy_norm))
        self.figures.number("train", "spr/head_grad_norm", float(norm))
        return policy_norm

    # ---- logging

    def evaluate(self, *arguments: Any, **options: Any) -> Any:
        """TRL's, with the random streams restored afterwards: evaluating does not change a run."""
        device = self.accelerator.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            return super().evaluate(*arguments, **options)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's figures, and those of the head."""
        mode = "train" if self.model.training else "eval"
        for name, value in self.figures.take(mode, self.accelerator).items():
            self._metrics[mode][name].append(value)
        if isinstance(self.rollout_func, EngineRollouts) and (written := self.rollout_func.take_speed()):
            self._metrics[mode]["rollout/tokens_per_s"].append(written)
        if mode == "train":  # an evaluation between two lines leaves these for the next one
            self._seconds += sum(self._metrics[mode].get("step_time", ()))
            if self._tokens and self._seconds:
                self._metrics[mode]["tokens_per_s"].append(self._tokens / self._seconds)
                self._tokens, self._seconds = 0.0, 0.0
        super().log(logs, start_time)


def outcomes_of(rewards: Tensor) -> Tensor:
    """Rewards (B,) as labels of the head: 1 right, 0 wrong, −1 where the reward is NaN."""
    labels = torch.where(rewards > RIGHT_ABOVE, RIGHT, WRONG)
    return torch.where(rewards.isnan(), UNGRADABLE, labels)


def _whole(norm: Any) -> Tensor:
    """A norm of parameters that may be sharded, on every rank."""
    whole: Tensor = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    return whole
