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
from lab import BEFORE, SEEDS, SPLITS, Lab, count_lines, search_settings, study_settings
from measures import cell, effort_name, efforts_shown, of_interval, over_seeds, same_problems, sentence, table_of
from sampling import load, sample
from settings import merged

from reflective.checkpoint import init_head, load_checkpoint
from reflective.engines.torch import TorchEngine
from reflective.errors import TrainingError
from reflective.evaluate.bootstrap import Bootstrap, Interval
from reflective.evaluate.manifest import RECORDS
from reflective.evaluate.metrics.subsets import best_of_k, budgets
from reflective.evaluate.selectors import order_keys
from reflective.evaluate.table import Floats, Table
from reflective.records import Record
from reflective.tasks import TASKS, mixture
from reflective.tasks.base import Split
from reflective.train.config import SFTConfig, make_config
from reflective.train.sft import train_sft

NAME = "scaling"
TITLE = "The scaling law"
QUESTION = (
    "Model sizes trained from nothing on the same tokens, each with a head of its own; right answers of the best of k "
    "by score, for every k, against parameters × total thinking tokens."
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
        records[split] = _sampled(lab, model, target / split, split)
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
    every = laws["all sizes and k"]
    told = (
        sentence("b, in shares of right answers per decade of parameters × thinking tokens", every.b.to_json())
        + f" Standard error {every.b_error:.4f}; the points lie {every.residual:.3f} (rms) from the line, "
        + f"R² = {every.explained:.3f}."
    )
    return Findings(
        [
            Sheet("Sizes", ["", "parameters", "tokens a trajectory", "one", *map(effort_name, ks)], rows),
            Sheet(
                "accuracy = a + b · log10(parameters × thinking tokens)",
                ["points", "b", "standard error of b", "a", "residual (rms)", "R²"],
                [_law_row(name, one) for name, one in laws.items()],
            ),
        ],
        [told],
        [
            plot(
                "scaling",
                "Right answers against parameters × thinking tokens",
                [
                    *(_points(i, name, size) for i, (name, size) in enumerate(sizes.items())),
                    line("law", "fit", (edge := [compute.min(), compute.max()]), [_flat(every.at(x)) for x in edge]),
                ],
                "parameters × thinking tokens of k trajectories",
                "right, best of k by score",
                log_x=True,
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
        f"{one.b_error:.4f}",
        of_interval(one.a, unit="number"),
        f"{one.residual:.4f}",
        f"{one.explained:.3f}",
    ]


def _points(place: int, name: str, size: _Size) -> Any:
    intervals = Bootstrap(len(size.accuracy)).means(size.accuracy, share=True)
    return line(f"size{place}", f"{name} ({size.parameters / 1e6:.2f}M)", size.compute.tolist(), intervals)


def _flat(value: float) -> dict[str, float]:
    return {"value": value, "low": float("nan"), "high": float("nan")}
