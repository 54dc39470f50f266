"""Several judges side by side: how well each ranks, and what selecting by it is worth.

A judge is a name and, for each seed, a folder of records with its scores. Beside them stands the mark to beat, which
needs no training: the mean log-probability of the trajectories that the plain judge has scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from findings import Sheet, line, plot
from measures import (
    Seeds,
    cell,
    difference,
    difference_cell,
    effort_name,
    efforts_shown,
    same_problems,
    selection,
    table_of,
)
from numpy.typing import NDArray

from reflective.evaluate.report.figures import Figure
from reflective.evaluate.table import Floats, Table
from reflective.records.manifest import RECORDS

UNTRAINED = "mean log-probability, no head"
BANDS_AT_MOST = 3  # in a plot; the tables and the CSV have all intervals


@dataclass(frozen=True, slots=True)
class Judge:
    """Figures of one judge, a seed each: AUC within problems, one sample, and the best of each k."""

    ks: Sequence[int]
    auc: Seeds
    single: Seeds
    best: Sequence[Seeds]


def folder_of(folder: Path, name: str, seed: int) -> Path:
    """Where the records of a judge and seed lie."""
    return folder / f"{name}-{seed}"


def is_written(folder: Path) -> bool:
    """Whether a folder has its records, which are whole where they are there."""
    return (folder / RECORDS).is_file()


def judges_of(folder: Path, names: Sequence[str], seeds: Sequence[int], plain: str) -> dict[str, Judge]:
    """The judges whose records lie in a study's folder, all of the same trajectories."""
    return side_by_side({name: [table_of(folder_of(folder, name, seed)) for seed in seeds] for name in names}, plain)


def side_by_side(tables: Mapping[str, Sequence[Table]], plain: str) -> dict[str, Judge]:
    """The judges of these tables, one a seed, at the budgets that all of them allow, and `UNTRAINED`.

    The AUC is that of the problems of which every judge has seen right and wrong trajectories, in every seed.
    """
    every = [table for several in tables.values() for table in several]
    same_problems(every)
    ks = efforts_shown(min(table.budget for table in every))
    found = {name: [selection(table, ks) for table in several] for name, several in tables.items()}
    found[UNTRAINED] = [selection(table, ks, "logprob") for table in tables[plain]]
    common = ~np.any([np.isnan(one["auc"]) for several in found.values() for one in several], axis=0)  # (P,)
    return {name: _judge(several, ks, common) for name, several in found.items()}


def _judge(found: Sequence[Mapping[str, Floats]], ks: Sequence[int], common: NDArray[np.bool_]) -> Judge:
    best = [[one["best"][:, i] for one in found] for i in range(len(ks))]
    return Judge(ks, [np.where(common, one["auc"], np.nan) for one in found], [one["single"] for one in found], best)


def sheets(title: str, judges: Mapping[str, Judge], plain: str) -> list[Sheet]:
    """Every judge's figures, and its differences from the one called `plain`."""
    base = judges[plain]
    rows = [[name, cell(j.auc), cell(j.single), *(cell(at) for at in j.best)] for name, j in judges.items()]
    differences = [
        [f"{name} − {plain}", difference_cell(j.auc, base.auc), difference_cell(j.best[-1], base.best[-1])]
        for name, j in judges.items()
        if name != plain
    ]
    efforts = [effort_name(k) for k in base.ks]
    return [
        Sheet(title, ["", "AUC within problems", "one sample", *efforts], rows),
        Sheet("Differences in points, paired by problem", ["", "AUC within problems", efforts[-1]], differences),
    ]


def sentences(judges: Mapping[str, Judge], plain: str) -> list[str]:
    """Each judge against the one called `plain`, by what is chosen and by how it ranks."""
    base, found = judges[plain], list[str]()
    last = effort_name(base.ks[-1])
    for name, judge in judges.items():
        if name != plain:
            chosen = difference(judge.best[-1], base.best[-1])
            ranked = difference(judge.auc, base.auc)
            found.append(chosen.sentence(f"{last} by {name}", f"{last} by {plain}"))
            found.append(ranked.sentence(f"the AUC within problems of {name}", f"that of {plain}"))
    return found


def curves(id: str, title: str, judges: Mapping[str, Judge]) -> Figure:
    """Right answers against k, a line a judge; with bands where these can still be told apart."""
    few = len(judges) <= BANDS_AT_MOST
    lines = [
        line(f"judge{i}", name, [1, *j.ks], [cell(j.single), *(cell(at) for at in j.best)], main=few)
        for i, (name, j) in enumerate(judges.items())
    ]
    return plot(id, title, lines, "k, trajectories per problem", "right", log_x=True)
