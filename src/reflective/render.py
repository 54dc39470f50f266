"""A solution as text and as HTML. No terminal library, no notebook library: strings only.

A step's score is shown as a colour from red (0) over yellow (0.5) to green (1) and, where there is no colour, as a
block whose height is the score. Everything that a model or a user wrote is escaped.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `types` draws with this file, and is not drawn into a circle
    from reflective.types import Solution, Step, Trajectory

BLOCKS = "▁▂▃▄▅▆▇█"
RED, YELLOW, GREEN = (214, 69, 65), (236, 190, 66), (54, 160, 92)
STATES = {
    "think_end": "thought",
    "eos": "done",
    "length": "out of tokens",
    "cancelled": "stopped",
    "step": "paused",
}


def score_color(score: float) -> tuple[int, int, int]:
    """Red, green and blue (0..255) of a score in 0..1."""
    score = min(max(score, 0.0), 1.0)
    low, high, share = (RED, YELLOW, 2 * score) if score < 0.5 else (YELLOW, GREEN, 2 * score - 1)
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(low, high, strict=True))
    return red, green, blue


def score_block(score: float) -> str:
    """One character whose height is the score."""
    return BLOCKS[min(max(int(score * len(BLOCKS)), 0), len(BLOCKS) - 1)]


def strip(scores: Sequence[float], width: int = 40) -> str:
    """One block a step; of more than `width` steps the last ones, after an ellipsis."""
    blocks = "".join(map(score_block, scores[-width:]))
    return "…" + blocks[1:] if len(scores) > width else blocks


def number(value: float | None) -> str:
    """A score or a confidence, three places; a dash where there is none."""
    return "—" if value is None else f"{value:.3f}"


def percent(confidence: float | None) -> str:
    """A confidence for a human; never "0 %" or "100 %" where it is neither."""
    if confidence is None:
        return "unknown"
    if 0 < confidence < 0.01 or 0.99 < confidence < 1:
        return "under 1 %" if confidence < 0.5 else "over 99 %"
    return f"{confidence:.0%}".replace("%", " %")


def shown_answer(solution: Solution) -> str:
    """The final answer, else the text that should have held it, else nothing."""
    return solution.answer if solution.answer is not None else solution.answer_text.strip()


def cost(solution: Solution) -> str:
    """What the solution cost, in one line."""
    count = len(solution.trajectories)
    return (
        f"{count} {'trajectory' if count == 1 else 'trajectories'} · "
        f"{solution.usage.prompt_tokens:,} prompt + {solution.usage.completion_tokens:,} written tokens · "
        f"{solution.timing.total_s:.1f} s"
    )


def state(trajectory: Trajectory) -> str:
    """How a trajectory ended, in a word or two."""
    return "let go" if trajectory.let_go else STATES[trajectory.finish_reason]


def let_go(trajectory: Trajectory) -> str:
    """Why the strategy let it go, in brackets; nothing where it did not."""
    return f"  ({trajectory.let_go})" if trajectory.let_go else ""


def origin(trajectory: Trajectory) -> str:
    """Where a fork comes from, in a few words; nothing for what was written from the prompt."""
    return "" if trajectory.parent is None else f"from {trajectory.parent} at token {trajectory.at:,}"


def solution_text(solution: Solution) -> str:
    """Answer, confidence, cost, notes, and a line per trajectory."""
    answer = shown_answer(solution) or "(no answer)"
    lines = [
        f"answer      {answer}",
        f"confidence  {percent(solution.confidence)}",
        f"strategy    {solution.strategy}, {cost(solution)}, {solution.model}",
        *(f"note        {note}" for note in solution.notes),
    ]
    dropped = [t for t in solution.trajectories if t.parent is not None and t.finish_reason == "cancelled"]
    for t in (t for t in solution.trajectories if t.parent is None or t.finish_reason != "cancelled"):
        mark = "▶" if t.index == solution.selected else " "
        scores = strip([step.score for step in t.steps])
        figures = f"{number(t.score):>5}  {t.tokens:>5} tokens  {state(t):<13}"
        row = f"{mark} {t.index:>3}  {figures}  {scores}  {origin(t)}{let_go(t)}"
        lines.append(row.rstrip())
    if dropped:
        lines.append(f"  and {len(dropped)} forks that were stopped")
    return "\n".join(lines)


def solution_html(solution: Solution) -> str:
    """A self-contained block of HTML: the answer, then each trajectory with its steps coloured by score."""
    answer = shown_answer(solution) or "(no answer)"
    notes = "".join(f'<div style="opacity:.75">⚠ {html.escape(note)}</div>' for note in solution.notes)
    return (
        '<div style="font-family:system-ui,sans-serif;font-size:13px;line-height:1.45">'
        f'<div dir="auto" style="font-size:18px;font-weight:600">{html.escape(answer)}</div>'
        f"<div>confidence {html.escape(percent(solution.confidence))} · {html.escape(solution.strategy)} · "
        f"{html.escape(cost(solution))} · {html.escape(solution.model)}</div>{notes}"
        + "".join(_trajectory_html(t, t.index == solution.selected) for t in solution.trajectories)
        + "</div>"
    )


def _trajectory_html(trajectory: Trajectory, selected: bool) -> str:
    facts = ", ".join(filter(None, (state(trajectory), origin(trajectory))))
    border = "#36a05c" if selected else "transparent"
    strip_html = "".join(_cell(step) for step in trajectory.steps)
    steps = "".join(
        f'<div dir="auto" style="border-left:4px solid rgb{score_color(step.score)};padding-left:6px;margin:2px 0;'
        f'white-space:pre-wrap"><span style="opacity:.6">{step.score:.2f}</span> {html.escape(step.text)}</div>'
        for step in trajectory.steps
    )
    body = steps or f'<div dir="auto" style="white-space:pre-wrap">{html.escape(trajectory.thinking)}</div>'
    answer = f'<div dir="auto" style="white-space:pre-wrap;font-weight:600">{html.escape(trajectory.answer_text)}</div>'
    return (
        f'<details{" open" if selected else ""} style="border-left:3px solid {border};padding-left:8px;margin-top:4px">'
        f'<summary style="cursor:pointer">#{trajectory.index} <b>{number(trajectory.score)}</b> '
        f"{strip_html} {trajectory.tokens:,} tokens, {html.escape(facts + let_go(trajectory))}</summary>"
        f"{body}{answer if trajectory.answer_text else ''}</details>"
    )


def _cell(step: Step) -> str:
    return (
        f'<span title="{step.score:.3f}" style="display:inline-block;width:7px;height:12px;margin-right:1px;'
        f'background:rgb{score_color(step.score)}"></span>'
    )
