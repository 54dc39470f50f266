"""Supervised training of any Hugging Face causal language model on solution traces, from scratch or further.

One loop for CPU and GPU. The run resumes from its newest checkpoint by itself; where it ends at a number of tokens, an
interrupted and an uninterrupted run give the same weights, bit for bit, on the same machine. A run lives in one folder:

    <output>/checkpoints/   step-NNNNNNNN, each a loadable model
    <output>/logs/          TensorBoard
    <output>/model/         the result, a plain Hugging Face folder

Letters: N learnt tokens of a micro-batch, V vocabulary, H hidden size.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from reflective.errors import TrainingError
from reflective.train.batches import MicroBatch, StepPlan, micro_batches
from reflective.train.checkpointing import (
    Progress,
    checkpoints,
    load_progress,
    load_state,
    publish,
    save_checkpoint,
    write_model,
)
from reflective.train.config import SFTConfig
from reflective.train.optim import make_optimizers, rate
from reflective.train.progress import (
    Note,
    Report,
    StepReport,
    TensorBoardLog,
    print_note,
    print_report,
    stop_on_signals,
)
from reflective.train.scratch import has_native_bfloat16, keep_freed_memory, load_model, load_tokenizer, new_model
from reflective.train.token_cache import TokenCache, token_cache


@dataclass(frozen=True)
class SFTResult:
    """How a run ended. `folder` holds the trained model, or the checkpoint to resume from if it was interrupted."""

    folder: Path
    steps: int
    tokens: int
    seconds: float
    loss: float
    validation: dict[str, float]
    interrupted: bool = False

    @property
    def exit_code(self) -> int:
        """For a command line: 130 after Ctrl-C, as shells have it."""
        return 130 if self.interrupted else 0


def train_sft(config: SFTConfig, *, report: Report = print_report, note: Note = print_note) -> SFTResult:
    """Trains, resuming from the newest checkpoint in the run's folder, and writes the model."""
    return _Trainer(config, report, note).train()


