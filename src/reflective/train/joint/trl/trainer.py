"""TRL's `GRPOTrainer` with a head beside the policy: one forward a micro-batch, two losses, two optimizer groups.

    L = L_GRPO + coefficient · L_SPR / accumulation steps

What is overridden, and why (TRL 1.16; `tests/train/joint/test_trl.py` holds the signatures):

- `_tokenize_prompts`: prompts open the thinking as everywhere in this package.
- `_calculate_rewards`: the outcome of each trajectory, over all ranks, is the head's label.
- `_generate_and_score_completions`: positions, labels and weights of the steps enter the batch; ungradable trajectories
  leave the policy's loss; where the engine's log-probabilities are those that were sampled from, they are the old ones.
- `_compute_loss`: the forward that TRL makes also gives step logits, and the SPR loss is added.
- `create_optimizer`, `_clip_grad_norm`: the head has its own group, rate and clipping.
- `log`: what is watched (`watch.py`). `evaluate` leaves the random streams where they were.
- `_send_telemetry`: nothing is sent anywhere.
- saving and resuming: `checkpoints.py`.

Departures from the reference are those of `judge.loss`, and: the group of a problem may lie on several ranks.

Letters: B trajectories, n steps, T positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reflective.errors import TrainingError
from reflective.judge.heads import StepHead
from reflective.judge.judge import Judge
from reflective.judge.loss import RIGHT, UNGRADABLE, WRONG, SPRLoss, problem_balanced_weights, spr_loss
from reflective.train.joint.batch import NO_STEP, logprob_table, step_table, trimmed, unpadded
from reflective.train.joint.config import HeadLossConfig
from reflective.train.joint.metrics import Watch
from reflective.train.joint.rollouts import LOGPROBS, SCORE, EngineRollouts
from reflective.train.joint.scored_model import attach_head, base_model, is_head
from reflective.train.joint.trl.checkpoints import WholeCheckpoints
from reflective.train.joint.trl.vllm import keep_head_out

RIGHT_ABOVE = 0.5  # a reward of the outcome function above this says right
TRAJECTORY_MEANS = ("grpo", "dr_grpo", "sapo", "luspo")  # losses that TRL divides by trajectories, not by tokens


@dataclass(frozen=True)
class HeadPart:
    """What the trainer needs to know of the head. `outcome` is the index of the reward that says right or wrong."""

    judge: Judge
    loss: HeadLossConfig
    outcome: int = 0

    @property
    def head(self) -> StepHead:
        """The judge's head, which is trained."""
        if self.judge.head is None:
            raise TrainingError("joint training needs a judge with a head; make one with init_judge.")
        return self.judge.head


