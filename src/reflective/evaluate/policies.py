"""How each way of spending tokens does on a run's records, without a model: accuracy against tokens.

Each policy is played on the recorded trajectories (`search.simulate`). Its tokens are a share of those of all k written
to their ends; its accuracy is compared with effort high's on the same problems, with intervals over problems.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reflective.errors import CheckpointError, InputError
from reflective.evaluate.bootstrap import Bootstrap, Interval
from reflective.evaluate.table import Floats
from reflective.judge.judge import Judge
from reflective.judge.schedule import Leader, Schedule
from reflective.records import Record, read_records
from reflective.records.manifest import RECORDS
from reflective.search.adaptive_consistency import AdaptiveConsistency
from reflective.search.auto_effort import AutoEffort, leader_at_high
from reflective.search.base import Choice
from reflective.search.clock import GO_ON, Board, Decision, Seen
from reflective.search.clocked import Clocked
from reflective.search.deepconf import DeepConf
from reflective.search.esc import ESC
from reflective.search.majority import QUORUM, pick_by_vote
from reflective.search.prune import Prune
from reflective.search.simulate import Outcome, Trace, simulate, traces_of
from reflective.selection import best_closed

if TYPE_CHECKING:
    from reflective.models.metadata import Metadata

WHOLE = 1 << 30  # a mark behind every end


class Everything(Clocked):
    """All k to their ends, and then the best score or a vote: what the others are compared with."""

    name = "everything"
    every = WHOLE

    def __init__(self, how: str, quorum: float = 0.0) -> None:
        self.how, self.quorum = how, quorum

    @property
    def waits_for_ends(self) -> bool:
        return True

    def decide(self, board: Board) -> Decision:
        return GO_ON

    def pick(self, ended: Sequence[Seen]) -> Choice:
        if self.how != "best":
            groups = [t.group for t in ended]
            return pick_by_vote(ended, groups, weighted=self.how == "weighted", quorum=self.quorum)
        best, notes = best_closed(ended)
        return Choice(None) if best is None else Choice(best.index, None, best.score, notes)


@dataclass(frozen=True, slots=True)
class Policy:
    """A way to spend: `strategy` with at most `k` trajectories (None: all)."""

    name: str
    family: str
    strategy: Clocked
    k: int | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """What a policy achieved. `loss` is effort high's accuracy minus its own; `started` counts trajectories."""

    name: str
    family: str
    accuracy: Interval
    loss: Interval
    tokens: Interval
    started: float

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        figures = {"accuracy": self.accuracy, "loss": self.loss, "tokens": self.tokens}
        named = {name: interval.to_json() for name, interval in figures.items()}
        return {"name": self.name, "family": self.family, **named, "started": self.started}


def problems_of(folder: Path) -> tuple[list[Record], list[list[Trace]]]:
    """A run's records and their traces, with the tokens' confidences where shards hold them."""
    confidences: Mapping[str, list[list[float]]] = {}
    if (folder / "shards").is_dir():
        from reflective.shards import read_shards

        confidences = {s.key: s.figure("confidences") for s in read_shards(folder, ()) if "confidences" in s.figures}
    records = [record for record in read_records(folder / RECORDS) if record.trajectories]
    return records, [traces_of(record, confidences.get(record.key, ())) for record in records]


def policies(k: int, *, scored: bool, confident: bool, schedule: Schedule | None = None) -> list[Policy]:
    """Every policy that can be played on such records."""
    budgets = [2**i for i in range(k.bit_length()) if 2**i <= k]
    found = []
    for how, name in (("best", "best of n"), ("weighted", "weighted vote"), ("majority", "majority")):
        if scored or how == "majority":
            found += [Policy(f"{name}, {n}", name, Everything(how), n) for n in budgets]
    if scored:
        found += [Policy(f"prune, keep {keep:g}", "prune", Prune(keep)) for keep in (0.3, 0.5, 0.7)]
    found += [
        Policy(f"adaptive consistency, {t:g}", "adaptive consistency", AdaptiveConsistency(t))
        for t in (0.8, 0.9, 0.95, 0.99)
    ]
    found += [Policy(f"ESC, window {w}", "ESC", ESC(w)) for w in (3, 5, 8) if w <= k]
    if confident:
        found += [
            Policy(f"DeepConf, top {top:g} %, warm-up {warm}", "DeepConf", DeepConf(top, warm))
            for warm in (8, 16)
            for top in (10.0, 90.0)
            if warm < k
        ]
    if schedule is not None and not schedule.refusal(k=k):
        found += [
            Policy(f"auto, risk {limit.risk:g}", "auto", AutoEffort(schedule, limit)) for limit in schedule.limits
        ]
    found.append(Policy("auto, by agreement", "auto by agreement", AutoEffort(scored=scored)))
    return found


