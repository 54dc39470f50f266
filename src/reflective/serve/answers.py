"""From a solution to what a client is given: content, reasoning, why it ended, and what was paid.

The reasoning of a model that writes it between marks is never content, and neither is reasoning that was cut. Where the
whole response is the reasoning, the response is the content, and there is no reasoning beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from reflective.judge.format import Format, closing_span
from reflective.selection import by_score
from reflective.types import Solution, Trajectory

FinishReason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, slots=True)
class Answer:
    """One choice of a response."""

    content: str
    reasoning: str | None
    finish_reason: FinishReason


def answer_of(t: Trajectory, format: Format) -> Answer:
    """What is given of a trajectory."""
    cut = t.finish_reason in ("length", "think_end")
    if format.is_whole:
        return Answer((t.answer_text or t.thinking).strip(), None, "length" if cut else "stop")
    return Answer(t.answer_text, t.thinking.strip(), "length" if cut else "stop")


def answers_of(solution: Solution, format: Format, n: int = 1) -> list[tuple[Trajectory | None, Answer]]:
    """The n best answers, best first: the selected trajectory's, then others that have one, by score."""
    ordered = by_score(solution.trajectories)
    first = solution.best or next(iter(ordered), None)
    if first is None:
        return [(None, Answer("", None, "stop"))]
    others = [t for t in ordered if t.index != first.index and t.answer_text]
    return [(t, answer_of(t, format)) for t in [first, *others][:n]]


def usage_of(solution: Solution, format: Format, given: list[Trajectory]) -> dict[str, Any]:
    """OpenAI's usage: all trajectories count. What stands in no answer that is given is reasoning."""
    written = solution.usage.completion_tokens
    visible = sum(_answer_tokens(t, format) for t in given)
    return {
        "prompt_tokens": solution.usage.prompt_tokens,
        "completion_tokens": written,
        "total_tokens": solution.usage.prompt_tokens + written,
        "completion_tokens_details": {"reasoning_tokens": max(written - visible, 0)},
    }


def _answer_tokens(t: Trajectory, format: Format) -> int:
    if format.is_whole:
        return t.tokens
    span = closing_span(format, t.token_ids)
    return t.tokens - span[1] if span is not None else 0