class JointTrainer(WholeCheckpoints):
    """Trains policy and head together; see the module's docstring.

    `encode` gives the tokens of a prompt, with the thinking opened. The head becomes the submodule `sprm` of the model.
    """

    def __init__(self, model: Any, part: HeadPart, encode: Callable[[str], Sequence[int]], **options: Any) -> None:
        self.part, self._encode = part, encode
        self._tokens, self._seconds = 0.0, 0.0  # read and written, and spent, since the speed was told
        super().__init__(model, **options)
        # last: TRL's own patch of the forward is in place, its `disable_dropout` has passed, and adapters are wrapped
        # around the model without one for the head
        lm = base_model(self.model)
        layer = part.judge.config.layer_index(lm.config.get_text_config().num_hidden_layers)
        head = part.head
        attach_head(lm, head.to(lm.device), layer, part.loss.backbone_gradient_scale)
        head.requires_grad_(True)
        self.watch = Watch(part.judge.aggregation)
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
        rewards: Tensor = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        self._outcomes = outcomes_of(rewards[:, self.part.outcome])  # of all ranks
        # TRL leaves out of a group's mean what no function has rewarded: an ungradable trajectory is that, whatever
        # other functions say of it
        return rewards.masked_fill((self._outcomes == UNGRADABLE).unsqueeze(1), torch.nan)  # (B, functions)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        seen = self.state.num_input_tokens_seen
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        mode = "train" if self.model.training else "eval"
        self._add_labels(batch, inputs, self.num_generations if mode == "train" else self.num_generations_eval)
        self._add_steps(batch, inputs)
        self._tokens += self.state.num_input_tokens_seen - seen
        self.watch.number(mode, "gradable", float((batch["outcomes"] != UNGRADABLE).sum()), len(inputs))
        if LOGPROBS in inputs[0]:
            self.watch.rollout(mode, batch["outcomes"].tolist(), [row[SCORE] for row in inputs])
            sampled = batch.pop("sampling_per_token_logps")
            if self.temperature == 1.0:
                # π_old is who sampled: the ratio π/π_old is exact, also where engine and trainer round differently
                batch["old_per_token_logps"] = sampled
        return self._without_ungradable(batch)

    def _add_labels(self, batch: dict[str, Any], inputs: list[dict[str, Any]], group: int) -> None:
        """This rank's outcomes (B,) and, where they are asked for, weights (B,) that the whole groups decide."""
        count, device = len(inputs), batch["completion_ids"].device
        mine = slice(self.accelerator.process_index * count, (self.accelerator.process_index + 1) * count)
        batch["outcomes"] = self._outcomes[mine]
        if self.part.loss.problem_balanced:
            problems = [i // group for i in range(len(self._outcomes))]
            batch["step_weights"] = problem_balanced_weights(problems, self._outcomes)[mine]
        batch["problem"] = torch.tensor([row["problem"] for row in inputs], device=device)
        if "sampling_per_token_logps" in batch:  # NaN where vLLM had none
            tokens, logprobs = batch["completion_mask"], batch["sampling_per_token_logps"].nan_to_num()
            batch["mean_logprob"] = (logprobs * tokens).sum(1) / tokens.sum(1).clamp(min=1)  # (B, T) -> (B,)

    def _add_steps(self, batch: dict[str, Any], inputs: list[dict[str, Any]]) -> None:
        """Where the head reads (B, n), what it is told of log-probabilities (B, n, 2), and which rows ended (B,)."""
        device = batch["completion_ids"].device
        prompts = unpadded(batch["prompt_ids"], batch["prompt_mask"])
        completions = unpadded(batch["completion_ids"], batch["completion_mask"])
        table, places = step_table(self.part.judge.config, prompts, completions, batch["prompt_ids"].shape[1])
        batch["step_index"] = table.to(device)
        if self.part.judge.logprob_terms is not None:
            logprobs: Any = [row.get(LOGPROBS) for row in inputs]
            if logprobs[0] is None:  # vLLM: TRL has them as a tensor
                logprobs = batch["sampling_per_token_logps"].tolist()
            batch["step_logprobs"] = logprob_table(logprobs, places).to(device)
        ended = [bool(ids) and ids[-1] in self.eos_token_ids for ids in completions]
        batch["ended"] = torch.tensor(ended, device=device)

    def _without_ungradable(self, batch: dict[str, Any]) -> dict[str, Any]:
        """No token of an ungradable trajectory counts in the policy's loss; the tokens that do are counted anew."""
        graded = (batch["outcomes"] != UNGRADABLE).to(batch["completion_mask"].dtype).unsqueeze(1)  # (B, 1)
        mask = batch.get("tool_mask", torch.ones_like(batch["completion_mask"])) * graded  # (B, T)
        batch["tool_mask"] = mask
        tokens = (batch["completion_mask"] * mask).sum()
        batch["num_items_in_batch"] = self.accelerator.gather(tokens).sum()
        return batch

    # ---- the loss

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        caught: list[Tensor] = []
        inputs = trimmed(inputs)

        def forward(**kwargs: Any) -> Any:
            """What TRL calls as the model: the same forward, which also scores the steps."""
            if caught:
                raise RuntimeError("TRL made two forwards for one micro-batch; one is expected.")
            out = model(**kwargs, step_index=inputs["step_index"], step_logprobs=inputs.get("step_logprobs"))
            caught.append(out["step_logits"])
            return out

        policy: Tensor = super()._compute_loss(forward, inputs) * self._graded_share(inputs)
        mode = "train" if self.model.training else "eval"
        accumulated = self.current_gradient_accumulation_steps if mode == "train" else 1
        spr = self._spr_loss(caught[0], inputs)
        self.watch.losses(mode, policy.detach() * accumulated, spr)
        if mode == "eval":
            self.watch.candidates(inputs, caught[0])
        # L = L_GRPO + coefficient · L_SPR; TRL has divided its part by the accumulation steps
        loss: Tensor = policy + self.part.loss.coefficient * spr.loss / accumulated
        self._refuse_diverged("the loss", float(loss.detach()))
        return loss

    def _graded_share(self, inputs: dict[str, Any]) -> float:
        """What makes TRL's mean over a micro-batch's trajectories one over those that are graded."""
        if self.loss_type not in TRAJECTORY_MEANS:
            return 1.0
        count = len(inputs["outcomes"])
        return count / max(int((inputs["outcomes"] != UNGRADABLE).sum()), 1)

    def _refuse_diverged(self, what: str, value: float) -> None:
        """Stop before a number that is none reaches the weights."""
        if not math.isfinite(value):
            raise TrainingError(
                f"{what} is {value} in step {self.state.global_step + 1}: training diverged. The weights are still "
                "those before the step, and so is the last checkpoint. To go on with a lower [policy] lr, [head] lr or "
                "max_grad_norm, name that checkpoint as the model of a new run."
            )

    def _spr_loss(self, step_logits: Tensor, inputs: dict[str, Any]) -> SPRLoss:
        settings = self.part.loss
        plain = settings.filter == "none" or self.state.global_step < settings.plain_steps
        return spr_loss(
            step_logits,
            inputs["outcomes"],
            inputs["step_index"] != NO_STEP,
            filter="none" if plain else "self_supervised",
            # v balances right and wrong already
            class_balance=settings.class_balance and not settings.problem_balanced,
            weights=inputs.get("step_weights"),
            reduce_counts=lambda counts: self.accelerator.reduce(counts, "sum"),  # on every rank, steps or none
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
            rate = {"lr": self.part.loss.lr, "weight_decay": self.part.loss.weight_decay}
            optimizer.add_param_group({"params": mine, **rate})
        return optimizer

    def head_parameters(self, model: Any = None) -> list[nn.Parameter]:
        """The head's, as they are now (a wrapped model has others)."""
        return [p for name, p in (self.model if model is None else model).named_parameters() if is_head(name)]

    def _clip_grad_norm(self, model: Any) -> Any:
        if self.is_deepspeed_enabled:  # clips by itself, everything together
            return super()._clip_grad_norm(model)
        head = self.head_parameters(model)
        ids = {id(p) for p in head}
        rest = [p for p in model.parameters() if id(p) not in ids]
        norm = _whole(self.accelerator.clip_grad_norm_(head, self.part.loss.max_grad_norm or math.inf))
        policy_norm = _whole(self.accelerator.clip_grad_norm_(rest, self.args.max_grad_norm))
        self._refuse_diverged("the gradient's norm", float(norm + policy_norm))
        self.watch.number("train", "head_grad_norm", float(norm))
        return policy_norm

    # ---- what is told

    def evaluate(self, *arguments: Any, **options: Any) -> Any:
        """TRL's, after which the random streams are where they were: a run does not depend on who looked at it."""
        device = self.accelerator.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            return super().evaluate(*arguments, **options)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's figures, and those of the head."""
        mode = "train" if self.model.training else "eval"
        for name, value in self.watch.take(mode, self.accelerator).items():
            self._metrics[mode][name].append(value)
        if isinstance(self.rollout_func, EngineRollouts) and (written := self.rollout_func.take_speed()):
            self._metrics[mode]["rollout/tokens_per_s"].append(written)
        if mode == "train":  # what a look between two lines finds here is still to come in the next one
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
    """A norm of parameters that may be in pieces, on every rank."""
    whole: Tensor = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    return whole