def play_all(problems: Sequence[Sequence[Trace]], policy: Policy) -> list[Outcome]:
    """The policy on every problem."""
    return [simulate(policy.strategy, traces, policy.k) for traces in problems]


def compare_policies(
    problems: Sequence[Sequence[Trace]], chosen: Sequence[Policy], *, high: Leader = "score", seed: int = 0
) -> list[Row]:
    """A row for each policy; `high` is who answers at effort high. Problems without a verdict for a choice count as
    wrong, in all policies alike."""
    if not problems:
        raise InputError("there are no records with trajectories to play policies on.")
    full = np.array([sum(t.whole.tokens for t in traces) for traces in problems], dtype=float)
    scored = any(t.whole.score is not None for traces in problems for t in traces)
    how = {"score": "best", "vote": "weighted"}[high] if scored else "majority"
    most = _right(play_all(problems, Policy("", "", Everything(how, QUORUM))))
    bootstrap = Bootstrap(len(problems), seed=seed)
    rows = []
    for policy in chosen:
        outcomes = play_all(problems, policy)
        right, tokens = _right(outcomes), np.array([o.tokens for o in outcomes], dtype=float)
        accuracy = bootstrap.means(right[:, None], share=True)[0]
        loss = bootstrap.means((most - right)[:, None])[0]
        share = bootstrap.ratios(tokens[:, None], full[:, None])[0]
        started = float(np.mean([o.started for o in outcomes]))
        rows.append(Row(policy.name, policy.family, accuracy, loss, share, started))
    return rows


def _right(outcomes: Sequence[Outcome]) -> Floats:
    return np.array([o.right is True for o in outcomes], dtype=float)


def report_policies(folder: Path, *, model: str | None = None, seed: int = 0) -> tuple[list[Row], list[str]]:
    """The rows of a run, and remarks. `model` names the model whose schedule is played."""
    from reflective.records.manifest import read_manifest

    manifest, notes = read_manifest(folder), list[str]()
    _, problems = problems_of(folder)
    k = min((len(traces) for traces in problems), default=0)
    judge = judge_of(model or manifest.model, manifest.head, notes)
    schedule = judge.config.schedule if judge is not None else None
    if schedule is not None and (why := refused(schedule, manifest, k)):
        notes.append(f"effort auto's schedule is left out: {why}")
        schedule = None
    whole = [t.whole for traces in problems for t in traces]
    scored = any(t.score is not None for t in whole)
    if not scored:
        notes.append("no trajectory has a scored step, so policies that read scores are left out")
    confident = bool(whole) and all(t.confidences is not None for t in whole)
    if not confident:
        notes.append("DeepConf is left out: it needs eval --confidences --tokens")
    chosen = policies(k, scored=scored, confident=confident, schedule=schedule)
    high: Leader = leader_at_high(judge.format.is_whole) if judge is not None else "score"
    return compare_policies([traces[:k] for traces in problems], chosen, high=high, seed=seed), notes


def refused(schedule: Schedule, manifest: Any, k: int) -> str:
    """Why a schedule does not go with a run; "" where it does."""
    sampled = {name: manifest.settings[name] for name in schedule.sampling if name in manifest.settings}
    return schedule.refusal(head=manifest.head, sampling={**schedule.sampling, **sampled}, k=k)


def judge_of(source: str, digest: str, notes: list[str]) -> Judge | None:
    """The judge of a run's model; None where the model is not here. A remark says so, or that there is no schedule."""
    try:
        judge = model_of_run(source, digest, check_fingerprint=False).judge
    except (CheckpointError, InputError, OSError) as error:
        notes.append(f"effort auto's schedule is left out: {error}")
        return None
    if judge.config.schedule is None:
        notes.append(f"the head of {source!r} has no schedule; fit one with: reflective calibrate")
    return judge


def model_of_run(source: str, digest: str, **options: Any) -> Metadata:
    """A run's model as `read_metadata` knows it, also with a head of the package that was found by the model's shapes:
    in place of its weights, the `digest` of the head that scored the run confirms it."""
    from reflective.models.load import stored_bytes
    from reflective.models.metadata import NO_HEAD, read_metadata
    from reflective.models.source import resolve_source

    there = stored_bytes(resolve_source(source, weights=False)) > 0
    found = read_metadata(source, require_head=False, weights=there, **options)
    if found.shipped and found.judge.digest != digest:
        return read_metadata(source, require_head=False, **{**options, "head": NO_HEAD})
    return found
