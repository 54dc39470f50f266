"""Train a head alone: sample with the frozen model, grade, fit the head on the features, calibrate, save.

No trainer is needed: the backbone does not change, so its features are read once, in the pass that samples. This is how
a user adapts a model to a domain of their own: problems with final answers in, a judging head out. `fit.py` fits it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from reflective.engines.base import Sampling
from reflective.engines.torch import TorchEngine
from reflective.errors import InputError
from reflective.files import folder_lock
from reflective.judge.calibrate import fit_calibration
from reflective.judge.config import SPRM_FOLDER, JudgeConfig
from reflective.judge.detection import WHOLE, detect_format, template_switches
from reflective.judge.format import Format
from reflective.judge.judge import Judge
from reflective.models import (
    Checkpoint,
    describe,
    load_checkpoint,
    save_checkpoint,
    save_judge,
)
from reflective.models.fingerprint import fingerprint_of
from reflective.models.metadata import eos_ids_of
from reflective.records.manifest import RECORDS
from reflective.search import Settings
from reflective.shards import Place
from reflective.train.head.config import HeadConfig
from reflective.train.head.data import read_data
from reflective.train.head.fit import aucs, aucs_text, candidates_of, fit_exponent, fit_head
from reflective.train.head.look import look
from reflective.train.progress import Note, RunResult, print_note, stop_on_signals
from reflective.train.rollout_settings import claim_rollouts, source_digest
from reflective.train.rollouts import load_rollouts, sample_rollouts
from reflective.train.selection import (
    calibration_samples,
    selection_table,
)
from reflective.types import Problem


@dataclass(frozen=True)
class HeadResult(RunResult):
    """How it ended: the folder with the head, and what the validation problems say of it."""

    folder: Path
    epoch: int
    within_problem_auc: float | None
    auc: float | None
    selection: dict[str, dict[str, float]]
    interrupted: bool = False


def train_head(config: HeadConfig, *, note: Note = print_note) -> HeadResult:
    """Run it all; a run that was stopped goes on where it was when it is started again with the same settings."""
    folder = _output(config)
    train, validation = read_data(config, note)
    checkpoint = load_checkpoint(config.model, device=config.device, dtype=config.dtype, require_head=False)
    sprm = _sprm_config(config, checkpoint)
    work = Path(config.work) if config.work else folder / "sprm-rollouts"
    parts = (
        (work / "train", train, config.trajectories),
        (work / "validation", validation, config.validation_trajectories),
    )
    with ExitStack() as stack:
        for place in dict.fromkeys((folder.resolve(), work.resolve())):
            stack.enter_context(folder_lock(place))
        if not _sample(config, checkpoint, sprm, parts, note):
            note(f"stopped; start the same command again to go on from {work}.")
            return HeadResult(work, 0, None, None, {}, interrupted=True)
        return _fit(config, checkpoint, sprm, folder, work, note)


def _sample(
    config: HeadConfig,
    checkpoint: Checkpoint,
    sprm: JudgeConfig,
    parts: Sequence[tuple[Path, list[Problem], int]],
    note: Note,
) -> bool:
    """Trajectories of all problems, k each, into a folder a part; False where Ctrl-C came before the end."""
    engine = TorchEngine(
        checkpoint.model,
        checkpoint.tokenizer,
        Judge(sprm),
        name=checkpoint.name,
        max_rows=config.max_rows,
        catch_features=True,
    )
    options: dict[str, Any] = {
        "sampling": Sampling(temperature=config.temperature),
        "max_tokens": config.max_tokens,
        "seed": config.seed,
        "source": source_digest(checkpoint.model, sprm),
    }
    for folder, problems, k in parts:  # all of them before the first is sampled
        claim_rollouts(folder, engine, problems, k, **options)
    wanted = sum(len(problems) * k for _, problems, k in parts)
    if config.look and not any((folder / RECORDS).is_file() for folder, _, _ in parts):
        settings = Settings(options["sampling"], config.seed, config.max_tokens)
        look(engine, parts[0][1], settings, wanted, note)
    with stop_on_signals() as stop:
        for folder, problems, k in parts:
            note(f"{folder.name}: {len(problems):,} problems × {k} trajectories")
            if not sample_rollouts(engine, problems, k, folder, note=note, stop=stop, **options):
                return False
    engine.close()
    return True


def _fit(
    config: HeadConfig, checkpoint: Checkpoint, sprm: JudgeConfig, folder: Path, work: Path, note: Note
) -> HeadResult:
    """The head from what was sampled, with its exponent and calibration, saved."""
    train, held_out = (load_rollouts(work / part, Place(sprm.layer)) for part in ("train", "validation"))
    head, epoch = fit_head(config, train, held_out, sprm, note)
    tried: dict[float, float] = {}
    if head.uses_logprobs:
        head.probability_exponent, tried = fit_exponent(head, held_out, sprm.aggregation)
        sprm = replace(sprm, probability_exponent=head.probability_exponent)
        note("exponent  " + "  ".join(f"{v:g}: best of n {share:.3f}" for v, share in tried.items()))
    candidates = candidates_of(head, held_out, sprm.aggregation)
    within, overall = aucs(candidates)
    table = selection_table(candidates)
    for count, row in table.items():
        note(f"k = {count:>2}: " + "  ".join(f"{name} {value:.3f}" for name, value in row.items()))
    note(f"AUC {aucs_text(within, overall)}")
    calibration = fit_calibration(calibration_samples(candidates))
    final = replace(
        sprm,
        calibration=calibration,
        fingerprint=fingerprint_of(checkpoint.model, checkpoint.tokenizer, sprm.layer),
        provenance={
            **config.provenance,
            "trained_with": _settings(config),
            "validation": {
                "within_problem_auc": within,
                "auc": overall,
                "selection": table,
                "exponents": {f"{v:g}": share for v, share in tried.items()},
            },
        },
    )
    head = head.cpu().eval()
    if config.output is not None:
        stored = getattr(torch, str(describe(config.model)["dtype"]), None)  # what it was loaded to is another matter
        whole_checkpoint = Checkpoint(checkpoint.model, checkpoint.tokenizer, Judge(final, head), checkpoint.name)
        save_checkpoint(folder, whole_checkpoint, dtype=stored)
    else:
        save_judge(folder / SPRM_FOLDER, Judge(final, head))
    note(f"saved: {folder}")
    return HeadResult(folder, epoch, within, overall, table)


def _settings(config: HeadConfig) -> dict[str, Any]:
    """The settings that decide what was learnt; of paths only the last part, which says nothing of the machine."""
    kept = {k: v for k, v in asdict(config).items() if k not in ("provenance", "work", "output", "device")}
    return kept | {"model": Path(config.model).name, "data": config.data and Path(config.data).name}


def _output(config: HeadConfig) -> Path:
    if config.output is not None:
        folder = Path(config.output)
        if folder.exists() and not folder.is_dir():
            raise InputError(f"--output {config.output} is a file; name a folder to save to.")
        return folder
    folder = Path(config.model)
    if not folder.is_dir():
        raise InputError(f"--model {config.model} is no folder to save a head into. Name one with --output.")
    return folder


def _sprm_config(config: HeadConfig, checkpoint: Checkpoint) -> JudgeConfig:
    """Steps and layer as an existing head has them, or as the settings say."""
    own = checkpoint.judge
    base = replace(own.config, calibration=None, sampling={"temperature": config.temperature})
    if config.step_rule is not None or config.marks:
        asked = _asked_format(config, checkpoint)
        if own.scores and (asked.step_ids, asked.opening) != (own.format.step_ids, own.format.opening):
            option = f"--step-rule {config.step_rule}" if config.step_rule is not None else "--marks"
            raise InputError(
                f"{option} is for a model without a head; the head of {config.model!r} ends its steps at other tokens, "
                f"which are kept. Leave {option.split()[0]} out, or remove that head."
            )
        if not own.scores:
            switches = template_switches(checkpoint.tokenizer, reasons=not asked.is_whole)
            base = replace(base, format=asked, template_kwargs={**base.template_kwargs, **switches})
    return replace(
        base,
        layer=config.layer,
        feature_position="before",  # where the engine catches them
        aggregation=config.aggregation,
        dropout=config.dropout,
        logprob_features=config.logprob_features,
        probability_exponent=0.0,  # fitted behind the head
    )


def _asked_format(config: HeadConfig, checkpoint: Checkpoint) -> Format:
    """The format that the settings name."""
    marks: Any = None
    if config.marks:
        marks = WHOLE if config.marks == (WHOLE,) else config.marks
    ends = eos_ids_of((checkpoint.model.generation_config, checkpoint.model.config, checkpoint.tokenizer))
    return detect_format(checkpoint.tokenizer, marks=marks, rule=config.step_rule, end_ids=ends)
