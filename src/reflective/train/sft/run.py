"""Supervised training of any Hugging Face causal language model on solution traces, from scratch or further.

One loop for CPU and GPU. The run resumes from its newest checkpoint by itself; where it ends at a number of tokens, an
interrupted and an uninterrupted run give the same weights, bit for bit, on the same machine. A run lives in one folder:

    <output>/checkpoints/   step-NNNNNNNN, each a loadable model
    <output>/logs/          TensorBoard
    <output>/model/         the result, a plain Hugging Face folder
"""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from reflective.errors import TrainingError
from reflective.files import folder_lock
from reflective.models.source import has_native_bfloat16, resolve_device, resolve_source
from reflective.train.progress import Note, RunResult, Stop, leads, memory_errors, print_note, stop_on_signals
from reflective.train.sft.batches import StepPlan
from reflective.train.sft.checkpoints import (
    Progress,
    clean,
    load_progress,
    load_state,
    newest_checkpoint,
    publish_model,
    save_checkpoint,
)
from reflective.train.sft.config import SFTConfig
from reflective.train.sft.learner import Learner
from reflective.train.sft.models import (
    keep_freed_memory,
    load_model,
    load_tokenizer,
    new_model,
)
from reflective.train.sft.optimizers import make_optimizers, rate
from reflective.train.sft.peers import Peers, peers
from reflective.train.sft.reports import Report, StepReport, TensorBoardLog, print_report
from reflective.train.sft.token_cache import TokenCache, token_cache


@dataclass(frozen=True)
class SFTResult(RunResult):
    """How a run ended. `folder` holds the trained model, or the checkpoint to resume from if it was interrupted."""

    folder: Path
    steps: int
    tokens: int
    seconds: float
    loss: float
    validation: dict[str, float]
    interrupted: bool = False


def train_sft(config: SFTConfig, *, report: Report = print_report, note: Note = print_note) -> SFTResult:
    """Trains, resuming from the newest checkpoint in the run's folder, and writes the model.

    Under `torchrun` every process returns; `report` and `note` are called in process 0 only. Raises `InputError` where
    another run writes into the same folder.
    """
    resolve_device(config.device)  # refuse what can be refused before a folder is made
    load_tokenizer(_tokenizer_folder(config))
    with folder_lock(Path(config.output)) if leads() else nullcontext():
        _caches(config, note)  # made before other processes look for them
        with stop_on_signals() as stop, peers(config.processes, _follow, config) as place:
            return _Run(config, place, report, note).train(stop)


def _follow(config: SFTConfig, place: Peers) -> None:
    """The part of a process that process 0 has started."""
    _Run(config, place, lambda report: None, lambda text: None).train(Stop())


def _caches(config: SFTConfig, note: Note) -> tuple[TokenCache, TokenCache | None]:
    """Training and validation examples, encoded with the tokenizer that the model is saved with."""
    folder = _tokenizer_folder(config)
    data = config.data
    train = token_cache(data, folder, "train", note)
    wanted = (data.families and data.validation_examples) or data.validation_files
    return train, token_cache(data, folder, "validation", note) if wanted else None


def _tokenizer_folder(config: SFTConfig) -> Path:
    return Path(config.tokenizer) if config.tokenizer else resolve_source(str(config.model))


