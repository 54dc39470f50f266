"""Study 4: the aha moment. When does the judge begin to tell right from wrong, and what lets it?

Claim: after some steps of joint training the scores of right and of wrong trajectories part (paper, section 4.4). The
runs here begin with a fresh head on the trained policy and differ in the filter of the SPR loss and in how much of the
head's gradient reaches the backbone.

    gap = mean S over right trajectories - mean S over wrong ones
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from findings import Findings, Sheet, line, plot
from joint_runs import TRAINED, Look, begin, look_at, look_folder, run_to, steps_told, tidy
from lab import Lab, study_settings
from measures import (
    Cell,
    amounts,
    cell,
    combined,
    difference,
    of_interval,
    same_problems,
    selection,
    sentence,
    table_of,
)

from reflective.evaluate.bootstrap import Bootstrap, Interval
from reflective.evaluate.report.figures import Series
from reflective.evaluate.table import Floats, Table
from reflective.judge.judge import init_judge
from reflective.tasks.base import Split
from reflective.train.joint.reporting import read_curves

NAME = "aha"
NEEDS: Sequence[Split] = ()
TITLE = "The aha moment"
QUESTION = (
    "The gap between the mean scores of right and of wrong trajectories on test problems, over joint training from a "
    "fresh head; by filter of the loss and by the share of the head's gradient that reaches the backbone."
)


def collect(lab: Lab, folder: Path) -> None:
    """Runs every variant with every seed, looking at each on its way."""
    settings = lab.settings.aha
    look = Look(settings.test_problems, settings.trajectories)
    for seed in lab.settings.seeds:
        checkpoint = lab.checkpoint()
        fresh = init_judge(checkpoint.model, checkpoint.tokenizer, format=lab.sprm.format, seed=seed)
        start = begin(lab, folder / f"start-{seed}" / "model", fresh)
        look_at(lab, start, look_folder(start.parent, 0), look)
        for variant, table in settings.variants.items():
            run = folder / f"{variant}-{seed}"
            for steps in settings.stages:
                run_to(lab, run, start, steps, seed, table, look)
            tidy(run)


def figures(root: Path) -> Findings:
    """From the records of every look, and for the curves from what the trainer told of each step."""
    settings = study_settings(root, NAME)
    study, seeds = settings["study"], settings["seeds"]
    variants, stages = list(study["variants"]), [0, *study["stages"]]

    def tables(variant: str, steps: int) -> list[Table]:
        runs = [root / NAME / (f"start-{seed}" if steps == 0 else f"{variant}-{seed}") for seed in seeds]
        return [table_of(look_folder(run, steps)) for run in runs]

    looks = {v: [tables(v, steps) for steps in stages] for v in variants}
    same_problems([table for rows in looks.values() for several in rows for table in several])
    gaps = {v: [gap(several) for several in rows] for v, rows in looks.items()}
    found = {v: [[selection(t, [t.budget]) for t in several] for several in rows] for v, rows in looks.items()}
    heads = ["", "fresh", *(f"step {steps}" for steps in stages[1:])]
    auc = [[v, *(cell([s["auc"] for s in seeds_]) for seeds_ in rows)] for v, rows in found.items()]
    single = [[v, *(cell([s["single"] for s in seeds_]) for seeds_ in rows)] for v, rows in found.items()]
    first = variants[0]
    apart = {v: gap_difference(looks[v][-1], looks[first][-1]) for v in variants if v != first}
    return Findings(
        [
            Sheet("Gap, right − wrong", heads, [[v, *map(of_interval, row)] for v, row in gaps.items()]),
            Sheet(
                f"Gap after {stages[-1]} steps, difference from {first}",
                ["", "difference"],
                [[f"{v} − {first}", _number(interval)] for v, interval in apart.items()],
            ),
            Sheet("AUC within problems, of those with right and wrong trajectories at that step", heads, auc),
            Sheet("One sample, right", heads, single),
        ],
        [
            *(opening(v, stages, row) for v, row in gaps.items()),
            *(sentence(f"Gap of {v} − gap of {first}", interval.to_json()) for v, interval in apart.items()),
            *_ranking(found, first),
            *_policy(found, stages[-1]),
        ],
        [
            plot(
                "gap",
                "Gap on test problems over joint training",
                [line(f"variant{i}", v, stages, row) for i, (v, row) in enumerate(gaps.items())],
                "optimizer step",
                "mean score of right − of wrong",
                unit_y=False,
            ),
            plot(
                "gap_while_training",
                "Gap of the trajectories that were trained on",
                [_curve(root / NAME, v, i, seeds, "spr/gap") for i, v in enumerate(variants)],
                "optimizer step",
                "mean score of right − of wrong",
                caption="Means over the seeds whose step had both; no interval, since each step draws other problems.",
                unit_y=False,
            ),
        ],
        [f"{NAME}/{v}-{seed}/step-*" for v in variants for seed in seeds],
        amounts=f"{steps_told(settings, stages[-1])}; {amounts(test=(study['test_problems'], study['trajectories']))}",
    )


def _ranking(found: Mapping[str, Sequence[Sequence[Mapping[str, Floats]]]], first: str) -> list[str]:
    """What each last judge knows within problems against the first's: a gap also tells hard problems from easy ones."""
    last = {v: [one["auc"] for one in looks[-1]] for v, looks in found.items()}
    name = "the AUC within problems of"
    return [
        difference(auc, last[first]).sentence(f"{name} {v}", f"that of {first}")
        for v, auc in last.items()
        if v != first
    ]


