"""The order of trajectories by score, and what stands in for a score where there is none.

A trajectory counts when its thinking was closed: an unfinished one ranks below every finished one, since nothing can
be answered from it. Among those that count, a scored one ranks above an unscored one. Ties go to the lowest index.
"""

from __future__ import annotations

from collections.abc import Sequence

from reflective.types import Trajectory

NO_SCORE_LOGPROB = "no trajectory has a scored step; the one with the highest mean token log-probability was taken"
NO_SCORE_FIRST = "no trajectory has a scored step and token log-probabilities are unknown; the first one was taken"


def closed(trajectory: Trajectory) -> bool:
    """Whether the thinking was closed, so that there is an answer or could be one."""
    return trajectory.finish_reason == "think_end" or bool(trajectory.answer_text.strip())


def by_score(trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    """Best first: closed before unclosed, scored before unscored, high before low, then by index."""
    return sorted(
        trajectories,
        key=lambda t: (not closed(t), t.score is None, -(t.score if t.score is not None else 0.0), t.index),
    )


def best_closed(trajectories: Sequence[Trajectory]) -> tuple[Trajectory | None, tuple[str, ...]]:
    """The closed trajectory to answer from, and a note where that was not decided by score."""
    candidates = [t for t in by_score(trajectories) if closed(t)]
    if not candidates:
        return None, ()
    if candidates[0].score is not None or len(candidates) == 1:
        return candidates[0], ()
    likely = [(t.mean_logprob, -t.index, t) for t in candidates if t.mean_logprob is not None]
    if likely:
        return max(likely, key=lambda entry: entry[:2])[2], (NO_SCORE_LOGPROB,)
    return candidates[0], (NO_SCORE_FIRST,)
