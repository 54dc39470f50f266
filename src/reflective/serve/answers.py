"""From a solution to what a client is given: content, reasoning, calls, why it ended, and what was paid.

The reasoning of a model that writes it between marks is never content, and neither is reasoning that was cut. Where the
whole response is the reasoning, the response is the content, and there is no reasoning beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from reflective.judge.format import Format, closing_span
from reflective.selection import by_score
from reflective.serve.prompts import Question
from reflective.serve.tools import Call, canonical, split_calls
from reflective.types import Solution, Trajectory, Usage

FinishReason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, slots=True)
class Answer:
    """One choice of a response."""

    content: str
    reasoning: str | None
    finish_reason: FinishReason
    calls: tuple[Call, ...] = ()


def answer_of(t: Trajectory, format: Format, question: Question) -> Answer:
    """What is given of a trajectory."""
    finish: FinishReason = "stop" if t.finish_reason == "eos" else "length"
    if format.is_whole:
        answer = Answer((t.answer_text or t.thinking).strip(), None, finish)
    else:
        answer = Answer(t.answer_text, t.thinking.strip(), finish)
    if question.tools:
        content, calls = split_calls(answer.content, question.names)
        if calls:
            given = tuple(calls[:1] if question.one_call else calls)
            return replace(answer, content=content, calls=given, finish_reason="tool_calls")
        if question.must_call and question.settings.constraint is not None:  # held to a call that was cut: no content
            return replace(answer, content="")
    return answer


def answers_of(solution: Solution, format: Format, question: Question) -> list[tuple[Trajectory | None, Answer]]:
    """The n best answers, best first: the selected trajectory's, others by score, then what was cut before one."""
    ordered = by_score(solution.trajectories)
    first = solution.best or next(iter(ordered), None)
    if first is None:
        return [(None, Answer("", None, "stop"))]
    others = sorted((t for t in ordered if t.index != first.index), key=lambda t: not t.answer_text)
    return [(t, answer_of(t, format, question)) for t in [first, *others][: question.n]]


def voter(question: Question, t: Trajectory) -> str | None:
    """The final answer of a trajectory where functions are offered: its calls, if it makes any."""
    from reflective.grading import final_answer

    _, calls = split_calls(t.answer_text, question.names)
    return canonical(calls) if calls else final_answer(t, replace(question.problem, kind="math"))


def usage_of(paid: Usage, format: Format, given: Sequence[Trajectory]) -> dict[str, Any]:
    """OpenAI's usage: all trajectories count. What stands in no answer that is given is reasoning."""
    written = paid.completion_tokens
    visible = sum(_answer_tokens(t, format) for t in given)
    return {
        "prompt_tokens": paid.prompt_tokens,
        "completion_tokens": written,
        "total_tokens": paid.prompt_tokens + written,
        "completion_tokens_details": {"reasoning_tokens": max(written - visible, 0)},
    }


def _answer_tokens(t: Trajectory, format: Format) -> int:
    if format.is_whole:
        return t.tokens
    span = closing_span(format, t.token_ids)
    return t.tokens - span[1] if span is not None else 0