def _policy(found: Mapping[str, Sequence[Sequence[Mapping[str, Floats]]]], steps: int) -> list[str]:
    """What became of one sample."""
    single = {v: [[one["single"] for one in look] for look in looks] for v, looks in found.items()}
    return [
        difference(looks[-1], looks[0]).sentence(f"one sample after {steps} steps of {v}", "one before")
        for v, looks in single.items()
    ]


def gap(tables: Sequence[Table]) -> Interval:
    """The gap over the trajectories of each seed, averaged over seeds; resampled are problems and seeds."""
    points, drawn = _gaps(tables)
    return combined(points, drawn, problems=tables[0].problems)


def gap_difference(a: Sequence[Table], b: Sequence[Table]) -> Interval:
    """The gap of A minus that of B, seed by seed, on the same problems, resampled together."""
    (one, one_drawn), (other, other_drawn) = _gaps(a), _gaps(b)
    return combined(one - other, one_drawn - other_drawn, problems=a[0].problems)


def _gaps(tables: Sequence[Table]) -> tuple[Floats, Floats]:
    """The gap of each seed: as it is, (S,), and in resamples of problems, (R, S)."""
    sums, problems = [_sums(table) for table in tables], tables[0].problems

    def gaps(counts: Floats) -> Floats:
        return np.stack([_gap(counts, one) for one in sums], axis=1)

    return gaps(np.ones((1, problems)))[0], np.concatenate([gaps(counts) for counts in Bootstrap(problems).blocks()])


def _sums(table: Table) -> Mapping[str, Floats]:
    """Of each problem: sums of scores and counts of right and of wrong trajectories, (P,) each."""
    score = table.scores["score"]
    known = table.present & ~np.isnan(score)
    sums: dict[str, Floats] = {}
    for name, label in (("right", 1.0), ("wrong", 0.0)):
        chosen = known & (table.right == label)
        sums |= {name: np.where(chosen, score, 0.0).sum(1), f"{name} count": chosen.sum(1).astype(np.float64)}
    return sums


def _gap(counts: Floats, sums: Mapping[str, Floats]) -> Floats:
    """The gap where problem p is taken counts[r, p] times, (R, P) -> (R,)."""
    means = []
    for name in ("right", "wrong"):
        below = counts @ sums[f"{name} count"]
        means.append(np.divide(counts @ sums[name], below, out=np.full(len(counts), np.nan), where=below > 0))
    difference: Floats = means[0] - means[1]
    return difference


def opening(variant: str, stages: Sequence[int], gaps: Sequence[Interval]) -> str:
    """From which look on the interval of the gap stays above zero."""
    opened = None
    for steps, interval in zip(stages, gaps, strict=True):
        if not interval.low > 0:
            opened = None
        elif opened is None:
            opened = steps
    last = sentence(f"{variant}, gap after {stages[-1]} steps", gaps[-1].to_json())
    if opened is None:
        return f"{last} It has not opened for good within {stages[-1]} steps."
    return f"{last} It is open from " + ("the start on." if opened == 0 else f"the look after step {opened} on.")


def _number(interval: Interval) -> Cell:
    return of_interval(interval, unit="number")


def _curve(folder: Path, variant: str, place: int, seeds: Sequence[int], name: str) -> Series:
    """A figure of the training log, at each step the mean over the seeds that have told it there."""
    curves = [read_curves(folder / f"{variant}-{seed}" / TRAINED).get(name, ([], [])) for seed in seeds]
    told = [dict(zip(*curve, strict=True)) for curve in curves]
    steps = sorted({step for one in told for step in one})
    means = tuple(float(np.mean([one[step] for one in told if step in one])) for step in steps)
    return Series(f"variant{place}", variant, tuple(map(float, steps)), means)
