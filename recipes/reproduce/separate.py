"""Study 3: one shared backbone with a head, against a separate reward model of the same size.

Claim: a head of a few percent of the parameters, on the backbone that is there anyway, judges as well as a reward
model of its own (paper, section 4.2), which has to be held in memory and to read every trajectory again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import judges
import numpy as np
import reward_model
import torch
from findings import Findings, Sheet
from heads import fit, head_config, judge_test, write_scored
from lab import SPLITS, Lab, json_lines, study_settings
from measures import Cell, cell, sentence, shared_amounts

from reflective.engines.torch import TorchEngine
from reflective.evaluate.bootstrap import Bootstrap
from reflective.judge.heads.paper import SPRMHead
from reflective.judge.judge import Judge, init_judge
from reflective.records import Record
from reflective.search import BestOfN, solve_many
from reflective.search import Settings as SearchSettings
from reflective.shards import load_features
from reflective.tasks.base import Split
from reflective.train.features import TokenSequence, read_features, sequences
from reflective.train.rollouts import Rollouts
from reflective.types import Problem

NAME = "separate"
NEEDS: Sequence[Split] = SPLITS
TITLE = "A shared backbone against a separate reward model"
QUESTION = (
    "A head on the frozen, shared backbone, and a second copy of the backbone, all of which learns to judge: the same "
    "trajectories, the same outcomes; what each knows, weighs and costs."
)
SHARED_HEAD, SEPARATE = "shared head", "separate model"
TIMES, COUNTS = "times.jsonl", "parameters.json"
REPEATS = 3  # of a timing; the fastest counts, the others waited for something else
WITH, WITHOUT, SECOND = "with_head", "without_head", "second_pass"


def collect(lab: Lab, folder: Path) -> None:
    """Trains both judges with each seed, lets both judge, and times them problem by problem."""
    settings, study = lab.settings, lab.settings.separate
    train, steps = lab.steps("train", study.train_problems)
    held_out, held_steps = lab.steps("validation", study.validation_problems)
    test, test_steps = lab.steps("test", study.test_problems)
    read_features(lab.reader, lab.sprm.format, train, [reward_model.PLACE], folder / "features", lab.note)
    read = load_features(folder / "features", reward_model.PLACE)
    for seed in settings.seeds:
        config = head_config(settings.model, seed, settings.head)
        target = judges.folder_of(folder, SHARED_HEAD, seed)
        if not judges.is_written(target):
            lab.note(f"shared head, seed {seed}")
            head = fit(config, Rollouts.of(train, steps), Rollouts.of(held_out, held_steps), lab.sprm, lab.note)
            judge_test(head, test, test_steps, target, config.aggregation)
        target = judges.folder_of(folder, SEPARATE, seed)
        if not judges.is_written(target):
            lab.note(f"separate reward model, seed {seed}")
            model = _new(lab, seed)
            reward_model.standardise(model.head, torch.cat([read[record.key].features for record in train]))
            data, validation = (_paired(lab, part) for part in (train, held_out))
            reward_model.train(model, data, validation, study, seed, lab.note)
            logits = reward_model.score(model, [rows for _, rows in _paired(lab, test)])
            write_scored(target, test, test_steps, logits, config.aggregation)
    _time(lab, folder)


def _new(lab: Lab, seed: int) -> reward_model.RewardModel:
    checkpoint = lab.checkpoint()
    head = init_judge(checkpoint.model, checkpoint.tokenizer, format=lab.sprm.format, seed=seed).head
    assert isinstance(head, SPRMHead)
    backbone = checkpoint.model.get_decoder().float()  # it is trained
    return reward_model.RewardModel(backbone, head)


def _paired(lab: Lab, records: Sequence[Record]) -> list[tuple[Record, Sequence[TokenSequence]]]:
    return [(record, sequences(record, lab.sprm.format)) for record in records]


def _time(lab: Lab, folder: Path) -> None:
    """Seconds of each way, one problem at a time as a user would solve it; a line a problem."""
    study, settings = lab.settings.separate, lab.search_settings("test")
    path = folder / TIMES
    done = {row["problem"] for row in json_lines(path)}
    records = [record for record in lab.records("test", study.timed_problems) if record.key not in done]
    if not records:
        return
    separate = _new(lab, lab.settings.seeds[0]).eval()
    shared = lab.checkpoint()
    plain = replace(lab.sprm, logprob_features=False, probability_exponent=0.0, calibration=None)
    head = SPRMHead(plain.hidden_size)  # as those that are compared; what it says costs as much
    parameters = {"backbone": sum(p.numel() for p in shared.model.parameters())}
    parameters |= {"head": sum(p.numel() for p in head.parameters()), "separate": separate.parameter_count}
    (folder / COUNTS).write_text(json.dumps(parameters) + "\n", encoding="utf-8")
    rows = lab.settings.data.rows
    engines = {
        WITH: TorchEngine(shared.model, shared.tokenizer, Judge(plain, head), max_rows=rows),
        WITHOUT: TorchEngine(lab.checkpoint().model, shared.tokenizer, Judge(plain), max_rows=rows),
    }
    k = len(records[0].trajectories)
    for number, record in enumerate(records):
        written = sequences(record, lab.sprm.format)
        ways: dict[str, Callable[[], Any]] = {
            name: partial(_solve, engine, record.problem, k, settings) for name, engine in engines.items()
        }
        ways[SECOND] = partial(reward_model.score, separate, [written])
        order = list(ways) if number % 2 else list(ways)[::-1]  # in turn, so that nothing is always first
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(REPEATS):
            for name in order:
                began = time.perf_counter()
                ways[name]()
                taken[name].append(time.perf_counter() - began)
        fastest = {name: min(seconds) for name, seconds in taken.items()}
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"problem": record.key, **fastest}) + "\n")
    for engine in engines.values():
        engine.close()


def _solve(engine: TorchEngine, problem: Problem, k: int, settings: SearchSettings) -> None:
    for _ in solve_many(engine, [problem], k, strategy=BestOfN("all"), settings=settings):
        pass


def figures(root: Path) -> Findings:
    """From what both said of the test trajectories, and from the times."""
    settings = study_settings(root, NAME)
    seeds, study = settings["seeds"], settings["study"]
    fewer = {split: study[f"{split}_problems"] for split in SPLITS}
    found = judges.judges_of(root / NAME, (SHARED_HEAD, SEPARATE), seeds, SHARED_HEAD)
    times = json_lines(root / NAME / TIMES)
    with_head, without, second = (np.array([row[name] for row in times]) for name in (WITH, WITHOUT, SECOND))
    parameters = json.loads((root / NAME / COUNTS).read_text(encoding="utf-8"))
    bootstrap = Bootstrap(len(times))
    head_cost, separate_cost = (
        bootstrap.ratios(extra[:, None], without[:, None])[0] for extra in (with_head - without, second)
    )
    ways = ((SHARED_HEAD, "head", with_head, head_cost), (SEPARATE, "separate", without + second, separate_cost))
    costs = [
        [name, f"{parameters[part]:,}", cell([seconds], unit="seconds"), _ratio(cost.to_json())]
        for name, part, seconds, cost in ways
    ]
    weight = (
        f"The head has {parameters['head'] / parameters['backbone']:.1%} of the backbone's parameters, a separate one "
        f"{parameters['separate'] / parameters['backbone']:.1%}."
    )
    return Findings(
        [
            *judges.sheets("What each knows", found, SHARED_HEAD),
            Sheet(
                "What each adds to the backbone",
                ["", "parameters", "seconds a problem, generation included", "seconds added / generation alone"],
                costs,
            ),
        ],
        [
            *judges.sentences(found, SHARED_HEAD),
            weight,
            sentence("Time that the head adds to generation (share)", head_cost.to_json()),
            sentence("Time that the separate model adds (share)", separate_cost.to_json()),
        ],
        [judges.curves("separate", "Right answers, shared head and separate model", found)],
        [f"{NAME}/{name}-{seed}" for name in (SHARED_HEAD, SEPARATE) for seed in seeds] + [f"{NAME}/{TIMES}"],
        amounts=f"{shared_amounts(settings['data'], **fewer)}; the second model learns for {study['epochs']} epochs; "
        f"{len(times)} problems timed, {REPEATS} times each",
    )


def _ratio(interval: dict[str, Any]) -> Cell:
    return {**interval, "unit": "number"}
