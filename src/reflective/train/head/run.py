"""Train a head alone: sample with the frozen model, grade, fit head, calibration and effort auto's schedule, save.

No trainer is needed: the backbone does not change, so its features are read once, in the pass that samples. This is how
a user adapts a model to a domain of their own: problems with final answers in, a judging head out. `fit.py` fits it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from reflective.engines import check_engine, serve_engine
from reflective.engines.base import Engine, Sampling
from reflective.engines.torch import TorchEngine
from reflective.errors import InputError
from reflective.files import folder_lock
from reflective.judge.aggregate import DEFAULT_AGGREGATION
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
from reflective.models.metadata import eos_ids_of
from reflective.records.manifest import RECORDS
from reflective.search import Settings
from reflective.shards import Place
from reflective.train.head.config import AUTO, HeadConfig
from reflective.train.head.data import read_data
from reflective.train.head.fit import aucs, aucs_text, candidates_of, fit_exponent
from reflective.train.head.layers import candidate_layers, fit_layers
from reflective.train.head.look import look
from reflective.train.head.schedule import with_schedule
from reflective.train.progress import Note, RunResult, print_note, stop_on_signals
from reflective.train.rollout_settings import RolloutSettings, claim_rollouts, source_digest
from reflective.train.rollouts import Rollouts, load_rollouts, read_caught, sample_rollouts
from reflective.train.selection import (
    calibration_samples,
    selection_table,
)
from reflective.types import Problem


@dataclass(frozen=True)
class HeadResult(RunResult):
    """How it ended: the folder with the head, and what the validation problems say of it.

    `risks` are those of effort auto that they certify, each with the share of the tokens that it takes.
    """

    folder: Path
    epoch: int
    within_problem_auc: float | None
    auc: float | None
    selection: dict[str, dict[str, float]]
    interrupted: bool = False
    risks: dict[str, float] = field(default_factory=dict)


def train_head(config: HeadConfig, *, note: Note = print_note) -> HeadResult:
    """Run it all; a run that was stopped goes on where it was when it is started again with the same settings."""
    folder = _output(config)
    check_engine(config.engine)
    train, validation = read_data(config, note)
    engine, checkpoint = sampling_engine(config)
    work = Path(config.work) if config.work else folder / "sprm-rollouts"
    parts = (
        (work / "train", train, config.trajectories),
        (work / "validation", validation, config.validation_trajectories),
    )
    with ExitStack() as stack:
        for place in dict.fromkeys((folder.resolve(), work.resolve())):
            stack.enter_context(folder_lock(place))
        if config.engine != "torch":
            complete = _sample_elsewhere(config, engine, checkpoint, parts, note)
        else:
            complete = _sample(config, engine, checkpoint, parts, note)
        if not complete:
            note(f"stopped; start the same command again to go on from {work}.")
            return HeadResult(work, 0, None, None, {}, interrupted=True)

        def load(place: Place) -> tuple[Rollouts, Rollouts]:
            return load_rollouts(work / "train", place), load_rollouts(work / "validation", place)

        judge, result = fit_judge(config, engine, load, note)
        judge = with_schedule(judge, work / "validation", config.temperature, note)
        _save(config, judge, checkpoint, folder)
        note(f"saved: {folder}")
        schedule = judge.config.schedule
        risks = {f"{limit.risk:g}": limit.tokens for limit in schedule.limits} if schedule is not None else {}
        return replace(result, folder=folder, risks=risks)


def sampling_engine(config: HeadConfig) -> tuple[TorchEngine, Checkpoint]:
    """An engine that writes trajectories for a head that is to be trained, and what it was made from."""
    packed = config.engine == "torch"  # features of what another engine wrote are read by the model itself
    checkpoint = load_checkpoint(
        config.model, device=config.device, dtype=config.dtype, require_head=False, packed=packed
    )
    first, *further = candidate_layers(config, checkpoint.model.config)
    sprm = replace(_sprm_config(config, checkpoint), layer=first)
    engine = TorchEngine.from_checkpoint(
        replace(checkpoint, judge=Judge(sprm), unchecked=False),
        max_rows=config.max_rows,
        catch_features=True,
        layers=further,
        catch_means=config.keep_means or config.position != "before",
    )
    return engine, checkpoint


def rollout_settings(
    config: HeadConfig, engine: TorchEngine, checkpoint: Checkpoint, writer: Engine | None = None
) -> RolloutSettings:
    """How the trajectories are sampled."""
    packed = checkpoint.weights if engine.model is checkpoint.model else None
    source = source_digest(engine.model, engine.judge.config, packed)
    return RolloutSettings(
        Sampling(temperature=config.temperature), config.max_tokens, config.seed, source, writer=writer
    )


def _sample(
    config: HeadConfig,
    engine: TorchEngine,
    checkpoint: Checkpoint,
    parts: Sequence[tuple[Path, list[Problem], int]],
    note: Note,
    writer: Engine | None = None,
) -> bool:
    """Trajectories of all problems, k each, into a folder per part; False where Ctrl-C came before the end."""
    sampled = rollout_settings(config, engine, checkpoint, writer)
    for folder, problems, k in parts:  # all of them before the first is sampled
        claim_rollouts(folder, engine, problems, k, sampled)
    wanted = sum(len(problems) * k for _, problems, k in parts)
    if config.look and not any((folder / RECORDS).is_file() for folder, _, _ in parts):
        settings = Settings(sampled.sampling, config.seed, config.max_tokens)
        look(writer or engine, parts[0][1], settings, wanted, note)
    with stop_on_signals() as stop:
        for folder, problems, k in parts:
            note(f"{folder.name}: {len(problems):,} problems × {k} trajectories")
            if not sample_rollouts(engine, problems, k, folder, sampled, note=note, stop=stop):
                return False
    (writer or engine).close()
    return True


def _sample_elsewhere(
    config: HeadConfig,
    engine: TorchEngine,
    checkpoint: Checkpoint,
    parts: Sequence[tuple[Path, list[Problem], int]],
    note: Note,
) -> bool:
    """As `_sample`, with vLLM or servers as the writer; then the features, by one pass over what was written."""
    options = {"dtype": config.dtype} if config.engine == "vllm" else {}
    writer: Any = serve_engine(
        config.engine, config.model, require_head=False, head="none", check_fingerprint=True, **options
    )
    if writer.tokenizer is None:
        writer.close()
        raise InputError(f"{writer.remark}; a head learns from token ids, which vLLM sends.")
    writer.judge = engine.judge.without_head()  # the format and the prompt that the head is trained with
    if not _sample(config, engine, checkpoint, parts, note, writer):
        writer.close()
        return False
    for folder, _, _ in parts:
        read_caught(engine, folder, note)
    return True


def fit_judge(
    config: HeadConfig, engine: TorchEngine, load: Callable[[Place], tuple[Rollouts, Rollouts]], note: Note = print_note
) -> tuple[Judge, HeadResult]:
    """The judge from what was sampled, with its layer, exponent and calibration; the result names no folder yet.

    `load` gives what to fit on and what to validate on, with the features of a place. Settings that decide only the
    fit may differ from those that the engine was made with.
    """
    sprm = _with_head(engine.judge.config, config)
    fit, by_layer = fit_layers(config, engine.feature_layers, load, sprm, note)
    sprm = replace(sprm, layer=fit.place.layer, feature_position=fit.place.position, aggregation=fit.aggregation)
    head, held_out = fit.head, fit.validation
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
    final = replace(
        sprm,
        calibration=fit_calibration(calibration_samples(candidates)),
        fingerprint=engine.fingerprint(fit.place.layer),
        provenance={
            **config.provenance,
            "trained_with": _settings(config),
            "validation": {
                "within_problem_auc": within,
                "auc": overall,
                "selection": table,
                "exponents": {f"{v:g}": share for v, share in tried.items()},
                **({"layers": by_layer} if len(by_layer) > 1 else {}),
                **({"probes": dict(fit.probes)} if fit.probes else {}),
            },
        },
    )
    return Judge(final, head.cpu().eval()), HeadResult(Path(), fit.epoch, within, overall, table)


def _save(config: HeadConfig, judge: Judge, checkpoint: Checkpoint, folder: Path) -> None:
    if config.output is None:
        save_judge(folder / SPRM_FOLDER, judge)
        return
    stored = getattr(torch, str(describe(config.model)["dtype"]), None)  # what it was loaded to is another matter
    whole = replace(checkpoint.dense(), judge=judge)
    save_checkpoint(folder, whole, dtype=stored)


_OF_THE_MACHINE = ("provenance", "work", "output", "device", "engine")


def _settings(config: HeadConfig) -> dict[str, Any]:
    """The settings that decide what was learnt; of paths only the last part, which says nothing of the machine."""
    kept = {k: v for k, v in asdict(config).items() if k not in _OF_THE_MACHINE}
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
    """Steps as an existing head has them, or as the settings say."""
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
    return _with_head(replace(base, feature_position="before"), config)  # where the engine catches them


def _with_head(sprm: JudgeConfig, config: HeadConfig) -> JudgeConfig:
    """The place in the model with the head that is asked for."""
    return replace(
        sprm,
        aggregation=DEFAULT_AGGREGATION if config.aggregation == AUTO else config.aggregation,
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
