"""Study 1: what an effort is worth, against every other way to spend the same trajectories.

Claim: answering from the best of 2, 8 or 32 samples by score beats one sample, and more beats fewer (paper, section
4). The training-free selectors and the votes are the mark to beat; the oracle is what selection could reach at most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from findings import Findings, Sheet, line, plot
from lab import SHARED, Lab
from measures import amounts, effort_name, efforts_shown, of_interval, sentence, table_of

from reflective.evaluate.bootstrap import Bootstrap
from reflective.evaluate.metrics.ranking import within_problems
from reflective.evaluate.metrics.subsets import budgets
from reflective.evaluate.paired import compare
from reflective.evaluate.report.labels import MAIN
from reflective.evaluate.selectors import LABELS, SELECTORS, known_selectors
from reflective.evaluate.summary import accuracy_by_problem
from reflective.evaluate.table import Floats, Table
from reflective.tasks.base import Split

NAME = "efforts"
NEEDS: Sequence[Split] = ("test",)
TITLE = "Effort against everything else that k trajectories can be spent on"
QUESTION = (
    "Low, medium and high effort (best of 2, 8 and 32 by score) against a single sample, votes, selectors that need no "
    "training, and the oracle that knows which is right (pass@k)."
)


def collect(lab: Lab, folder: Path) -> None:
    """Nothing of its own: the shared test trajectories, each with its score and its confidences."""
    lab.records("test")


def figures(root: Path) -> Findings:
    """From the records of the shared test trajectories."""
    table = table_of(root / SHARED / "test")
    every = budgets(table.budget)
    values = accuracy_by_problem(table, every)  # strategy -> (P, K)
    bootstrap = Bootstrap(table.problems)
    ks = efforts_shown(table.budget)
    columns = [every.index(k) for k in [1, *ks]]
    curves = {name: bootstrap.means(value, share=True) for name, value in values.items()}
    rows = [[LABELS[name], *(of_interval(points[i]) for i in columns)] for name, points in curves.items()]
    aucs = []
    for name in known_selectors(table):
        area, _ = within_problems(table, table.scores[SELECTORS[name]])
        aucs.append([LABELS[name], of_interval(bootstrap.means(area[:, None])[0])])
    lines = [line(name, LABELS[name], every, points, main=name in MAIN) for name, points in curves.items()]
    return Findings(
        [
            Sheet("Right answers", ["", "one", *map(effort_name, ks)], rows),
            Sheet("AUC within problems, right against wrong trajectories", ["figure", "AUC"], aucs),
            _by_family(table, values, columns, ks),
        ],
        _against_others(values, columns, ks) + _share_closed(values, bootstrap, ks[-1]),
        [plot("accuracy", "Right answers against k", lines, "k, trajectories per problem", "right", log_x=True)],
        [f"{SHARED}/test"],
        amounts=amounts(test=(table.problems, table.budget)),
    )


def _by_family(table: Table, values: Mapping[str, Floats], columns: Sequence[int], ks: Sequence[int]) -> Sheet:
    """The efforts, and every other way at the largest k, family by family."""
    others = [name for name in values if name != "best_of_n"]
    shown = {"one": values["oracle"][:, 0]}
    if "best_of_n" in values:
        shown |= {effort_name(k): values["best_of_n"][:, i] for k, i in zip(ks, columns[1:], strict=True)}
    shown |= {LABELS[name]: values[name][:, -1] for name in others}
    stacked, families = np.stack(list(shown.values()), axis=1), np.array(table.families)
    rows = []
    for family in sorted(set(table.families)):
        mine = stacked[families == family]
        rows.append([family, *map(of_interval, Bootstrap(len(mine)).means(mine, share=True))])
    return Sheet(f"By family; beside the efforts, k = {ks[-1]}", ["family", *shown], rows)


def _against_others(values: Mapping[str, Floats], columns: Sequence[int], ks: Sequence[int]) -> list[str]:
    """Each effort against one sample, and the largest against every other way to spend as much."""
    if "best_of_n" not in values:
        return ["The model has no head, so nothing is selected by score."]
    best, one = values["best_of_n"], values["oracle"][:, 0]
    told = [
        compare(best[:, i], one).sentence(effort_name(k), "one sample") for k, i in zip(ks, columns[1:], strict=True)
    ]
    others = [name for name in values if name != "best_of_n"]
    last = effort_name(ks[-1])
    return told + [compare(best[:, -1], values[n][:, -1]).sentence(last, f"{LABELS[n]} of {ks[-1]}") for n in others]


def _share_closed(values: Mapping[str, Floats], bootstrap: Bootstrap, budget: int) -> list[str]:
    """(best - single) / (oracle - single), sums over problems."""
    if "best_of_n" not in values:
        return []
    one = values["oracle"][:, :1]
    share = bootstrap.ratios(values["best_of_n"][:, -1:] - one, values["oracle"][:, -1:] - one)[0]
    return [sentence(f"Share of the way from one sample to the oracle at {budget}", share.to_json())]
