"""Study 6: the scaling law. Accuracy against thinking tokens times parameters, over model sizes and k.

Claim: accuracy grows with the logarithm of the computation that goes into thinking, parameters times total thinking
tokens (paper, section 4.5). All sizes are trained here, from nothing, on the same tokens by the recipe of nano.

Letters: P problems, M points (sizes × k).
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import judges
import numpy as np
from features import load_features, read_features
from findings import Findings, Sheet, line, plot
from heads import fit, head_config, judge_test, rollouts_of, write_scored
from lab import BEFORE, SEEDS, SPLITS, Lab, count_lines, engine_of, search_settings, study_settings
from measures import cell, effort_name, efforts_shown, of_interval, over_seeds, same_problems, sentence, table_of
from sampling import load, sample
from settings import merged

from reflective.checkpoint import SPRMConfig, init_head, load_checkpoint
from reflective.errors import TrainingError
from reflective.evaluate.bootstrap import Bootstrap, Interval
from reflective.evaluate.manifest import RECORDS
from reflective.evaluate.metrics.subsets import best_of_k, budgets
from reflective.evaluate.report.words import plain
from reflective.evaluate.selectors import order_keys
from reflective.evaluate.table import Floats, Table
from reflective.records import Record
from reflective.tasks import TASKS, mixture
from reflective.tasks.base import Split
from reflective.train.config import SFTConfig, make_config
from reflective.train.sft import train_sft

NAME = "scaling"
NEEDS: Sequence[Split] = ()
TITLE = "The scaling law"
QUESTION = (
    "Model sizes trained from nothing on the same tokens, each with a head of its own; right answers of the best of k "
    "by score, for every k, against parameters × total written tokens."
)
RECIPE = Path(__file__).resolve().parent.parent / "nano" / "sft.toml"
SCORED, ABOUT, TOKENIZER = "scored", "model.json", "tokenizer"


# ---- records


def collect(lab: Lab, folder: Path) -> None:
    """Trains, samples, fits a head and scores, for every size and seed."""
    if not (folder / TOKENIZER).is_dir():
        lab.checkpoint().tokenizer.save_pretrained(str(folder / TOKENIZER))
    for seed in lab.settings.seeds:
        for size in lab.settings.scaling.sizes:
            target = judges.folder_of(folder, size, seed)
            if not judges.is_written(target / SCORED):
                _one(lab, target, size, seed)


def _one(lab: Lab, target: Path, size: str, seed: int) -> None:
    """One model from nothing to scored test trajectories."""
    config = sft_config(lab, target, size, seed)
    model = target / "sft" / "model"
    if not model.is_dir():
        lab.note(f"training {size}, seed {seed}")
        if train_sft(config, report=lambda report: None, note=lambda text: None).interrupted:
            raise KeyboardInterrupt
    reader = load_checkpoint(str(model), require_head=False)
    _, sprm = init_head(reader.model, reader.tokenizer)
    records, steps = {}, {}
    for split in SPLITS:
        records[split] = _sampled(lab, model, sprm, target / split, split)
        read_features(reader.model.eval(), sprm.rule, records[split], [BEFORE], target / split / "features", lab.note)
        steps[split] = load_features(target / split / "features", BEFORE)
    judge = head_config(lab.settings.model, seed, lab.settings.head)
    remark = ""
    try:
        train, validation = (rollouts_of(records[split], steps[split]) for split in ("train", "validation"))
        head = fit(judge, train, validation, sprm, lab.note)
    except TrainingError as error:  # a model that is never right, or ends no step, leaves nothing to learn from
        remark = f"{size}, seed {seed}, has no head, and selects by log-probability: {error}"
        lab.note(f"  {remark}")
    parameters = sum(p.numel() for p in reader.model.parameters())
    about = {"parameters": parameters, "trained_tokens": config.max_tokens, "remark": remark}
    (target / ABOUT).write_text(json.dumps(about) + "\n", encoding="utf-8")
    if remark:
        unscored: list[list[list[float]]] = [[[] for _ in record.trajectories] for record in records["test"]]
        write_scored(target / SCORED, records["test"], steps["test"], unscored, judge.aggregation)
    else:
        judge_test(head, records["test"], steps["test"], target / SCORED, judge.aggregation)


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
    recipe = tomllib.loads(RECIPE.read_text(encoding="utf-8"))
    recipe["data"]["families"] = dict.fromkeys(_families(lab), 1)
    return make_config(SFTConfig, merged(recipe, study.supervised, ours))


def _families(lab: Lab) -> list[str]:
    return list(lab.settings.scaling.families or lab.settings.data.families or TASKS)


def _sampled(lab: Lab, model: Path, sprm: SPRMConfig, folder: Path, split: Split) -> list[Record]:
    """Trajectories of a trained model."""
    study, data = lab.settings.scaling, lab.settings.data
    count: int = getattr(study, f"{split}_problems")
    if count_lines(folder / RECORDS) >= count:
        return load(folder)
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
    b_error: float  # the standard error of b, of resampled problems
    residual: float  # root mean square, in shares
    explained: float  # R²

    def at(self, compute: float) -> float:
        """What the law says."""
        return self.a.value + self.b.value * float(np.log10(compute))


def law(compute: Floats, accuracy: Floats) -> Law:
    """The least-squares line through M points, (M,) and (P, M): each problem's share of right answers at each point.

    The line is linear in the accuracies, so its coefficients are the means over problems of the coefficients that each
    problem's own accuracies give, and are resampled like any mean. The abscissae are taken as given.
    """
    x = np.log10(compute)
    centred = x - x.mean()
    # b = Σ_m (x_m - x̄) y_m / Σ_m (x_m - x̄)²
    b = accuracy @ centred / (centred @ centred)  # (P, M) @ (M,) -> (P,)
    a = accuracy.mean(1) - b * x.mean()  # (P,)
    bootstrap = Bootstrap(len(b))
    intervals = bootstrap.means(np.stack([a, b], axis=1))
    drawn = np.concatenate([counts @ b / counts.sum(1) for counts in bootstrap.blocks()])  # (R,)
    y = accuracy.mean(0)  # (M,)
    rest, total = y - (a.mean() + b.mean() * x), y - y.mean()
    explained = 1.0 - float(rest @ rest) / float(total @ total) if float(total @ total) > 0 else float("nan")
    return Law(intervals[0], intervals[1], float(drawn.std()), float(np.sqrt((rest**2).mean())), explained)


@dataclass(frozen=True, slots=True)
class _Size:
    """A size's points: `compute` (K,) and `accuracy` (P, K), the mean over seeds."""

    parameters: int
    tokens: float
    ks: list[int]
    accuracy: Floats

    @property
    def compute(self) -> Floats:
        # parameters × total written tokens of k trajectories
        out: Floats = self.parameters * self.tokens * np.array(self.ks, dtype=np.float64)
        return out


