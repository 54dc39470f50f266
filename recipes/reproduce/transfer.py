"""Study 5: a head asked about families of problems that it was not trained on.

Claim: what the head learns is not the task but how a good step looks, so it also judges problems of other kinds
(paper, section 4.4). Every test problem is judged by a head that has never seen its family ("unseen") and by one that
has seen all, fitted on as many problems ("seen").
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import judges
from findings import Findings, Sheet
from heads import fit, head_config, logits_of, write_scored
from lab import SPLITS, Lab, study_settings
from measures import cell, difference_cell, effort_name, shared_amounts, table_of

from reflective.errors import InputError
from reflective.judge.heads.paper import SPRMHead
from reflective.records import Record
from reflective.shards import Steps
from reflective.tasks.base import Split
from reflective.train.rollouts import Rollouts

NAME = "transfer"
NEEDS: Sequence[Split] = SPLITS
TITLE = "Families that the head has never seen"
QUESTION = (
    "The families are cut into folds; a head is fitted on all folds but one and judges that one. The policy has seen "
    "all families; it is the judgement that has to carry over."
)
SEEN, UNSEEN = "seen", "unseen"
ALL = ""  # the head that judges every family


def collect(lab: Lab, folder: Path) -> None:
    """Fits a head without each fold, and one with all, for each seed."""
    settings, folds = lab.settings, lab.settings.transfer.folds
    records, steps = lab.steps("train")
    held, held_steps = lab.steps("validation")
    named = {family for fold in folds for family in fold}
    missing = {record.problem.family for record in records} - named
    if missing:
        raise InputError(f"transfer.folds leave out {', '.join(sorted(missing))}; every family must be in one.")
    test, test_steps = lab.steps("test", settings.transfer.test_problems)

    def fitted(seed: int, train: Sequence[Record], validation: Sequence[Record]) -> SPRMHead:
        config = head_config(settings.model, seed, settings.head)
        return fit(config, Rollouts.of(train, steps), Rollouts.of(validation, held_steps), lab.sprm, lab.note)

    for seed in settings.seeds:
        targets = {name: judges.folder_of(folder, name, seed) for name in (SEEN, UNSEEN)}
        if not judges.is_written(targets[SEEN]):
            lab.note(f"head of all families, seed {seed}")
            fewer = random.Random(seed).sample(records, k=len(records) - len(records) // len(folds))
            _judge(lab, {ALL: fitted(seed, fewer, held)}, test, test_steps, targets[SEEN])
        if not judges.is_written(targets[UNSEEN]):
            heads: dict[str, SPRMHead] = {}
            for fold in folds:
                lab.note(f"head without {', '.join(fold)}, seed {seed}")
                head = fitted(seed, _without(records, fold), _without(held, fold))
                heads |= dict.fromkeys(fold, head)
            _judge(lab, heads, test, test_steps, targets[UNSEEN])


def _without(records: Sequence[Record], families: Sequence[str]) -> list[Record]:
    return [record for record in records if record.problem.family not in families]


def _judge(
    lab: Lab, heads: Mapping[str, SPRMHead], test: Sequence[Record], steps: Mapping[str, Steps], target: Path
) -> None:
    """Each test problem by the head of its family, or by the one that judges all."""
    logits = [logits_of(heads[r.problem.family if r.problem.family in heads else ALL], [r], steps)[0] for r in test]
    write_scored(target, test, steps, logits, lab.sprm.aggregation)


def figures(root: Path) -> Findings:
    """From what both kinds of heads said of the test trajectories."""
    settings = study_settings(root, NAME)
    seeds = settings["seeds"]
    found = judges.judges_of(root / NAME, (SEEN, UNSEEN), seeds, SEEN)
    seen, unseen = found[SEEN], found[UNSEEN]
    families = table_of(judges.folder_of(root / NAME, SEEN, seeds[0])).families
    rows = []
    for family in sorted(set(families)):
        mine = [name == family for name in families]
        of = {name: ([a[mine] for a in j.auc], [a[mine] for a in j.best[-1]]) for name, j in found.items()}
        rows.append(
            [
                family,
                *(cell(of[name][0]) for name in (SEEN, UNSEEN)),
                difference_cell(of[UNSEEN][0], of[SEEN][0]),
                *(cell(of[name][1]) for name in (SEEN, UNSEEN)),
            ]
        )
    best = effort_name(seen.ks[-1])
    head = ["family", "AUC, seen", "AUC, unseen", "difference in points", f"{best}, seen", f"{best}, unseen"]
    told = shared_amounts(settings["data"], test=settings["study"]["test_problems"])
    chance = difference_cell(unseen.auc, [0.5 + 0.0 * a for a in unseen.auc])
    verdict = "above" if chance["low"] > 0 else "below" if chance["high"] < 0 else "not told from"
    share = cell(unseen.auc)
    sentence = (
        f"On families that it has never seen the head's AUC within problems is {share['value']:.3f} "
        f"({share['low']:.3f} to {share['high']:.3f}), {verdict} chance (0.5)."
    )
    return Findings(
        [*judges.sheets("Heads that have and have not seen a family", found, SEEN), Sheet("By family", head, rows)],
        [sentence, *judges.sentences(found, SEEN)],
        [judges.curves("transfer", "Right answers on seen and unseen families", found)],
        [f"{NAME}/{name}-{seed}" for name in (SEEN, UNSEEN) for seed in seeds],
        amounts=f"{told}, of which every head gets all but one part in {len(settings['study']['folds'])}",
    )
