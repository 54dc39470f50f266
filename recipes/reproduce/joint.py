"""Study 7: the head alone against policy and head together, and what training together does to the policy.

Claim: policy and judge share a backbone and can be trained together without loss to the policy, and better for it
(paper, section 4). All begin with the same policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import judges
from findings import Findings, Sheet
from heads import adapted, fit, head_config, judge_test
from joint_runs import Look, begin, joint_config, look_folder, run_to, steps_told, tidy
from lab import SHARED, SPLITS, Lab, study_settings
from measures import amounts, cell, difference, difference_cell, table_of

from reflective.evaluate.metrics.subsets import pass_at_k
from reflective.judge.heads.paper import SPRMHead
from reflective.judge.judge import Judge, init_judge
from reflective.tasks.base import Split
from reflective.train.rollouts import Rollouts

NAME = "joint"
NEEDS: Sequence[Split] = SPLITS
TITLE = "The head alone against joint training"
QUESTION = (
    "Joint runs see each of their own trajectories once, and begin with a fresh head or with a fitted one; with the "
    "coefficient of the SPR loss at 0 only the policy learns. The head alone is fitted on as many trajectories of the "
    "frozen policy, over several epochs of which validation chooses, and it is what the fitted ones begin with."
)
ALONE = "head alone"


def collect(lab: Lab, folder: Path) -> None:
    """A head alone for each seed, and every joint variant."""
    settings, study = lab.settings, lab.settings.joint
    look = Look(study.test_problems, study.trajectories)
    for seed in settings.seeds:
        starts = {"fresh": _fresh(lab, folder, seed), "fitted": _fitted(lab, folder, seed)}
        for variant, table in study.variants.items():
            run = judges.folder_of(folder, variant, seed)
            change = {key: value for key, value in table.items() if key != "start"}
            run_to(lab, run, starts[table.get("start", "fresh")], study.steps, seed, change, look)
            tidy(run)


def _fresh(lab: Lab, folder: Path, seed: int) -> Path:
    checkpoint = lab.checkpoint()
    fresh = init_judge(checkpoint.model, checkpoint.tokenizer, format=lab.sprm.format, seed=seed)
    return begin(lab, folder / f"fresh-{seed}", fresh)


def _fitted(lab: Lab, folder: Path, seed: int) -> Path:
    """The checkpoint with a head that was fitted on as many trajectories as a joint run sees, and its records."""
    target, start = judges.folder_of(folder, ALONE, seed), folder / f"fitted-{seed}"
    if judges.is_written(target) and start.is_dir():
        return start
    settings, study = lab.settings, lab.settings.joint
    config = head_config(settings.model, seed, settings.head)
    seen = joint_config(lab, start, start, study.steps, seed, {})
    wanted = study.steps * seen.rollouts.trajectories // (seen.policy.iterations * seen.policy.minibatches)
    problems = -(-wanted // settings.data.train_trajectories)
    lab.note(f"head alone on {problems:,} problems × {settings.data.train_trajectories}, seed {seed}")
    train, validation = Rollouts.of(*lab.steps("train", problems)), Rollouts.of(*lab.steps("validation"))
    head: SPRMHead = fit(config, train, validation, lab.sprm, lab.note)
    shape = replace(adapted(lab.sprm, config), probability_exponent=head.probability_exponent)
    begin(lab, start, Judge(shape, head))
    judge_test(head, *lab.steps("test", study.test_problems), target, config.aggregation)
    return start


def figures(root: Path) -> Findings:
    """From the records of the frozen policy under the head alone, and of every trained policy."""
    settings = study_settings(root, NAME)
    study, seeds = settings["study"], settings["seeds"]
    variants = list(study["variants"])
    folders = {
        ALONE: [judges.folder_of(root / NAME, ALONE, seed) for seed in seeds],
        **{
            v: [look_folder(judges.folder_of(root / NAME, v, seed), study["steps"]) for seed in seeds] for v in variants
        },
    }
    tables = {name: [table_of(folder) for folder in several] for name, several in folders.items()}
    found = judges.side_by_side(tables, ALONE)
    oracle = {name: [pass_at_k(t, [found[name].ks[-1]])[:, 0] for t in several] for name, several in tables.items()}
    before = found[ALONE].single[:1]  # of the policy as it was, the same in every seed
    rows = [["before", cell(before), "", cell(oracle[ALONE][:1])]]
    rows += [[v, cell(found[v].single), difference_cell(found[v].single, before), cell(oracle[v])] for v in variants]
    policy = Sheet(
        "The policy: one sample, and the oracle",
        ["", "pass@1", "difference from before, points", f"pass@{found[ALONE].ks[-1]}"],
        rows,
    )
    sentences = [difference(found[v].single, before).sentence(f"pass@1 after {v}", "pass@1 before") for v in variants]
    return Findings(
        [*judges.sheets("Judge and policy together", found, ALONE), policy],
        [*judges.sentences(found, ALONE), *sentences],
        [judges.curves("joint", "Right answers, head alone and joint training", found)],
        [f"{SHARED}/test", *(str(folder.relative_to(root)) for several in folders.values() for folder in several)],
        amounts=f"{steps_told(settings, study['steps'])}; "
        + amounts(test=(study["test_problems"], study["trajectories"])),
    )
