"""Study 8: which layer the head reads, and at the step token or before it.

Claim: the paper takes the second-to-last layer; its code reads the position that the step token is drawn from, which
is what makes scoring free. What do other layers, and the step token's own position, hold?
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import judges
from findings import Findings
from heads import fit, head_config, judge_test
from lab import BEFORE, SPLITS, Lab, study_settings
from measures import shared_amounts

from reflective.shards import Place, load_features
from reflective.tasks.base import Split
from reflective.train.features import read_features
from reflective.train.rollouts import Rollouts

NAME = "reading"
NEEDS: Sequence[Split] = SPLITS
TITLE = "Where the head reads"
QUESTION = (
    "Heads on other layers (−2 is what enters the last one, −1 what leaves the final norm), before the step token and "
    "at it, from one pass over the same trajectories. Only “before” can be had while a token is drawn."
)


def collect(lab: Lab, folder: Path) -> None:
    """Reads the shared trajectories at all places, fits a head on each with each seed."""
    settings = lab.settings
    wanted = places(settings.reading.layers)
    counts = {"train": settings.reading.train_problems, "validation": None, "test": settings.reading.test_problems}
    records = {split: lab.records(split, counts[split]) for split in SPLITS}
    for split in SPLITS:
        read_features(lab.reader, lab.sprm.format, records[split], wanted, folder / "features" / split, lab.note)
    for place in wanted:
        steps = {split: load_features(folder / "features" / split, place) for split in SPLITS}
        train, validation = (Rollouts.of(records[split], steps[split]) for split in ("train", "validation"))
        for seed in settings.seeds:
            target = judges.folder_of(folder, name_of(place), seed)
            if not judges.is_written(target):
                lab.note(f"head at {name_of(place)}, seed {seed}")
                config = head_config(settings.model, seed, settings.head)
                head = fit(config, train, validation, lab.sprm, lab.note)
                judge_test(head, records["test"], steps["test"], target, config.aggregation)


def figures(root: Path) -> Findings:
    """From what each head said of the test trajectories."""
    settings = study_settings(root, NAME)
    names, seeds = [name_of(place) for place in places(settings["study"]["layers"])], settings["seeds"]
    found = judges.judges_of(root / NAME, names, seeds, name_of(BEFORE))
    return Findings(
        judges.sheets("Heads by place", found, name_of(BEFORE)),
        judges.sentences(found, name_of(BEFORE)),
        [judges.curves("reading", "Right answers by where the head reads", found)],
        [f"{NAME}/{name}-{seed}" for name in names for seed in seeds],
        amounts=shared_amounts(
            settings["data"], train=settings["study"]["train_problems"], test=settings["study"]["test_problems"]
        ),
    )


def places(layers: list[int] | tuple[int, ...]) -> list[Place]:
    """All of them, the shipped head's among them in any case."""
    wanted = [Place(layer, position) for layer in layers for position in ("before", "at")]
    return wanted if BEFORE in wanted else [BEFORE, *wanted]


def name_of(place: Place) -> str:
    """For people and for folders."""
    return f"layer {place.layer} {place.position}"
