"""A look before sampling: a few problems, one response with its steps marked, and whether there is something to learn.

Hours of sampling are lost where no response ends within its budget, no final answer can be found, no step ends, or all
responses are alike. Here that is seen in a minute, with the true reason and what to change.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from reflective.engines.base import Engine
from reflective.engines.text import STEP_END, marked_steps, steps_of_text
from reflective.errors import TrainingError
from reflective.search import Majority, Settings, solve_many
from reflective.train.progress import Note, clock
from reflective.types import Problem, Trajectory
from reflective.verify import grade

PROBLEMS, TRAJECTORIES = 6, 4  # of a look
FEW = 0.5  # share of trajectories that must end, and of these that must state a final answer
SHOWN_CHARACTERS = 2000  # of the response that is shown


@dataclass(frozen=True, slots=True)
class Look:
    """What a few problems show. Shares are of the trajectories; `answered` of those that ended."""

    trajectories: int
    ended: float
    answered: float
    right: float | None  # of those that could be graded; None where none could
    steps: float  # a trajectory
    tokens: float  # a trajectory
    tokens_per_s: float

    def seconds(self, trajectories: int) -> float:
        """How long so many trajectories will take, at the speed of the look."""
        return trajectories * self.tokens / self.tokens_per_s if self.tokens_per_s else math.inf


def look(engine: Engine, problems: Sequence[Problem], settings: Settings, wanted: int, note: Note) -> Look:
    """Sample a few of the problems, tell what they show, and how long `wanted` trajectories will take.

    Raises `TrainingError`, with what to change, where sampling more would teach a head nothing.
    """
    began = time.perf_counter()
    chosen = problems[:: max(len(problems) // PROBLEMS, 1)][:PROBLEMS]
    found: list[tuple[Problem, Trajectory]] = []
    for problem, solution in solve_many(engine, chosen, TRAJECTORIES, strategy=Majority(), settings=settings):
        found += [(problem, t) for t in solution.trajectories]
    if not found:
        raise TrainingError("no problem fits into the model's context. Use shorter problems or another model.")
    seconds = time.perf_counter() - began
    written = sum(t.tokens for _, t in found)
    closed = [t for _, t in found if t.closed]
    verdicts = [grade(problem, t.answer).right for problem, t in found]
    known = [right for right in verdicts if right is not None]
    steps = [len(steps_of_text(engine, t.token_ids)[0]) for _, t in found]
    seen = Look(
        trajectories=len(found),
        ended=len(closed) / len(found),
        answered=sum(t.answer is not None for t in closed) / len(closed) if closed else 0.0,
        right=sum(known) / len(known) if known else None,
        steps=sum(steps) / len(steps),
        tokens=written / len(found),
        tokens_per_s=written / seconds,
    )
    _show(engine, found, note)
    right = "none could be graded" if seen.right is None else f"{seen.right:.0%} right"
    note(
        f"{seen.trajectories} responses to {len(chosen)} problems: {seen.ended:.0%} ended, {seen.answered:.0%} of "
        f"these state a final answer, {right}, {seen.steps:.1f} steps and {seen.tokens:.0f} tokens per response"
    )
    _check(seen, known, settings, marks=not engine.judge.format.is_whole)
    speed = f"{seen.tokens_per_s:,.0f} tokens/s"
    note(f"sampling {wanted:,} responses will take about {clock(seen.seconds(wanted))} at {speed}")
    return seen


def _show(engine: Engine, found: Sequence[tuple[Problem, Trajectory]], note: Note) -> None:
    """One response, preferably one that ended, with its steps marked."""
    problem, shown = next((pair for pair in found if pair[1].closed), found[0])
    text = marked_steps(engine, shown.token_ids)
    more = " …" if len(text) > SHOWN_CHARACTERS else ""
    note(f"a response to {problem.text[:200]!r}, each step ending at{STEP_END}:\n")
    note(f"{text[:SHOWN_CHARACTERS].strip()}{more}\n")


def _check(seen: Look, known: Sequence[bool], settings: Settings, *, marks: bool) -> None:
    """Raise for what would make a head impossible, the first cause first."""
    if seen.ended < FEW:
        unclosed = " If the response above closes no mark, the model may never have learnt to: try --marks whole."
        raise TrainingError(
            f"only {seen.ended:.0%} of the responses ended within {settings.max_tokens or 4096:,} tokens. Allow more "
            f"with --max-tokens.{unclosed if marks else ''}"
        )
    if seen.answered < FEW:
        raise TrainingError(
            f"only {seen.answered:.0%} of the responses state a final answer that can be found. Ask for one, for "
            "example with --prompt '{problem} Reason step by step, and put your final answer within \\boxed{}.'"
        )
    if seen.steps < 1:
        raise TrainingError(
            "no step ended in the response above. Name where steps end: --step-rule line where a step is a line, "
            "paragraph where it ends at a blank line."
        )
    if not known:
        raise TrainingError("no response could be graded. Check the answers and the kinds of the problems.")
    if len(set(known)) < 2:
        what, use = ("right", "harder") if known[0] else ("wrong", "easier")
        raise TrainingError(
            f"all {len(known)} responses are {what}, so there is nothing to tell apart. Use {use} problems, or check "
            "the answers in the data."
        )