class _Run:
    """One process's part in a run."""

    def __init__(self, config: SFTConfig, place: Peers, report: Report, note: Note) -> None:
        self.config, self.place, self.report, self.note = config, place, report, note
        self.device = resolve_device(config.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.tokenizer = load_tokenizer(str(_tokenizer_folder(config)))
        self.pad_id = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0
        self.cache, self.validation_cache = _caches(config, note)
        self.plan = StepPlan(
            self.cache, config.step_tokens, config.micro_tokens, config.seed, self.pad_id, place.rank, place.size
        )
        self.progress = Progress(settings=config.digest(self.cache.digest))
        self.model, checkpoint = self._start()
        self.optimizers = make_optimizers(self.model, config.optimizer)
        if checkpoint is not None:
            load_state(checkpoint, self.model, self.optimizers)
        if config.compile:  # one decoder layer for all layers and shapes, where the model has a list of them
            for layer in getattr(self.model.base_model, "layers", [self.model]):
                layer.compile(dynamic=True)
        bfloat16 = config.precision == "bfloat16" or (config.precision == "auto" and has_native_bfloat16(self.device))
        self.learner = Learner(self.model, self.optimizers, place, config.optimizer.clip, bfloat16)
        self.log = TensorBoardLog(Path(config.output) / "logs", note) if config.tensorboard and place.leads else None

    def _start(self) -> tuple[PreTrainedModel, Path | None]:
        """The newest checkpoint's model and its folder, or the model to start from."""
        config, settings = self.config, self.progress.settings
        if self.place.leads:
            clean(config.checkpoints)
        checkpoint = newest_checkpoint(config.checkpoints)
        if checkpoint is not None:
            self.progress = load_progress(checkpoint)
            if self.progress.settings != settings:
                raise TrainingError(
                    f"{checkpoint} was made with other settings or data. Give the run another `output`, "
                    f"or remove {config.checkpoints} to start over."
                )
            self.note(f"resuming from {checkpoint}")
            model = load_model(checkpoint)
        elif config.architecture is not None:
            model = new_model(config.architecture, self.tokenizer, config.seed)
        else:
            torch.manual_seed(config.seed)
            model = load_model(str(resolve_source(str(config.model))))
        torch.nn.Module.to(model, self.device)
        return model, checkpoint

    def train(self, stop: Stop) -> SFTResult:
        with memory_errors(lambda: f"in step {self.progress.step + 1}", lambda: _memory_advice(self.config)):
            return self._train(stop)

    def _train(self, stop: Stop) -> SFTResult:
        config, progress = self.config, self.progress
        self._note_size()
        clock, began_at = _Clock(progress), progress.step
        loss, validation, saved_at = math.nan, dict[str, float](), time.monotonic()
        while (share := self._share_done(stop)) < 1:
            lr = self._set_rates(rate(share, config.optimizer))
            loss, norm = self._learn()
            progress.seconds = clock.seconds()
            due = progress.step % config.validate_steps == 0
            validation = self._validate() if due else validation
            if due or progress.step % config.log_steps == 0:
                self._report(loss, lr, norm, clock.speed(), validation if due else {})
            if self._checkpoint_due(time.monotonic() - saved_at):
                progress.seconds = clock.seconds()
                self._save()
                saved_at = time.monotonic()
        progress.seconds = clock.seconds()
        interrupted = share == _STOPPED and self._done() < 1
        return self._end(loss, validation, interrupted, trained=progress.step > began_at)

    def _learn(self) -> tuple[float, float]:
        """The next step; the mean loss and the gradient's norm."""
        progress = self.progress
        # dropout draws from here: a step's randomness is a function of its number, and needs no saving
        torch.manual_seed((self.config.seed * 1_000_003 + progress.step) * 4096 + self.place.rank)
        step = self.plan.step(progress.step)
        loss, norm = self.learner.step(step.mine, step.learnt)
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise TrainingError(
                f"the loss is {loss} and the gradient's norm {norm} at step {progress.step}. "
                f"Lower the rates in [optimizer]; the checkpoints in {self.config.checkpoints} are from before."
            )
        progress.step += 1
        progress.tokens += step.tokens
        return loss, norm

    def _share_done(self, stop: Stop) -> float:
        """The share of the run that is done, 0..1, as process 0 sees it; `_STOPPED` where it has to stop."""
        return self.place.broadcast(_STOPPED if stop.requested else self._done(), self.device)

    def _done(self) -> float:
        """By tokens and by time, whichever is further."""
        config, progress = self.config, self.progress
        tokens = progress.tokens / config.max_tokens if config.max_tokens else 0.0
        minutes = progress.seconds / 60 / config.max_minutes if config.max_minutes else 0.0
        return max(tokens, minutes)

    def _set_rates(self, share: float) -> float:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * share
        return self.config.optimizer.adamw_lr * share

    def _validate(self) -> dict[str, float]:
        if self.validation_cache is None or not self.place.leads:
            return {}
        return self.learner.validate(self.validation_cache, self.config.micro_tokens, self.pad_id)

    def _checkpoint_due(self, seconds: float) -> bool:
        every = self.config.checkpoint_steps
        by_steps = every is not None and self.progress.step % every == 0
        return self.place.leads and (by_steps or seconds >= self.config.checkpoint_minutes * 60)

    def _save(self) -> Path:
        config = self.config
        return save_checkpoint(
            config.checkpoints, self.model, self.tokenizer, self.optimizers, self.progress, config.keep_checkpoints
        )

    def _note_size(self) -> None:
        cache = self.cache
        if cache.left_out:
            self.note(f"{cache.left_out:,} examples are longer than data.max_tokens and were left out")
        self.note(
            f"{sum(p.numel() for p in self.model.parameters()) / 1e6:.2f}M parameters, {len(cache):,} examples, "
            f"{len(cache.tokens) / 1e6:.1f}M tokens, {self.place.size} x {self.device}, "
            f"{'bfloat16' if self.learner.bfloat16 else 'float32'}"
        )

    def _report(self, loss: float, lr: float, norm: float, speed: float, validation: dict[str, float]) -> None:
        if not self.place.leads:
            return
        progress, done = self.progress, max(self._done(), 1e-9)
        report = StepReport(
            step=progress.step,
            tokens=progress.tokens,
            loss=loss,
            lr=lr,
            tokens_per_s=speed,
            eta_s=progress.seconds * max(0.0, 1 - done) / done,
            grad_norm=norm,
            validation=validation,
        )
        self.report(report)
        if self.log is not None:
            self.log.write(report)

    def _end(self, loss: float, validation: dict[str, float], interrupted: bool, trained: bool) -> SFTResult:
        """Write a checkpoint to resume from, or the model."""
        config, progress = self.config, self.progress
        folder = config.checkpoints if interrupted else Path(config.output) / "model"
        if self.place.leads:
            checkpoint = self._save()
            if interrupted:
                folder = checkpoint
                self.note(f"interrupted at step {progress.step}. Start the same command again to go on from {folder}.")
            else:
                validation = self._validate()
                torch.nn.Module.to(self.model, getattr(torch, config.save_dtype))
                publish_model(folder, self.model, self.tokenizer, self.note, look=not trained)
                self.note(f"done: {folder}" + (f", validation loss {validation['all']:.4f}" if validation else ""))
        if self.log is not None:
            self.log.close()
        return SFTResult(folder, progress.step, progress.tokens, progress.seconds, loss, validation, interrupted)


_STOPPED = 2.0  # a share that no run reaches: the user has asked for a stop


def _memory_advice(config: SFTConfig) -> str:
    """`micro_tokens` decides which examples a step holds, so it can't change within a run."""
    if newest_checkpoint(config.checkpoints) is None:
        return "Lower micro_tokens, then start again."
    return (
        "Free memory, then start again to go on; or lower micro_tokens and name another output, since a run that has "
        "begun keeps its micro_tokens."
    )


class _Clock:
    """The seconds of a run, over all its starts, and the speed since this start."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.began = time.monotonic() - progress.seconds
        self.tokens_before, self.seconds_before = progress.tokens, progress.seconds

    def seconds(self) -> float:
        return time.monotonic() - self.began

    def speed(self) -> float:
        """Tokens per second."""
        seconds = self.progress.seconds - self.seconds_before
        return (self.progress.tokens - self.tokens_before) / max(seconds, 1e-9)
