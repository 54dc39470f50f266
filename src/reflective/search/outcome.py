"""What is said of a problem's outcome beside the choice: the confidence in it, and remarks on how it ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from reflective.judge.calibrate import Calibration
from reflective.search.base import Choice
from reflective.types import Trajectory

# none finished; what one of several did, and what more of them did
_UNFINISHED_REASONING = (
    "no trajectory finished its reasoning",
    "trajectories did not finish its reasoning",
    "trajectories did not finish their reasoning",
)
_UNFINISHED_RESPONSES = ("no response was finished", "responses was not finished", "responses were not finished")


def confidence_in(
    choice: Choice,
    best: Trajectory | None,
    trajectories: Sequence[Trajectory],
    strategy: str,
    calibration: Calibration | None,
) -> float | None:
    """The probability that the choice is right; `best` is the trajectory that its answer is taken from."""
    if calibration is None:
        return None  # nothing is claimed, not even where there is no answer
    if best is None or not best.answer_text.strip():
        return 0.0  # no answer can't be right
    if choice.answer is None:
        return None
    k = sum(t.finish_reason != "cancelled" and not t.let_go for t in trajectories)
    return calibration.confidence(
        strategy, choice.evidence, max(k, 1), score=best.score, mean_logprob=best.mean_logprob
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a problem ended: with which trajectories, whole responses or not, within which tokens of reasoning and of an
    answer, over which budget (""), and after how many seconds the user stopped it (None: not at all)."""

    trajectories: Sequence[Trajectory]
    whole: bool
    budgets: tuple[int, int]
    over: str
    interrupted_s: float | None


def remarks(best: Trajectory | None, ending: Ending) -> Iterator[str]:
    """What the user should know of it; `best` is the trajectory that the answer is taken from."""
    interrupted = ending.interrupted_s is not None
    ended = [t for t in ending.trajectories if interrupted or t.finish_reason != "cancelled"]
    cut = sum(t.finish_reason == "length" and not t.answer_text.strip() for t in ended)
    none, one, more = _UNFINISHED_RESPONSES if ending.whole else _UNFINISHED_REASONING
    within = f"within {ending.budgets[0]:,} tokens"
    if ending.over and not interrupted:
        yield f"stopped at {ending.over}"
    if interrupted:
        yield f"stopped by the user after {ending.interrupted_s:.1f} s"
    if cut and cut == len(ended):
        yield f"{none} {within}; allow more with max_tokens"
    elif cut:
        yield f"{cut} of {len(ended)} {one if cut == 1 else more} {within}"
    elif best is None and not interrupted:
        yield none
    if best is None or interrupted:
        return
    if best.finish_reason == "length":
        yield f"the answer was cut after {ending.budgets[1]:,} tokens; allow more with answer_tokens"
    if best.answer is None:
        yield "no final answer was found in the answer's text" if best.answer_text.strip() else "the answer is empty"
