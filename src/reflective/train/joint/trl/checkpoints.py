"""How the trainer saves and resumes: whole checkpoints, and a run that goes on as if it had never stopped.

Tensors are read back without unpickling anything else. `joint/checkpoints.py` says what lies on the disk.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import Sampler
from trl import GRPOTrainer

from reflective.errors import CheckpointError
from reflective.files import disk_errors, publish
from reflective.judge.config import HEAD_FILE, SPRM_FOLDER
from reflective.judge.judge import Judge
from reflective.judge.sidecar import write_judge
from reflective.models.library_logging import quiet
from reflective.train.joint.checkpoints import PREFIX, REMOVING, WRITING, step_of, whole_checkpoints
from reflective.train.joint.scored_model import HEAD, base_model, split_head, whole_head

PENDING = "rollouts-{rank}.safetensors"  # of a generation that is not used up


class WholeCheckpoints(GRPOTrainer):  # type: ignore[misc]  # TRL has no type hints
    """How `JointTrainer` saves and resumes."""

    judge: Any

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """None: a run's folder is no publication."""

    # ---- saving

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        run = Path(self.args.output_dir)
        name, temporary = f"{PREFIX}{self.state.global_step}", run / WRITING
        leads = self.accelerator.is_main_process
        if (run / name).exists():  # saved already, as when a run is stopped at a step that saves
            return
        if leads:
            shutil.rmtree(temporary, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        with disk_errors(run / name):
            self.args.output_dir = str(temporary)  # where the trainer writes
            try:
                super()._save_checkpoint(model, trial)
                self._save_pending(temporary / name)
                self.accelerator.wait_for_everyone()
                if leads:
                    publish(temporary / name, run / name)
            finally:
                self.args.output_dir = str(run)
                if leads:
                    shutil.rmtree(temporary, ignore_errors=True)
        if leads:
            for old in whole_checkpoints(run)[: -(self.args.save_total_limit or 1)]:
                shutil.rmtree(old.rename(run / REMOVING))  # half of one must not look like one
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Backbone, tokenizer and head; no training arguments, which would be a pickle."""
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        head, rest = split_head(self.model.state_dict() if state_dict is None else state_dict)
        with quiet():
            model.save_pretrained(folder, state_dict=rest)
            self.processing_class.save_pretrained(folder)
        if self.args.should_save and head:
            (folder / SPRM_FOLDER).mkdir(exist_ok=True)
            config = self.judge.config
            write_judge(folder / SPRM_FOLDER, Judge(config, whole_head(config, head)))

    def _save_pending(self, folder: Path) -> None:
        """The rest of a generation, where a checkpoint falls between two."""
        every = self.args.steps_per_generation * self.num_iterations
        if self._buffered_inputs is None or self._step % every == 0:
            return
        tensors = {
            f"{i}/{key}": value.contiguous().clone()
            for i, batch in enumerate(self._buffered_inputs)
            for key, value in batch.items()
            if isinstance(value, torch.Tensor)
        }
        save_file(tensors, folder / PENDING.format(rank=self.accelerator.process_index))

    # ---- resuming

    def restore(self, checkpoint: Path) -> None:
        """What `train(resume_from_checkpoint=...)` leaves: the head's weights, and the place in a generation."""
        if not self.is_fsdp_enabled and not self.is_deepspeed_enabled:  # there the head is part of the sharded state
            head = base_model(self.model).get_submodule(HEAD)
            head.load_state_dict(load_file(checkpoint / SPRM_FOLDER / HEAD_FILE))
        self._step = step_of(checkpoint) * self.args.gradient_accumulation_steps
        parts = len(list(checkpoint.glob(PENDING.format(rank="*"))))
        if parts and parts != self.accelerator.num_processes:
            raise CheckpointError(
                f"'{checkpoint}' lies within a generation that {parts} process(es) share, and there are "
                f"{self.accelerator.num_processes} now. Go on with {parts}."
            )
        pending = checkpoint / PENDING.format(rank=self.accelerator.process_index)
        if pending.is_file():
            batches: dict[int, dict[str, Any]] = {}
            for name, tensor in load_file(pending).items():
                index, key = name.split("/", 1)
                batches.setdefault(int(index), {})[key] = tensor.to(self.accelerator.device)
            if len(batches) != self.args.steps_per_generation:
                raise CheckpointError(
                    f"'{checkpoint}' lies within a generation that was cut into {len(batches)} micro-batches, and now "
                    f"there would be {self.args.steps_per_generation}. Go on with the micro_batch of before."
                )
            self._buffered_inputs = [batches[i] for i in sorted(batches)]

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        """TRL's, whose order in an epoch does not depend on the epochs that this process has been through."""
        sampler = super()._get_train_sampler(dataset)
        if not self.shuffle_dataset:
            return sampler
        return EpochOrder(sampler, self.args.seed, lambda: int(self.state.epoch or 0))

    def _run_epoch(self, **options: Any) -> None:
        """Nothing for a run that has come to its end, or was stopped while it looked at held-out problems: the trainer
        looks at neither before a step."""
        if self.state.global_step >= self.state.max_steps or self.control.should_training_stop:
            self.control.should_training_stop = True
            return
        super()._run_epoch(**options)


class EpochOrder(Sampler[int]):
    """A shuffling sampler whose random stream begins anew in each epoch."""

    def __init__(self, sampler: Any, seed: int, epoch: Callable[[], int]) -> None:
        self._sampler, self._seed, self._epoch = sampler, seed, epoch

    def __iter__(self) -> Iterator[int]:
        self._sampler.generator.manual_seed(self._seed + self._epoch())
        yield from self._sampler

    def __len__(self) -> int:
        return len(self._sampler)
