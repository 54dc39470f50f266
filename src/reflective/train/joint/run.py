"""A run of joint training, from a configuration to a trained model; started again, it goes on where it was.

Under `accelerate launch` (or `torchrun`) every process runs this; process 0 prints and writes.
"""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import PrinterCallback

from reflective.engines.text import text_decoder
from reflective.errors import InputError
from reflective.files import folder_lock
from reflective.judge.judge import Judge
from reflective.models import Checkpoint, load_checkpoint, save_checkpoint
from reflective.models.digest import weights_digest
from reflective.models.fingerprint import fingerprint_of
from reflective.models.library_logging import quiet
from reflective.models.metadata import eos_ids_of
from reflective.train.joint.checkpoints import (
    check_room,
    check_settings,
    check_whole,
    clean,
    step_of,
    whole_checkpoints,
)
from reflective.train.joint.config import JointConfig
from reflective.train.joint.data import data_digest, numbered, read_data
from reflective.train.joint.rewards import VerifiedAnswer, check_rewards, reward_functions
from reflective.train.joint.rollouts import EngineRollouts
from reflective.train.joint.scored_model import base_model, split_head, whole_head
from reflective.train.joint.setup import (
    check_choice,
    check_engine,
    in_pieces,
    judge_of,
    prompt_encoder,
    with_adapters,
)
from reflective.train.joint.trl import check_version
from reflective.train.progress import Note, RunResult, Stop, memory_errors, print_note, stop_on_signals

MEMORY_ADVICE = "Lower micro_batch or [rollouts] rows, or set gradient_checkpointing = true; then start again to go on."


@dataclass(frozen=True)
class JointResult(RunResult):
    """How it ended: the folder of the trained model, the steps done, and the last figures of each kind."""

    folder: Path
    steps: int
    figures: dict[str, float] = field(default_factory=dict)
    interrupted: bool = False


def train_joint(config: JointConfig, *, note: Note = print_note) -> JointResult:
    """Run it all. Raises `InputError` before the first step for what can be known then, and `TrainingError` later."""
    check_version()
    with stop_on_signals() as stop, _quiet():
        run = prepare(config, note=note, stop=stop)
        return run.train()


def prepare(config: JointConfig, *, note: Note = print_note, stop: Stop | None = None) -> JointRun:
    """Everything up to the first step: model, head, problems, engine, trainer."""
    with memory_errors(lambda: "before the first step", lambda: MEMORY_ADVICE):
        return JointRun(config, note, stop or Stop())


