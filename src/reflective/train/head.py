"""Train a head alone: sample with the frozen model, grade, fit the head on the caught features, calibrate, save.

No trainer is needed: the backbone does not move, so its features are taken once, in the pass that samples. This is how
a user adapts a model to an own domain: problems and their final answers in, a judging head out.

Departures from the paper, where the head is trained together with the policy (see the issue of joint training):
- the filter of the SPR loss starts after `plain_epochs` of plain BCE, since a filter that keeps only what an
  untrained head agrees with teaches it its own prejudice (measured: LOG.md);
- the features are standardised while the head is fitted, and the shift and scale folded into its first layer at the
  end: hidden states of different models differ in size by orders of magnitude, the learning rate need not;
- with log-probability features, the power of the steps' own probability that enters their score is chosen on the
  validation problems (`fit_exponent`);
- trajectories are weighted so that right and wrong ones of each problem count the same (`problem_balanced`), since
  selection ranks the trajectories of one problem.

Letters: B trajectories, n steps, H hidden size.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reflective.engines.base import Sampling
from reflective.engines.torch import TorchEngine
from reflective.errors import InputError, TrainingError
from reflective.files import folder_lock
from reflective.judge.aggregate import aggregate
from reflective.judge.calibrate import fit_calibration
from reflective.judge.config import SPRM_FOLDER, JudgeConfig
from reflective.judge.detection import WHOLE, detect_format, template_switches
from reflective.judge.format import Format
from reflective.judge.heads.paper import SPRMHead
from reflective.judge.judge import Judge
from reflective.judge.loss import UNGRADABLE, problem_balanced_weights, spr_loss
from reflective.judge.metrics import auc, within_problem_auc
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
from reflective.selection import best_by_score
from reflective.shards import Place
from reflective.train.head_config import HeadConfig
from reflective.train.head_data import read_data
from reflective.train.look import look
from reflective.train.progress import Note, RunResult, print_note, stop_on_signals
from reflective.train.rollout_settings import claim_rollouts, source_digest
from reflective.train.rollouts import Rollouts, load_rollouts, sample_rollouts
from reflective.train.selection import (
    Candidate,
    budgets,
    calibration_samples,
    cut,
    selection_table,
)
from reflective.types import Problem

MIN_DEVIATION = 1e-6  # of a feature that counts as varying
EXPONENTS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
BATCH = 4096  # steps through the head at once when nothing is learnt


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
    within, overall = _aucs(candidates)
    table = selection_table(candidates)
    for count, row in table.items():
        note(f"k = {count:>2}: " + "  ".join(f"{name} {value:.3f}" for name, value in row.items()))
    note(f"AUC {_told(within, overall)}")
    calibration = fit_calibration(calibration_samples(candidates))
    final = replace(
        sprm,
        calibration=calibration,
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


# ---- fitting


def fit_head(
    config: HeadConfig, train: Rollouts, validation: Rollouts, sprm: JudgeConfig, note: Note = print_note
) -> tuple[SPRMHead, int]:
    """Fit a fresh head; returns the one of the epoch that ranked the validation trajectories best, and the epoch.

    Raises `TrainingError` where nothing can be learnt: no step, or only one outcome.
    """
    _check(train)
    mean, deviation = _moments(train.features)
    train, validation = (replace(r, features=(r.features.float() - mean) / deviation) for r in (train, validation))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        head = SPRMHead(sprm.hidden_size, config.dropout, config.logprob_features)
        optimizer = torch.optim.AdamW(head.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        order, groups = random.Random(config.seed), train.groups()
        best, best_epoch, best_state = -math.inf, 0, copy.deepcopy(head.state_dict())
        for epoch in range(1, config.epochs + 1):
            plain = epoch <= config.plain_epochs or config.filter == "none"
            losses, kept, steps = [], 0, 0
            order.shuffle(groups)
            head.train()
            for start in range(0, len(groups), config.batch_problems):
                batch = [i for group in groups[start : start + config.batch_problems] for i in group]
                logits, mask, outcomes = _forward(head, train, batch)
                weights = None
                if config.problem_balanced:
                    weights = problem_balanced_weights([train.problems[i] for i in batch], outcomes)
                result = spr_loss(
                    logits,
                    outcomes,
                    mask,
                    filter="none" if plain else "self_supervised",
                    class_balance=config.class_balance and not config.problem_balanced,
                    weights=weights,
                )
                optimizer.zero_grad(set_to_none=True)
                result.loss.backward()
                torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
                optimizer.step()
                losses.append(float(result.loss.detach()))
                kept += result.kept_right + result.kept_wrong
                steps += result.steps_right + result.steps_wrong
            within, overall = _aucs(candidates_of(head, validation, sprm.aggregation))
            measure = within if within is not None else overall if overall is not None else -losses[-1]
            note(
                f"epoch {epoch:>3}  {'BCE' if plain else 'SPR'} loss {sum(losses) / len(losses):.4f}  "
                f"kept {kept / max(steps, 1):.2f}  validation AUC {_told(within, overall)}"
            )
            if measure > best:
                best, best_epoch, best_state = measure, epoch, copy.deepcopy(head.state_dict())
            elif epoch - best_epoch >= config.patience and epoch > config.plain_epochs + config.patience:
                break
        head.load_state_dict(best_state)
    _fold(head, mean, deviation)
    return head.eval(), best_epoch


def fit_exponent(head: SPRMHead, rollouts: Rollouts, aggregation: str) -> tuple[float, dict[float, float]]:
    """The v of `sprm.head` with which the best of n is right most often, and what each was worth: the mean share of
    right answers over budgets of 2 and more. Of equal ones the smallest; 0 where there is only one trajectory each."""
    tried = {}
    for exponent in EXPONENTS:
        head.probability_exponent = exponent
        candidates = candidates_of(head, rollouts, aggregation)
        shares = [
            sum(best_by_score(group).right is True for group in groups) / len(groups)
            for groups in (list(cut(candidates, k)) for k in budgets(candidates) if k > 1)
        ]
        tried[exponent] = sum(shares) / max(len(shares), 1)
    head.probability_exponent = 0.0
    return max(EXPONENTS, key=lambda v: (tried[v], -v)), tried


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each feature, (H,) each; a constant feature keeps its scale."""
    mean, deviation = features.float().mean(0), features.float().std(0)
    return mean, torch.where(deviation > MIN_DEVIATION, deviation, 1.0)


