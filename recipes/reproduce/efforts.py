"""Study 1: what an effort is worth, against every other way to spend the same trajectories.

Claim: answering from the best of 2, 8 or 32 thinkings by score beats one sample, and more beats fewer (paper, section
4). The training-free selectors and the votes are the mark to beat; the oracle is what selection could reach at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from findings import Findings, Sheet, line, plot
from lab import SHARED, Lab
from measures import effort_name, efforts_shown, of_interval, sentence, table_of

from reflective.evaluate.bootstrap import Bootstrap
from reflective.evaluate.metrics.ranking import within_problems
from reflective.evaluate.paired import compare
from reflective.evaluate.report.words import MAIN
from reflective.evaluate.selectors import LABELS, SELECTORS, known_selectors
from reflective.evaluate.summary import summarise
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
    source = root / SHARED / "test"
    table = table_of(source)
    summary = summarise(table)
    ks = efforts_shown(table.budget)
    bootstrap = Bootstrap(table.problems)
    curves = {name: dict(zip(curve.ks, curve.points, strict=True)) for name, curve in summary.curves.items()}
    rows = [[LABELS[name], *(of_interval(at[k]) for k in [1, *ks])] for name, at in curves.items()]
    families = [
        [family, *(of_interval(row[name]) for name in MAIN if name in row)] for family, row in summary.families.items()
    ]
    shown = [name for name in MAIN if any(name in row for row in summary.families.values())]
    aucs = []
    for name in known_selectors(table):
        area, _ = within_problems(table, table.scores[SELECTORS[name]])
        aucs.append([LABELS[name], of_interval(bootstrap.means(area[:, None])[0])])
    sentences = _against_others(summary.values, table.budget) + _share_closed(summary.values, bootstrap, table.budget)
    accuracy = plot(
        "accuracy",
        "Right answers against k",
        [line(name, LABELS[name], list(at), list(at.values())) for name, at in curves.items()],
        "k, trajectories a problem",
        "right",
        log_x=True,
    )
    return Findings(
        [
            Sheet("Right answers", ["", "one", *map(effort_name, ks)], rows),
            Sheet("AUC within problems, right against wrong trajectories", ["figure", "AUC"], aucs),
            Sheet(f"Right answers by family, k = {table.budget}", ["family", *(LABELS[n] for n in shown)], families),
        ],
        sentences,
        [accuracy],
        [f"{SHARED}/test"],
    )


def _against_others(values: dict[str, np.ndarray], budget: int) -> list[str]:
    """The best by score at the largest budget, paired with each other way."""
    if "best_of_n" not in values:
        return ["The model has no head, so nothing is selected by score."]
    others = [name for name in LABELS if name in values and name not in ("best_of_n", "chosen")]
    ours = effort_name(budget)
    return [compare(values["best_of_n"], values[name]).sentence(ours, LABELS[name]) for name in others]


def _share_closed(values: dict[str, np.ndarray], bootstrap: Bootstrap, budget: int) -> list[str]:
    """(best - single) / (oracle - single), sums over problems."""
    if "best_of_n" not in values:
        return []
    gained = (values["best_of_n"] - values["single"])[:, None]
    possible = (values["oracle"] - values["single"])[:, None]
    share = bootstrap.ratios(gained, possible)[0]
    return [sentence(f"Share of the way from one sample to the oracle at {budget}", share.to_json())]