class JointRun:
    """A run that is ready to train; `trainer` is the `JointTrainer`."""

    def __init__(self, config: JointConfig, note: Note, stop: Stop) -> None:
        # these import TRL or accelerate, which are known to be installed by now
        from accelerate import PartialState

        from reflective.train.joint.reporting import Reporter
        from reflective.train.joint.trl.arguments import grpo_arguments
        from reflective.train.joint.trl.trainer import JointTrainer
        from reflective.train.joint.trl.vllm import check_vllm, vllm_set_up

        self.config, self._stop = config, stop
        check_engine(config)
        self._joins = not dist.is_initialized()  # else the group of processes is the caller's
        if config.device == "cpu":
            # accelerate would call it "cpu:0" where there are several processes, and moving a model from "cpu" to
            # "cpu:0" copies it, which leaves the engine behind on the old weights
            os.environ.setdefault("ACCELERATE_TORCH_DEVICE", "cpu")
        state = PartialState(cpu=config.device == "cpu")
        self.leads = state.is_main_process
        self.note: Note = note if self.leads else lambda _: None
        note_by_rank: Note = note if self.leads else lambda text: note(f"process {state.process_index}: {text}")
        device = state.device
        check_vllm(config, device)
        home = torch.device("cpu") if in_pieces() else device  # the whole model need not fit on a device
        config.batches(state.num_processes)  # refuse bad settings before a model is loaded
        check_rewards(config.rewards.functions)
        checkpoint = load_checkpoint(config.model, device=home, dtype=config.dtype, require_head=False)
        self.judge = judge_of(config, checkpoint, self.note)
        self.tokenizer = checkpoint.tokenizer
        check_choice(config, self.judge.config)
        model: Any = checkpoint.model
        self._use_cache = model.config.get_text_config().use_cache  # the trainer turns it off
        context = int(model.config.get_text_config().max_position_embeddings)
        encode = prompt_encoder(self.tokenizer, self.judge)
        train, held_out = read_data(config, encode, context, self.note)
        problems, train_rows, held_out_rows = numbered(train, held_out)
        self.folder = Path(config.output)
        self._digest = config.digest(data_digest(problems) + weights_digest(model, self.judge.head))
        config = _available_trackers(config, self.note)
        arguments = grpo_arguments(config, state.num_processes, device, len(held_out))
        ends = eos_ids_of((model.generation_config, model.config, self.tokenizer))
        verified = VerifiedAnswer(problems, self.judge.format, ends, text_decoder(self.tokenizer))
        model = with_adapters(model, config)
        rollouts = None
        if config.rollouts.engine == "torch":
            rollouts = EngineRollouts(
                base_model(model), self.tokenizer, self.judge, config.rollouts, config.seed, checkpoint.name
            )
        with vllm_set_up(config, device):
            self.trainer = JointTrainer(
                model,
                self.judge,
                config,
                encode,
                reward_funcs=reward_functions(config.rewards.functions, verified, note_by_rank),
                args=arguments,
                train_dataset=train_rows,
                eval_dataset=held_out_rows,
                processing_class=self.tokenizer,
                rollout_func=rollouts,
            )
        self.trainer.remove_callback(PrinterCallback)  # prints dictionaries
        self.trainer.add_callback(Reporter(self.folder, self.note, stop, self.leads, self._agree))

    def _agree(self, wish: bool) -> bool:
        """Whether any process wants to stop; all of them ask."""
        accelerator = self.trainer.accelerator
        if accelerator.num_processes == 1:
            return wish
        return bool(accelerator.reduce(torch.tensor(float(wish), device=accelerator.device), "sum") > 0)

    def train(self) -> JointResult:
        """From the newest checkpoint, or from the start, to the end or to Ctrl-C."""
        with (
            folder_lock(self.folder) if self.leads else nullcontext(),
            memory_errors(lambda: f"in step {self.trainer.state.global_step + 1}", lambda: MEMORY_ADVICE),
        ):
            result = self._train()
        if self._joins and dist.is_initialized():
            # a process that ends with the group's threads still running is aborted now and then
            self.trainer.accelerator.wait_for_everyone()
            dist.destroy_process_group()
        return result

    def _train(self) -> JointResult:
        from reflective.train.joint.reporting import read_curves, write_picture

        trainer = self.trainer
        if self.leads:
            check_settings(self.folder, self._digest)
            clean(self.folder)
            check_room(self.folder, trainer.model)
        trainer.accelerator.wait_for_everyone()
        newest = next(reversed(whole_checkpoints(self.folder)), None)
        if newest is not None:
            self.note(f"going on from {newest}")
            if in_pieces() is None:
                check_whole(newest)
        if self._agree(self._stop.requested):
            self.note("stopped before the first step of this start; the same command begins there.")
            return JointResult(self.folder, 0 if newest is None else step_of(newest), interrupted=True)
        if "TORCHELASTIC_RUN_ID" in os.environ and "TORCH_ELASTIC_SHUTDOWN_TIMEOUT" not in os.environ:
            self.note(
                "the launcher ends all processes 30 seconds after Ctrl-C. Where a step takes longer, set "
                "TORCH_ELASTIC_SHUTDOWN_TIMEOUT to more seconds than that, so that the step can be finished and saved."
            )
        self.note(
            f"{len(trainer.train_dataset):,} problems, {self.config.rollouts.group} trajectories each, "
            f"{self.config.rollouts.problems} problems a generation, {self.config.steps:,} steps"
        )
        began = time.monotonic()
        if newest is not None:
            trainer.restore(newest)
        trainer.train(resume_from_checkpoint=None if newest is None else str(newest))
        steps = int(trainer.state.global_step)
        interrupted = self._stop.requested and steps < self.config.steps
        curves = read_curves(self.folder)
        figures = {name: values[-1] for name, (_, values) in curves.items() if values}
        if interrupted:
            self.note(f"stopped after step {steps}; start the same command again to go on.")
            return JointResult(self.folder, steps, figures, interrupted=True)
        target = self.save()
        if self.leads and self.config.log.plot:
            write_picture(self.folder, self.note)
        self.note(f"saved: {target} ({time.monotonic() - began:,.0f} s)")
        return JointResult(target, steps, figures, interrupted=self._stop.requested)  # in the last step

    def save(self) -> Path:
        """The trained model as a plain checkpoint folder, `<output>/model`."""
        trainer, target = self.trainer, self.folder / "model"
        accelerator = trainer.accelerator
        model = accelerator.unwrap_model(trainer.model)
        if hasattr(model, "merge_and_unload"):
            model = model.merge_and_unload()
        if in_pieces():
            state = accelerator.get_state_dict(trainer.model_wrapped)  # all ranks gather
        else:
            state = model.state_dict()
        if not self.leads:
            return target
        head, rest = split_head(state)
        provenance = {**self.judge.config.provenance, "trained_with": _settings(self.config)}
        # a calibration would be that of the untrained scores; a model in pieces can't be run here for a fingerprint
        layer = self.judge.config.layer
        fingerprint = None if in_pieces() else fingerprint_of(model, self.tokenizer, layer)
        config = replace(self.judge.config, calibration=None, fingerprint=fingerprint, provenance=provenance)
        dtype = getattr(torch, self.config.save_dtype)
        model.config.get_text_config().use_cache = self._use_cache
        whole = Checkpoint(model, self.tokenizer, Judge(config, whole_head(config, head)), str(target))
        return save_checkpoint(target, whole, dtype=dtype, state_dict=rest)


def _available_trackers(config: JointConfig, note: Note) -> JointConfig:
    """Without TensorBoard where it is not installed, with a note; another tracker that is missing is refused."""
    from transformers.integrations.integration_utils import get_available_reporting_integrations

    there = get_available_reporting_integrations()
    for name in config.log.report_to:
        if name not in (*there, "tensorboard"):
            raise InputError(f"[log] report_to: {name!r} is unknown or not installed. There are: {', '.join(there)}.")
    if "tensorboard" not in config.log.report_to or find_spec("tensorboard") is not None:
        return config
    note('no curves for TensorBoard: it is not installed. For them, in the checkout: pip install ".[train]"')
    rest = tuple(name for name in config.log.report_to if name != "tensorboard")
    return replace(config, log=replace(config.log, report_to=rest))


def _settings(config: JointConfig) -> dict[str, Any]:
    """The settings for the provenance; of paths only the last part, which says nothing about the machine."""
    table = asdict(config)
    for name in ("output", "device", "log"):
        table.pop(name)
    table["model"] = Path(config.model).name
    if config.data.source is not None:
        table["data"]["source"] = Path(config.data.source).name
    return table


@contextmanager
def _quiet() -> Iterator[None]:
    """Without bars of libraries, and warnings that a user can do nothing about."""
    loggers = [logging.getLogger(name) for name in ("trl", "accelerate", "datasets")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)