class _Trainer:
    def __init__(self, config: SFTConfig, report: Report, note: Note) -> None:
        self.config, self.report, self.note = config, report, note
        self.device = _device(config.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        start = config.model if config.tokenizer is None else config.tokenizer
        self.tokenizer = load_tokenizer(str(start))
        self.cache, self.validation_cache = self._data()
        self.pad_id = _pad_id(self.tokenizer)
        self.plan = StepPlan(self.cache, config.step_tokens, config.micro_tokens, config.seed, self.pad_id)
        self.progress = Progress(settings=config.digest(self.cache.digest))
        self.model = self._model()
        self.optimizers = make_optimizers(self.model, config.optimizer)
        self._resume_state()
        self._compile()
        self.log = TensorBoardLog(Path(config.output) / "logs", note) if config.tensorboard else None

    # -- the loop ----------------------------------------------------------------------------------------------------

    def train(self) -> SFTResult:
        config, progress = self.config, self.progress
        self.note(
            f"{sum(p.numel() for p in self.model.parameters()) / 1e6:.2f}M parameters, {len(self.cache):,} examples, "
            f"{len(self.cache.tokens) / 1e6:.1f}M tokens, {self.device}, "
            f"{'bfloat16' if self._bfloat16 else 'float32'}"
        )
        began, saved_at = time.monotonic() - progress.seconds, time.monotonic()
        first_tokens, first_seconds = progress.tokens, progress.seconds
        loss, validation = math.nan, dict[str, float]()
        with stop_on_signals() as stop:
            while (share := self._share_done()) < 1 and not stop.requested:
                lr = self._set_rates(rate(share, config.optimizer))
                loss, norm, tokens = self._learn(self.plan.step(progress.step))
                progress.step += 1
                progress.tokens += tokens
                progress.seconds = time.monotonic() - began
                due = progress.step % config.validate_steps == 0
                validation = self._validate() if due else validation
                if due or progress.step % config.log_steps == 0:
                    speed = (progress.tokens - first_tokens) / max(progress.seconds - first_seconds, 1e-9)
                    self._tell(loss, lr, norm, speed, validation if due else {})
                if self._checkpoint_due(time.monotonic() - saved_at):
                    progress.seconds = time.monotonic() - began
                    self._save()
                    saved_at = time.monotonic()
        progress.seconds = time.monotonic() - began
        return self._end(loss, validation, stop.requested and self._share_done() < 1)

    def _learn(self, batches: list[MicroBatch]) -> tuple[float, float, int]:
        """One step: the mean loss over the step's learnt tokens, the gradient's norm, the tokens read."""
        self.model.train()
        learnt = sum(len(batch.targets) for batch in batches)
        total = torch.zeros((), device=self.device)
        for batch in batches:
            # mean over the whole step, so that a micro-batch weighs by what it teaches
            loss = self._token_losses(batch.to(self.device)).sum() / max(learnt, 1)
            loss.backward()
            total += loss.detach()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optimizer.clip or math.inf)
        mean = float(total)
        if not math.isfinite(mean) or not math.isfinite(float(norm)):
            raise TrainingError(
                f"the loss is {mean} and the gradient's norm {float(norm)} at step {self.progress.step}. "
                f"Lower the rates in [optimizer]; the checkpoints in {self.config.checkpoints} are from before."
            )
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return mean, float(norm), sum(batch.tokens for batch in batches)

    def _token_losses(self, batch: MicroBatch) -> Tensor:
        """The cross entropy of each learnt token, (N,). Logits are computed for those positions only."""
        with self._autocast(), _head_reads(self.model, batch.positions):
            logits = self.model(input_ids=batch.ids, use_cache=False).logits  # (1, N, V)
        return cross_entropy(logits[0].float(), batch.targets, reduction="none")

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """Mean loss per learnt token, for all families and for each."""
        cache = self.validation_cache
        if cache is None:
            return {}
        self.model.eval()
        sums, counts = np.zeros(len(cache.families)), np.zeros(len(cache.families))
        for batch in micro_batches(cache, self.config.micro_tokens, self.pad_id):
            losses = self._token_losses(batch.to(self.device)).double().cpu().numpy()  # (N,)
            families = cache.family[batch.examples[batch.rows.numpy()]]
            np.add.at(sums, families, losses)
            np.add.at(counts, families, 1)
        by_family = {name: float(s / max(c, 1)) for name, s, c in zip(cache.families, sums, counts)}
        return {"all": float(sums.sum() / max(counts.sum(), 1)), **by_family}

    # -- pace --------------------------------------------------------------------------------------------------------

    def _share_done(self) -> float:
        """How much of the run is done, 0..1, by tokens and by time, whichever is further."""
        config, progress = self.config, self.progress
        tokens = progress.tokens / config.max_tokens if config.max_tokens else 0.0
        minutes = progress.seconds / 60 / config.max_minutes if config.max_minutes else 0.0
        return max(tokens, minutes)

    def _set_rates(self, share: float) -> float:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * share
        return self.config.optimizer.adamw_lr * share

    def _checkpoint_due(self, seconds: float) -> bool:
        every = self.config.checkpoint_steps
        by_steps = every is not None and self.progress.step % every == 0
        return by_steps or seconds >= self.config.checkpoint_minutes * 60

    def _tell(self, loss: float, lr: float, norm: float, speed: float, validation: dict[str, float]) -> None:
        progress = self.progress
        share = max(self._share_done(), 1e-9)
        told = StepReport(
            step=progress.step,
            tokens=progress.tokens,
            loss=loss,
            lr=lr,
            tokens_per_s=speed,
            eta_s=progress.seconds * max(0.0, 1 - share) / share,
            grad_norm=norm,
            validation=validation,
        )
        self.report(told)
        if self.log is not None:
            self.log.write(told)

    # -- start and end -----------------------------------------------------------------------------------------------

    def _data(self) -> tuple[TokenCache, TokenCache | None]:
        """Training and validation examples, encoded with the tokenizer that the model is saved with."""
        folder = Path(self.config.tokenizer or str(self.config.model))
        data = self.config.data
        train = token_cache(data, folder, "train", self.note)
        if train.left_out:
            self.note(f"{train.left_out} examples are longer than {data.max_tokens} tokens and were left out")
        has_validation = (data.families and data.validation_examples) or data.validation_files
        return train, token_cache(data, folder, "validation", self.note) if has_validation else None

    def _model(self) -> PreTrainedModel:
        """The newest checkpoint's model, or the one to start from."""
        self.resumed_from = next(reversed(checkpoints(self.config.checkpoints)), None)
        if self.resumed_from is not None:
            settings = self.progress.settings
            self.progress = load_progress(self.resumed_from)
            if self.progress.settings != settings:
                raise TrainingError(
                    f"{self.resumed_from} was made with other settings or data. Give the run another `output`, "
                    f"or remove {self.config.checkpoints} to start over."
                )
            self.note(f"resuming from {self.resumed_from}")
            model = load_model(self.resumed_from)
        elif self.config.architecture is not None:
            model = new_model(self.config.architecture, self.tokenizer, self.config.seed)
        else:
            torch.manual_seed(self.config.seed)
            model = load_model(str(self.config.model))
        torch.nn.Module.to(model, self.device)
        return model

    def _resume_state(self) -> None:
        if self.resumed_from is not None:
            load_state(self.resumed_from, self.model, self.optimizers)

    def _compile(self) -> None:
        """Compiles one decoder layer for all layers and shapes, where the model has a list of them."""
        if self.config.compile:
            for layer in getattr(self.model.base_model, "layers", [self.model]):
                layer.compile(dynamic=True)

    def _save(self) -> Path:
        config = self.config
        return save_checkpoint(
            config.checkpoints, self.model, self.tokenizer, self.optimizers, self.progress, config.keep_checkpoints
        )

    def _end(self, loss: float, validation: dict[str, float], interrupted: bool) -> SFTResult:
        """Writes what the run came to: a checkpoint to resume from, or the model."""
        folder = self._save()
        if interrupted:
            self.note(f"interrupted at step {self.progress.step}. Start the same command again to go on from {folder}.")
        else:
            validation = self._validate()
            folder = self._publish_model()
            self.note(f"done: {folder}" + (f", validation loss {validation['all']:.4f}" if validation else ""))
        if self.log is not None:
            self.log.close()
        progress = self.progress
        return SFTResult(folder, progress.step, progress.tokens, progress.seconds, loss, validation, interrupted)

    def _publish_model(self) -> Path:
        target = Path(self.config.output) / "model"
        temporary = target.with_name(".model")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        self.model.to(getattr(torch, self.config.save_dtype))
        write_model(temporary, self.model, self.tokenizer)
        shutil.rmtree(target, ignore_errors=True)
        publish(temporary, target)
        return target

    # -- arithmetic --------------------------------------------------------------------------------------------------

    @property
    def _bfloat16(self) -> bool:
        chosen = self.config.precision
        return chosen == "bfloat16" or (chosen == "auto" and has_native_bfloat16(self.device))

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16) if self._bfloat16 else nullcontext()


@contextmanager
def _head_reads(model: PreTrainedModel, positions: Tensor) -> Iterator[None]:
    """Lets the LM head see the flattened `positions` only, whatever the architecture does before and behind it."""

    def pick(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        hidden = inputs[0]  # (B, T, H) -> (1, N, H)
        return (hidden.reshape(-1, hidden.shape[-1]).index_select(0, positions)[None],)

    handle = model.get_output_embeddings().register_forward_pre_hook(pick)
    try:
        yield
    finally:
        handle.remove()


def _device(name: str) -> torch.device:
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def _pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return int(pad)