@torch.no_grad()
def _fold(head: SPRMHead, mean: Tensor, deviation: Tensor) -> None:
    """W1·(h − μ)/σ + b1 = (W1/σ)·h + (b1 − (W1/σ)·μ): the plain head that does the same on raw features."""
    head.hidden.weight.div_(deviation)  # (2H, H) / (H,)
    head.hidden.bias.sub_(head.hidden.weight @ mean)


def _check(rollouts: Rollouts) -> None:
    outcomes = set(rollouts.outcomes) - {UNGRADABLE}
    if len(rollouts.features) == 0:
        raise TrainingError("no trajectory has a step: check the step rule (reflective info) and --max-tokens.")
    if len(outcomes) < 2:
        what = "none could be graded" if not outcomes else "all right" if outcomes == {1} else "all wrong"
        raise TrainingError(
            f"the sampled trajectories are all alike ({what}), so there is nothing to tell apart. "
            "Use harder or easier problems, or check the answers in the data."
        )


def _forward(head: SPRMHead, rollouts: Rollouts, batch: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Step logits (B, n), mask (B, n) and outcomes (B,) of some trajectories."""
    counts = [rollouts.starts[i + 1] - rollouts.starts[i] for i in batch]
    index = torch.cat([torch.arange(rollouts.starts[i], rollouts.starts[i + 1]) for i in batch])
    extra = rollouts.logprob_features[index] if head.uses_logprobs else None
    flat = head(rollouts.features[index], extra)  # (steps,)
    mask = torch.arange(max(max(counts), 1)) < torch.tensor(counts).unsqueeze(1)  # (B, n)
    logits = flat.new_zeros(mask.shape).masked_scatter(mask, flat)
    return logits, mask, torch.tensor([rollouts.outcomes[i] for i in batch])


@torch.no_grad()
def candidates_of(head: SPRMHead, rollouts: Rollouts, aggregation: str) -> list[list[Candidate]]:
    """What a selection sees of each problem's trajectories."""
    head.eval()
    logits: list[float] = []
    for start in range(0, len(rollouts.features), BATCH):
        extra = rollouts.logprob_features[start : start + BATCH] if head.uses_logprobs else None
        logits += head(rollouts.features[start : start + BATCH], extra).tolist()

    def candidate(i: int) -> Candidate:
        outcome = rollouts.outcomes[i]
        return Candidate(
            score=aggregate(logits[rollouts.starts[i] : rollouts.starts[i + 1]], aggregation),
            right=None if outcome == UNGRADABLE else outcome == 1,
            closed=rollouts.closed[i],
            mean_logprob=rollouts.mean_logprobs[i],
            group=rollouts.answers[i],
            index=i,
        )

    return [[candidate(i) for i in group] for group in rollouts.groups()]


def _told(within: float | None, overall: float | None) -> str:
    shown = [math.nan if value is None else value for value in (within, overall)]
    return f"within problems {shown[0]:.4f}, over all {shown[1]:.4f}"


def _aucs(candidates: Sequence[Sequence[Candidate]]) -> tuple[float | None, float | None]:
    within = within_problem_auc([[(c.score, c.right) for c in group] for group in candidates])
    every = [c for group in candidates for c in group]
    return within, auc([c.score for c in every], [c.right for c in every])


__all__ = ["HeadConfig", "HeadResult", "candidates_of", "fit_exponent", "fit_head", "train_head"]
