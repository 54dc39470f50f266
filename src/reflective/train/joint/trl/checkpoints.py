"""Checkpoints of a joint run: whole or not there, and with all that a run needs to go on as if it had never stopped.

A checkpoint appears under its name when all of it is on the disk. It is the folder that the rest of the
package loads (backbone and `sprm/`), with the trainer's state beside it: optimizer, scheduler, random states, and the
trajectories that are still to be learnt from. Tensors are read back without unpickling anything else.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Sampler
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import GRPOTrainer

from reflective.errors import CheckpointError, InputError
from reflective.files import disk_errors, publish, write_text
from reflective.judge.config import HEAD_FILE, SPRM_FOLDER, JudgeConfig
from reflective.judge.heads import StepHead, new_head
from reflective.judge.judge import Judge
from reflective.judge.sidecar import write_judge
from reflective.models.source import quiet
from reflective.train.joint.scored_model import HEAD, base_model, is_head

WRITING = ".writing"  # holds a checkpoint until it is whole
REMOVING = ".removing"  # an old one, on its way out
PENDING = "rollouts-{rank}.safetensors"  # of a generation that is not used up


class WholeCheckpoints(GRPOTrainer):  # type: ignore[misc]  # TRL has no type hints
    """How `JointTrainer` saves and resumes."""

    part: Any

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """None: a run's folder is no publication."""

    # ---- saving

    def _get_output_dir(self, trial: Any) -> str:
        """Where a checkpoint is being written, or the run's folder."""
        return str(getattr(self, "_writing_to", None) or super()._get_output_dir(trial))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        run = Path(self.args.output_dir)
        name, temporary = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}", run / WRITING
        leads = self.accelerator.is_main_process
        if (run / name).exists():  # saved already, as when a run is stopped at a step that saves
            return
        if leads:
            shutil.rmtree(temporary, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        with disk_errors(run / name):
            self._writing_to: Path | None = temporary
            try:
                super()._save_checkpoint(model, trial)
                self._save_pending(temporary / name)
                self.accelerator.wait_for_everyone()
                if leads:
                    publish(temporary / name, run / name)
            finally:
                self._writing_to = None
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
        state = state_dict if state_dict is not None else self.model.state_dict()
        head = {key.split(f"{HEAD}.", 1)[1]: t for key, t in state.items() if is_head(key)}
        rest = {key: t for key, t in state.items() if not is_head(key)}
        with quiet():
            model.save_pretrained(folder, state_dict=rest)
            self.processing_class.save_pretrained(folder)
        if self.args.should_save and head:
            (folder / SPRM_FOLDER).mkdir(exist_ok=True)
            config = self.part.judge.config
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

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        """TRL's, whose order in an epoch does not depend on the epochs that this process has been through."""
        sampler = super()._get_train_sampler(dataset)
        if not self.shuffle_dataset:
            return sampler
        return EpochOrder(sampler, self.args.seed, lambda: int(self.state.epoch or 0))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if not self.is_fsdp_enabled:  # there the head is part of the sharded state
            head = base_model(self.model if model is None else model).get_submodule(HEAD)
            head.load_state_dict(load_file(os.path.join(resume_from_checkpoint, SPRM_FOLDER, HEAD_FILE)))

    def _run_epoch(self, **options: Any) -> None:
        """Nothing for a run that has come to its end, or was stopped while it looked at held-out problems: the trainer
        looks at neither before a step."""
        if self.state.global_step >= self.state.max_steps or self.control.should_training_stop:
            self.control.should_training_stop = True
            return
        super()._run_epoch(**options)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        self._step = self.state.global_step * self.args.gradient_accumulation_steps
        pending = Path(checkpoint) / PENDING.format(rank=self.accelerator.process_index)
        parts = len(list(Path(checkpoint).glob(PENDING.format(rank="*"))))
        if parts and parts != self.accelerator.num_processes:
            raise CheckpointError(
                f"'{checkpoint}' lies within a generation that {parts} process(es) share, and there are "
                f"{self.accelerator.num_processes} now. Go on with {parts}."
            )
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

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """The head lies in its own file, and tied weights are there once."""
        tied = set(getattr(base_model(self.model), "_tied_weights_keys", None) or ())
        load_result.missing_keys[:] = [k for k in load_result.missing_keys if not is_head(k) and k not in tied]
        super()._issue_warnings_after_load(load_result)


class EpochOrder(Sampler[int]):
    """A shuffling sampler whose random stream begins anew in each epoch."""

    def __init__(self, sampler: Any, seed: int, epoch: Callable[[], int]) -> None:
        self._sampler, self._seed, self._epoch = sampler, seed, epoch

    def __iter__(self) -> Iterator[int]:
        self._sampler.generator.manual_seed(self._seed + self._epoch())
        yield from self._sampler

    def __len__(self) -> int:
        return len(self._sampler)


def whole_head(config: JudgeConfig, state: Mapping[str, Tensor]) -> StepHead:
    """A head with these weights (the one in the model may be in pieces). Saving draws no random number, or a run that
    was saved would go on otherwise than one that was not."""
    with torch.random.fork_rng(devices=[]):
        head = new_head(config)
    head.load_state_dict(state)
    return head


def whole_checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    found = [p for p in run.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if re.fullmatch(r".*-\d+", p.name) and p.is_dir()]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


def clean(run: Path) -> None:
    """Remove what a killed process left half written, or half removed."""
    for name in (WRITING, REMOVING):
        shutil.rmtree(run / name, ignore_errors=True)


def check_room(run: Path, model: Any) -> None:
    """Raises `InputError` where a checkpoint of this model can't fit on the disk: weights, and Adam's two moments."""
    trained = sum(p.numel() * 2 * p.element_size() for p in model.parameters() if p.requires_grad)
    needed = trained + sum(p.numel() * p.element_size() for p in model.parameters())
    free = shutil.disk_usage(run).free
    if free < needed:
        raise InputError(
            f"a checkpoint takes {needed / 1e9:,.2f} GB, and the disk of '{run}' has {free / 1e9:,.2f} GB left. Make "
            "room or name another output."
        )


def check_whole(checkpoint: Path) -> None:
    """Raises `CheckpointError` where a file that a run goes on with is missing or cut off."""
    wanted = ["optimizer.pt", "scheduler.pt", "trainer_state.json", f"{SPRM_FOLDER}/{HEAD_FILE}"]
    missing = [name for name in wanted if not (checkpoint / name).is_file()]
    weights = [*checkpoint.glob("*.safetensors")]
    broken = [path for path in checkpoint.glob("*.pt") if not zipfile.is_zipfile(path)]
    for path in weights:
        try:
            with safe_open(str(path), "pt"):
                pass
        except SafetensorError:
            broken.append(path)
    if missing or broken or not weights:
        what = f"{missing[0]} is missing" if missing else f"{broken[0].name} is cut off" if broken else "no weights"
        raise CheckpointError(f"'{checkpoint}' is damaged ({what}). Remove it to go on from the one before.")


def check_settings(run: Path, digest: str) -> None:
    """Note what the run's settings are, or refuse to go on with others; what has saved nothing may have new ones."""
    path = run / "settings.json"
    begun = bool(whole_checkpoints(run))
    if begun and not path.is_file():
        raise CheckpointError(f"'{run}' holds checkpoints that no settings.json belongs to. Name another output.")
    if begun:
        try:
            known = json.loads(path.read_text(encoding="utf-8")).get("digest")
        except (ValueError, AttributeError) as error:
            raise CheckpointError(f"'{path}' is damaged ({error}). Name another output.") from error
        if known != digest:
            raise CheckpointError(
                f"'{run}' holds a run of another model, other problems or other settings. Name another output, "
                "or remove it."
            )
        return
    write_text(path, json.dumps({"digest": digest}) + "\n")
