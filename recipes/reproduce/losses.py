"""Study 2: the SPR loss against plain BCE, on the same trajectories and with the same budget.

Claim: a head that learns only where it already agrees with the outcome is spared the wrong labels of good steps in
failed trajectories, and judges better than one that learns from all steps (paper, section 4.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import judges
from findings import Findings
from heads import fit, head_config, judge_test
from lab import SPLITS, Lab, study_settings
from measures import shared_amounts

from reflective.tasks.base import Split
from reflective.train.rollouts import Rollouts

NAME = "losses"
NEEDS: Sequence[Split] = SPLITS
TITLE = "SPR loss against plain BCE"
QUESTION = (
    "Heads fitted on the same frozen trajectories from the same starts, each as it was after the epoch that validation "
    "ranks best; they differ in the loss alone. Right and wrong trajectories of a problem weigh the same, or, with "
    "classes balanced as in the paper, those of all problems together."
)


def collect(lab: Lab, folder: Path) -> None:
    """Fits each variant with each seed and writes what it says of the test trajectories."""
    settings = lab.settings
    train, validation = (Rollouts.of(*lab.steps(split)) for split in ("train", "validation"))
    for variant, table in settings.losses.variants.items():
        for seed in settings.seeds:
            target = judges.folder_of(folder, variant, seed)
            if judges.is_written(target):
                continue
            lab.note(f"head {variant}, seed {seed}")
            config = head_config(settings.model, seed, settings.head, table)
            head = fit(config, train, validation, lab.sprm, lab.note)
            judge_test(head, *lab.steps("test", settings.losses.test_problems), target, config.aggregation)


def figures(root: Path) -> Findings:
    """From what each head said of the test trajectories."""
    settings = study_settings(root, NAME)
    variants, seeds = list(settings["study"]["variants"]), settings["seeds"]
    found = judges.judges_of(root / NAME, variants, seeds, variants[0])
    return Findings(
        judges.sheets("Heads by loss", found, variants[0]),
        judges.sentences(found, variants[0]),
        [judges.curves("losses", "Right answers by loss", found)],
        [f"{NAME}/{variant}-{seed}" for variant in variants for seed in seeds],
        amounts=shared_amounts(settings["data"], test=settings["study"]["test_problems"]),
    )