def _size(tables: Sequence[Table], parameters: int) -> _Size:
    ks = budgets(min(table.budget for table in tables))
    values = [best_of_k(table, order_keys(table, "best_of_n"), ks) for table in tables]
    tokens = float(np.mean([np.nanmean(np.where(table.present, table.tokens, np.nan)) for table in tables]))
    return _Size(parameters, tokens, ks, over_seeds(values))


def figures(root: Path) -> Findings:
    """From the scored test trajectories of every size and seed."""
    settings = study_settings(root, NAME)
    names, seeds = list(settings["study"]["sizes"]), settings["seeds"]
    folders = {name: [judges.folder_of(root / NAME, name, seed) for seed in seeds] for name in names}
    tables = {name: [table_of(folder / SCORED) for folder in several] for name, several in folders.items()}
    same_problems([table for several in tables.values() for table in several])
    about = {name: [_about(folder) for folder in several] for name, several in folders.items()}
    sizes = {name: _size(several, about[name][0]["parameters"]) for name, several in tables.items()}
    known = ~np.isnan(np.concatenate([size.accuracy for size in sizes.values()], axis=1)).any(1)  # (P,)
    compute = np.concatenate([size.compute for size in sizes.values()])
    accuracy = np.concatenate([size.accuracy for size in sizes.values()], axis=1)[known]
    laws = {"all sizes and k": law(compute, accuracy)}
    laws |= {f"{name}, over k": law(size.compute, size.accuracy[known]) for name, size in sizes.items()}
    ones = np.array([size.compute[0] for size in sizes.values()])
    laws["k = 1, over sizes"] = law(ones, np.stack([size.accuracy[known][:, 0] for size in sizes.values()], axis=1))
    ks = efforts_shown(min(size.ks[-1] for size in sizes.values()))
    rows = [
        [
            name,
            f"{size.parameters / 1e6:.2f}M",
            f"{size.tokens:.0f}",
            *(_accuracy(tables[name], k) for k in [1, *ks]),
        ]
        for name, size in sizes.items()
    ]
    every, edges = laws["all sizes and k"], [float(compute.min()), float(compute.max())]
    told = (
        sentence("b, in shares of right answers per decade of parameters × written tokens", every.b.to_json())
        + f" Standard error {every.b_error:.4f}; the points lie {every.residual:.3f} (rms) from the line, "
        + f"R² = {plain(every.explained)}."
    )
    return Findings(
        [
            Sheet("Sizes", ["", "parameters", "tokens a trajectory", "one", *map(effort_name, ks)], rows),
            Sheet(
                "accuracy = a + b · log10(parameters × written tokens)",
                ["points", "b", "standard error of b", "a", "residual (rms)", "R²"],
                [_law_row(name, one) for name, one in laws.items()],
            ),
        ],
        [told],
        [
            plot(
                "scaling",
                "Right answers against parameters × written tokens",
                [
                    *(_points(i, name, size) for i, (name, size) in enumerate(sizes.items())),
                    line("law", "fit", np.log10(edges).tolist(), [_flat(every.at(edge)) for edge in edges]),
                ],
                "log10 of parameters × written tokens of k trajectories",
                "right, best of k by score",
                unit_y=False,
            )
        ],
        [f"{NAME}/{name}-{seed}/{SCORED}" for name in names for seed in seeds],
        [one["remark"] for several in about.values() for one in several if one["remark"]],
    )


def _about(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    return found


def _accuracy(tables: Sequence[Table], k: int) -> dict[str, Any]:
    return cell([best_of_k(table, order_keys(table, "best_of_n"), [k])[:, 0] for table in tables])


def _law_row(name: str, one: Law) -> list[Any]:
    return [
        name,
        of_interval(one.b, unit="number"),
        plain(one.b_error),
        of_interval(one.a, unit="number"),
        plain(one.residual),
        plain(one.explained),
    ]


def _points(place: int, name: str, size: _Size) -> Any:
    intervals = Bootstrap(len(size.accuracy)).means(size.accuracy, share=True)
    return line(f"size{place}", f"{name} ({size.parameters / 1e6:.2f}M)", np.log10(size.compute).tolist(), intervals)


def _flat(value: float) -> dict[str, float]:
    return {"value": value, "low": float("nan"), "high": float("nan")}
