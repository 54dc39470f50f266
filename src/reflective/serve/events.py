"""What a search tells, as objects: for clients that ask for events, and sparse progress for others.

Each is the `reflective` member of an otherwise empty chunk. docs/serving.md has a table of their members; a trajectory
is named by its number from 0, and scores are in 0..1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from reflective.judge.aggregate import aggregate, logit
from reflective.search import Answering, Finished, Forked, SearchEvent, Started, StepScored, Text
from reflective.selection import answer_groups, vote
from reflective.types import Solution, Trajectory

Told = dict[str, Any]

CERTAIN = 1e-12  # scores are this far from 0 and 1 at least, where their logits are needed again


class EventWriter:
    """Turns the events of one search into their objects; keeps the running scores."""

    def __init__(self, strategy: str, aggregation: str) -> None:
        self._strategy, self._aggregation = strategy, aggregation
        self._logits: dict[int, list[float]] = {}
        self._parents: dict[int, int] = {}
        self._k = self._finished = self._steps = 0
        self._best: float | None = None

    def write(self, event: SearchEvent, ends: Sequence[str] = ()) -> Told | None:
        """The object of an event; None for the last one, whose solution is written by `solved`."""
        match event:
            case Started():
                self._k = event.k
                prompt = event.prompt_tokens
                return {"type": "started", "k": event.k, "strategy": self._strategy, "prompt_tokens": prompt}
            case Text():
                delta = event.delta
                for end in ends:  # the text of the token that ends a response is part of none
                    delta = delta.removesuffix(end)
                return {"type": "text", "trajectory": event.id, "delta": delta} if delta else None
            case StepScored():
                logits = self._logits.setdefault(event.id, [])
                if len(logits) < event.index and event.id in self._parents:  # the steps that it shares
                    logits[:] = self._logits.get(self._parents[event.id], [])[: event.index]
                logits.append(logit(event.score, CERTAIN))
                self._steps += 1
                running = aggregate(logits, self._aggregation)
                found = {"index": event.index, "score": event.score, "running": running}
                return {"type": "step", "trajectory": event.id, **found}
            case Forked():
                self._parents[event.id] = event.parent
                return {"type": "forked", "trajectory": event.id, "parent": event.parent, "at": event.at}
            case Answering():
                return {"type": "answering", "trajectory": event.id}
            case Finished():
                return self._ended(event.id, event.trajectory)
        return None

    def progress(self) -> Told:
        """How far the search is."""
        counts = {"k": self._k, "finished": self._finished, "steps": self._steps}
        return {"type": "progress", **counts, "best": self._best}

    def _ended(self, index: int, t: Trajectory) -> Told:
        if t.finish_reason == "cancelled" or t.finish_reason == "step":
            return {"type": "cancelled", "trajectory": index, "why": "strategy", "detail": t.let_go}
        if not t.answer_text:
            self._finished += 1
        if t.score is not None:
            self._best = max(t.score, self._best or 0.0)
        return {
            "type": "finished",
            "trajectory": index,
            "reason": t.finish_reason,
            "score": t.score,
            "tokens": t.tokens,
            "answer": t.answer,
        }


def solved(solution: Solution, usage: dict[str, Any], *, steps: bool = False) -> Told:
    """The outcome as clients see it. May ask graders what a vote says: not for the event loop."""
    best = solution.best
    return {
        "type": "solved",
        "selected": solution.selected,
        "score": best.score if best is not None else None,
        "confidence": solution.confidence,
        "strategy": solution.strategy,
        "effort": solution.effort,
        "seed": solution.seed,
        "answer": solution.answer,
        "majority": _majority(solution),
        "usage": usage,
        "timing": asdict(solution.timing),
        "trajectories": [_fate(t, steps=steps) for t in solution.trajectories],
        "notes": list(solution.notes),
    }


def _majority(solution: Solution) -> str | None:
    voters = [t for t in solution.trajectories if t.answer is not None]
    if len(voters) < 2:
        return None
    found = vote(voters, answer_groups(voters, solution.problem))
    return found.winner.answer if found is not None else None


def _fate(t: Trajectory, *, steps: bool) -> Told:
    fate: Told = {
        "index": t.index,
        "score": t.score,
        "finish_reason": t.finish_reason,
        "tokens": t.tokens,
        "answer": t.answer,
    }
    if t.let_go:
        fate["let_go"] = t.let_go
    if t.parent is not None:
        fate |= {"parent": t.parent, "at": t.at}
    if steps:
        fate["steps"] = [{"text": step.text, "score": step.score} for step in t.steps]
    return fate
