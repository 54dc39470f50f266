"""Study 6: the scaling law. Accuracy against thinking tokens times parameters, over model sizes and k.

Claim: accuracy grows with the logarithm of the computation that goes into thinking, parameters times total thinking
tokens (paper, section 4.5). All sizes are trained here, from nothing, on the same tokens by the recipe of nano.

Letters: P problems, M points (sizes × k).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import judges
import numpy as np
from findings import Findings, Row, Sheet, line, plot
from heads import Logits, fit, head_config, logits_of, write_scored
from lab import BEFORE, SEEDS, SPLITS, Lab, count_lines, engine_of, search_settings, study_settings
from measures import (
    Seeds,
    amounts,
    cell,
    effort_name,
    efforts_shown,
    interval,
    of_interval,
    over_resampled_seeds,
    resampled,
    same_problems,
    sentence,
    table_of,
)
from sampling import sample
from settings import merged, nano_recipe

from reflective.errors import TrainingError
from reflective.evaluate.bootstrap import Interval
from reflective.evaluate.metrics.ranking import within_problems
from reflective.evaluate.metrics.subsets import best_of_k
from reflective.evaluate.report.figures import Figure
from reflective.evaluate.report.labels import plain
from reflective.evaluate.selectors import LABELS, order_keys
from reflective.evaluate.summary import accuracy_by_problem
from reflective.evaluate.table import Floats, Table
from reflective.judge.config import JudgeConfig
from reflective.models import load_checkpoint
from reflective.records import Record
from reflective.records.manifest import RECORDS
from reflective.settings import make_settings
from reflective.shards import load_features
from reflective.tasks import TASKS, mixture
from reflective.tasks.base import Split
from reflective.train.features import read_features
from reflective.train.rollouts import Rollouts, load_records
from reflective.train.sft.config import SFTConfig
from reflective.train.sft.run import train_sft

NAME = "scaling"
NEEDS: Sequence[Split] = ()
TITLE = "The scaling law"
QUESTION = (
    "Model sizes trained from nothing on the same tokens, each with heads of its own; right answers of the best of k, "
    "for every k, against parameters × total written tokens."
)
ABOUT, HEADS, TOKENIZER = "model.json", "heads", "tokenizer"
POWERS = tuple(2**i for i in range(11))  # the k that are fitted: evenly spaced on the law's axis
OTHERS = ("logprob", "majority", "oracle")  # the same trajectories, chosen otherwise


# ---- records


def collect(lab: Lab, folder: Path) -> None:
    """Trains, samples, fits heads and scores, for every size and seed."""
    if not (folder / TOKENIZER).is_dir():
        lab.checkpoint().tokenizer.save_pretrained(str(folder / TOKENIZER))
    for seed in lab.settings.seeds:
        for size in lab.settings.scaling.sizes:
            target = judges.folder_of(folder, size, seed)
            if not all(judges.is_written(target / HEADS / head) for head in lab.settings.scaling.heads):
                _one(lab, target, size, seed)


def _one(lab: Lab, target: Path, size: str, seed: int) -> None:
    """One model from nothing to test trajectories, scored by each head."""
    config = sft_config(lab, target, size, seed)
    model = target / "sft" / "model"
    if not model.is_dir():
        lab.note(f"training {size}, seed {seed}")
        if train_sft(config, report=lambda report: None, note=lambda text: None).interrupted:
            raise KeyboardInterrupt
    reader = load_checkpoint(str(model), require_head=False)
    sprm = reader.judge.config
    records, steps = {}, {}
    for split in SPLITS:
        records[split] = _sampled(lab, model, sprm, target / split, split)
        read_features(reader.model.eval(), sprm.format, records[split], [BEFORE], target / split, lab.note)
        steps[split] = load_features(target / split, BEFORE)
    train, validation = (Rollouts.of(records[split], steps[split]) for split in ("train", "validation"))
    remarks: list[str] = []
    said: dict[str, Logits] = {}
    for head, table in lab.settings.scaling.heads.items():
        judge = head_config(lab.settings.model, seed, lab.settings.head, table)
        try:
            fitted = fit(judge, train, validation, sprm, lab.note)
            said[head] = logits_of(fitted, records["test"], steps["test"])
        except TrainingError as error:  # a model that is never right, or ends no step, leaves nothing to learn from
            remarks.append(f"{size}, seed {seed}: without {head}, log-probabilities select: {error}")
            lab.note(f"  {remarks[-1]}")
            said[head] = [[[] for _ in record.trajectories] for record in records["test"]]
    parameters = sum(p.numel() for p in reader.model.parameters())
    about = {"parameters": parameters, "trained_tokens": config.max_tokens, "remarks": remarks}
    (target / ABOUT).write_text(json.dumps(about) + "\n", encoding="utf-8")
    for head, logits in said.items():  # last: with them a model counts as done
        write_scored(target / HEADS / head, records["test"], steps["test"], logits, judge.aggregation)


def sft_config(lab: Lab, target: Path, size: str, seed: int) -> SFTConfig:
    """The recipe of nano with this size; the same data for every size."""
    study, data = lab.settings.scaling, lab.settings.data
    ours: Mapping[str, Any] = {
        "output": str(target / "sft"),
        "tokenizer": str(target.parent / TOKENIZER),
        "seed": seed,
        "tensorboard": False,
        "data": {
            "levels": list(study.levels or data.levels),
            "cache": str(target.parent / "cache"),
            "validation_examples": 0,
        },
        "architecture": study.sizes[size],
    }
    recipe = nano_recipe()
    recipe["data"]["families"] = dict.fromkeys(_families(lab), 1)
    return make_settings(SFTConfig, merged(recipe, study.supervised, ours))


def _families(lab: Lab) -> list[str]:
    return list(lab.settings.scaling.families or lab.settings.data.families or TASKS)


def _sampled(lab: Lab, model: Path, sprm: JudgeConfig, folder: Path, split: Split) -> list[Record]:
    """Trajectories of a trained model."""
    study, data = lab.settings.scaling, lab.settings.data
    count: int = getattr(study, f"{split}_problems")
    if count_lines(folder / RECORDS) >= count:
        return load_records(folder)
    checkpoint = load_checkpoint(str(model), require_head=False)
    problems = list(mixture(split, count, study.levels or data.levels, _families(lab), data.seed))
    engine = engine_of(checkpoint, sprm, max_rows=data.rows)
    k = study.trajectories if split == "test" else study.train_trajectories
    found = sample(engine, problems, k, folder, search_settings(data, SEEDS[split]), lab.note, keep_ids=True)
    engine.close()
    return found


# ---- the law


@dataclass(frozen=True, slots=True)
class Law:
    """accuracy = a + b · log10(compute): its coefficients with intervals, and how far the points lie from it."""

    a: Interval
    b: Interval
    b_error: float  # the standard error of b, over resamples
    residual: float  # root mean square, in shares
    explained: float  # R²

    def at(self, compute: float) -> float:
        """What the law says."""
        return self.a.value + self.b.value * float(np.log10(compute))


def law(compute: Floats, accuracy: Seeds) -> Law:
    """The least-squares line through M points, (M,), and each problem's share of right answers there, (P, M) a seed.

    The line is linear in the accuracies, so its coefficients are the means over problems of the coefficients that each
    problem's own accuracies give, and are resampled like any mean. Points and abscissae are taken as given: what is
    resampled are problems and seeds, not sizes.
    """
    x = np.log10(compute)
    centred = x - x.mean()
    # b = Σ_m (x_m - x̄) y_m / Σ_m (x_m - x̄)²
    b = [y @ centred / (centred @ centred) for y in accuracy]  # (P, M) @ (M,) -> (P,)
    a = [y.mean(1) - slope * x.mean() for y, slope in zip(accuracy, b, strict=True)]  # (P,)
    line_a, line_b = interval(a), interval(b)
    error = float(np.nanstd(over_resampled_seeds(*resampled(b))))
    y = np.mean([np.nanmean(one, axis=0) for one in accuracy], axis=0)  # (M,)
    rest, total = y - (line_a.value + line_b.value * x), y - y.mean()
    explained = 1.0 - float(rest @ rest) / float(total @ total) if float(total @ total) > 0 else float("nan")
    return Law(line_a, line_b, error, float(np.sqrt((rest**2).mean())), explained)


@dataclass(frozen=True, slots=True)
class _Size:
    """A size's points: `compute` (K,) and, by what chooses, `accuracy` (P, K), a seed each. `auc` is a head's (P,)."""

    parameters: int
    tokens: float
    ks: list[int]
    accuracy: Mapping[str, Sequence[Floats]]
    auc: Mapping[str, Sequence[Floats]]

    @property
    def compute(self) -> Floats:
        # parameters × total written tokens of k trajectories
        out: Floats = self.parameters * self.tokens * np.array(self.ks, dtype=np.float64)
        return out


def _size(tables: Mapping[str, Sequence[Table]], parameters: int) -> _Size:
    """A size from the tables of each head, a seed each; all of them hold the same trajectories of a seed."""
    first = next(iter(tables.values()))
    ks = [k for k in POWERS if k <= min(table.budget for table in first)]
    accuracy = {
        head: [best_of_k(table, order_keys(table, "best_of_n"), ks) for table in several]
        for head, several in tables.items()
    }
    auc = {head: [within_problems(t, t.scores["score"])[0] for t in several] for head, several in tables.items()}
    others = [accuracy_by_problem(table, ks) for table in first]
    accuracy |= {LABELS[name]: [o[name] for o in others] for name in OTHERS if all(name in o for o in others)}
    tokens = float(np.mean([np.nanmean(np.where(table.present, table.tokens, np.nan)) for table in first]))
    return _Size(parameters, tokens, ks, accuracy, auc)


def figures(root: Path) -> Findings:
    """From the scored test trajectories of every size and seed."""
    settings = study_settings(root, NAME)
    study, seeds = settings["study"], settings["seeds"]
    names = list(study["sizes"])
    folders = {name: [judges.folder_of(root / NAME, name, seed) for seed in seeds] for name in names}
    about = {name: [_about(folder) for folder in several] for name, several in folders.items()}
    heads = list(study["heads"])
    families = ", ".join(study["families"] or settings["data"]["families"]) or "all families"
    tables = {
        name: {head: [table_of(folder / HEADS / head) for folder in several] for head in heads}
        for name, several in folders.items()
    }
    same_problems([table for by_head in tables.values() for several in by_head.values() for table in several])
    sizes = {name: _size(by_head, about[name][0]["parameters"]) for name, by_head in tables.items()}
    every = list(sizes.values())
    choosers = [name for name in every[0].accuracy if all(name in size.accuracy for size in every)]
    laws = {f"all sizes and k, {chooser}": _law(every, chooser) for chooser in choosers}
    laws["one sample, all sizes"] = _law(every, heads[0], columns=1)
    by_size = {f"{name}, all k, {head}": _law([size], head) for name, size in sizes.items() for head in heads}
    ks = efforts_shown(min(size.ks[-1] for size in every))
    return Findings(
        [
            Sheet(
                "Sizes",
                ["", "parameters", "tokens per trajectory", *(f"AUC within problems, {head}" for head in heads)],
                _size_rows(sizes),
            ),
            Sheet("Right answers", ["", "chosen by", "one", *map(effort_name, ks)], _right_rows(sizes, choosers, ks)),
            Sheet(
                "accuracy = a + b · log10(parameters × written tokens)",
                ["points", "b", "standard error of b", "a", "residual (rms)", "R²"],
                [_law_row(points, found) for points, found in {**laws, **by_size}.items()],
            ),
        ],
        [_told(points, found) for points, found in laws.items()],
        [_plot(i, head, sizes, laws[f"all sizes and k, {head}"]) for i, head in enumerate(heads)],
        [f"{NAME}/{name}-{seed}/{HEADS}/{head}" for name in names for seed in seeds for head in heads],
        [remark for several in about.values() for one in several for remark in one["remarks"]],
        f"{about[names[0]][0]['trained_tokens']:,} tokens of {families}; "
        + amounts(
            train=(study["train_problems"], study["train_trajectories"]),
            validation=(study["validation_problems"], study["train_trajectories"]),
            test=(study["test_problems"], study["trajectories"]),
        ),
    )


def _about(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    return found


def _law(sizes: Sequence[_Size], chooser: str, columns: int | None = None) -> Law:
    """The law through the points of these sizes, of each the first `columns` k."""
    compute = np.concatenate([size.compute[:columns] for size in sizes])
    seeds = zip(*(size.accuracy[chooser] for size in sizes), strict=True)  # of each seed, every size's (P, K)
    return law(compute, [np.concatenate([one[:, :columns] for one in same], axis=1) for same in seeds])


def _size_rows(sizes: Mapping[str, _Size]) -> list[Row]:
    return [
        [name, f"{size.parameters / 1e6:.2f}M", f"{size.tokens:.0f}", *map(cell, size.auc.values())]
        for name, size in sizes.items()
    ]


def _right_rows(sizes: Mapping[str, _Size], choosers: Sequence[str], ks: Sequence[int]) -> list[Row]:
    return [
        [name, chooser, *(cell([one[:, size.ks.index(k)] for one in size.accuracy[chooser]]) for k in [1, *ks])]
        for name, size in sizes.items()
        for chooser in choosers
    ]


def _told(points: str, found: Law) -> str:
    """A law in words."""
    return (
        sentence(f"Slope b, in shares right per decade of parameters × written tokens, {points}", found.b.to_json())
        + f" Standard error {found.b_error:.4f}; the points lie {found.residual:.3f} (rms) from the line, "
        + f"R² = {plain(found.explained)}."
    )


def _law_row(name: str, one: Law) -> list[Any]:
    return [
        name,
        of_interval(one.b, unit="number"),
        plain(one.b_error),
        of_interval(one.a, unit="number"),
        plain(one.residual),
        plain(one.explained),
    ]


def _plot(place: int, head: str, sizes: Mapping[str, _Size], fitted: Law) -> Figure:
    """A head's points, a line a size, and the law through all of them."""
    compute = np.concatenate([size.compute for size in sizes.values()])
    edges = [float(compute.min()), float(compute.max())]
    points = [
        line(
            f"size{i}",
            f"{name} ({size.parameters / 1e6:.2f}M)",
            np.log10(size.compute).tolist(),
            [interval([one[:, j] for one in size.accuracy[head]], share=True) for j in range(len(size.ks))],
        )
        for i, (name, size) in enumerate(sizes.items())
    ]
    return plot(
        f"scaling{place + 1}",
        f"Right answers against parameters × written tokens, {head}",
        [*points, line("law", "fit", np.log10(edges).tolist(), [_flat(fitted.at(edge)) for edge in edges])],
        "log10 of parameters × written tokens of k trajectories",
        f"right, best of k by {head}",
        unit_y=False,
    )


def _flat(value: float) -> dict[str, float]:
    return {"value": value, "low": float("nan"), "high": float("nan")}
