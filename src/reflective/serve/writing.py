"""A question on its way to an answer, in terms of no endpoint: what chat completions and responses are both made of.

`write` yields, in order: `Told` (an object for the `reflective` member), `Delta` (more of an answer), None (nothing
happened for a while) and at last an `Outcome`. Deltas come only where they were asked for.

Where an answer must have a form, it is written under a constraint, behind free reasoning. A model whose whole response
is the reasoning is asked once more: the selected response is then the reasoning, and what follows is the answer. Where
a tool call is asked for and the selected response already makes one, it is the answer, and nothing more is asked.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from typing import Any, Literal

from reflective.search import Answering, Finished, Forked, SearchEvent, Single, Started, StepScored, Text
from reflective.serve.answers import Answer, answers_of, usage_of, voter
from reflective.serve.events import EventWriter, solved
from reflective.serve.forms import OBJECT, JsonForm
from reflective.serve.prompts import Question
from reflective.serve.service import Service
from reflective.serve.tools import BARE, OPENING, Call
from reflective.serve.visitor import Visitor
from reflective.types import Problem, Solution, Timing, Usage

KEEP_ALIVE_S = 10.0
PROGRESS_S = 0.5  # between two reports of progress
CALL_PROMPT = "Now make the call that is needed, as JSON.{schema}"
EVENTS: frozenset[type[Any]] = frozenset((Started, StepScored, Answering, Forked, Finished, Text))
NOTHING: frozenset[type[Any]] = frozenset()


@dataclass(frozen=True, slots=True)
class Told:
    """An object for the `reflective` member."""

    value: Any


@dataclass(frozen=True, slots=True)
class Delta:
    """More of answer number `index`."""

    index: int
    kind: Literal["reasoning", "content", "call"]
    text: str = ""
    call: Call | None = None
    number: int = 0  # of the call


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answers, best first; OpenAI's usage; the `reflective` object."""

    answers: list[Answer]
    usage: dict[str, Any]
    summary: dict[str, Any]
    solution: Solution


Item = Told | Delta | Outcome | None


async def write(service: Service, question: Question, visitor: Visitor, *, deltas: bool) -> AsyncGenerator[Item]:
    """Everything that comes of a question; see the module's docstring."""
    events = deltas and question.options.events
    with service.place(visitor.client, question.strategy.budget(question.k)) as place:
        if not place.came.done() and deltas:
            yield Told({"type": "queued", "before": service.admission.waiting - 1})
        while not place.came.done():
            await asyncio.wait([place.came], timeout=KEEP_ALIVE_S)
            if not place.came.done():
                yield None
        place.came.result()
        shown = Shown(service, question, silent=question.following is not None)
        writer = EventWriter(question.strategy.name, service.engine.judge.aggregation)
        reported = 0.0
        wanted = EVENTS if deltas else NOTHING
        of_calls = (lambda t: voter(question, t)) if question.tools else None
        with service.session(question, visitor, wanted, of_calls) as session:
            async for event in session.events(KEEP_ALIVE_S):
                if event is None:
                    yield None
                    continue
                line = writer.write(event, service.ends)
                if events or isinstance(event, Started):
                    if line is not None:
                        yield Told(line)
                elif isinstance(event, StepScored | Finished) and (now := time.monotonic()) - reported > PROGRESS_S:
                    reported = now
                    yield Told(writer.progress())
                for delta in shown.take(event):
                    yield delta
            if session.lost:
                yield Told({"type": "lost", "events": session.lost})
            solution = await session.solution()
        visitor.pay(solution.usage.prompt_tokens + solution.usage.completion_tokens)
        pairs = answers_of(solution, service.format, question)
        paid = solution.usage
        if question.following is not None and not pairs[0][1].calls:
            following = await asyncio.to_thread(_following, service, question, question.following, pairs[0][1].content)
            with service.session(following, visitor) as session:
                async for _ in session.events(KEEP_ALIVE_S):
                    if deltas:
                        yield None
                last = await session.solution()
            visitor.pay(last.usage.prompt_tokens + last.usage.completion_tokens)
            paid = _sum(paid, last.usage)
            solution = replace(solution, timing=_longer(solution.timing, last.timing.total_s))
            (written, answer) = answers_of(last, service.format, following)[0]
            given = [written] if written is not None else []
            answers = [replace(answer, reasoning=pairs[0][1].content)]
        else:
            given = [t for t, _ in pairs if t is not None]
            answers = [answer for _, answer in pairs]
    service.metrics.solved(solution)
    usage = usage_of(paid, service.format, given)
    if deltas:
        for i, answer in enumerate(answers):
            for delta in shown.rest(answer) if i == 0 else deltas_of(i, answer):
                yield delta
    steps = question.options.steps
    if sum(t.answer is not None for t in solution.trajectories) > 1:  # a vote asks graders
        summary = await asyncio.to_thread(solved, solution, usage, steps=steps)
    else:
        summary = solved(solution, usage, steps=steps)
    yield Outcome(answers, usage, summary, solution)


def _sum(one: Usage, other: Usage) -> Usage:
    return Usage(one.prompt_tokens + other.prompt_tokens, one.completion_tokens + other.completion_tokens)


def _longer(timing: Timing, answer_s: float) -> Timing:
    return replace(timing, total_s=timing.total_s + answer_s, answer_s=(timing.answer_s or 0.0) + answer_s)


def _following(service: Service, question: Question, form: JsonForm, response: str) -> Question:
    """The turn that asks for the answer in its form, behind the selected response."""
    schema = "" if form.schema == OBJECT else f" Its JSON schema: {json.dumps(form.schema)}"
    asked = CALL_PROMPT if question.must_call else service.settings.answer_prompt
    messages = [
        *question.messages,
        {"role": "assistant", "content": response},
        {"role": "user", "content": asked.replace("{schema}", schema)},
    ]
    problem = Problem(messages[-1]["content"], messages=tuple(messages))
    prompt_ids = service.engine.encode_messages(messages, tools=question.tools or None)
    question.settings.budgets(service.engine, len(prompt_ids))
    sampling = replace(question.settings.sampling, temperature=0.0)
    settings = replace(question.settings, sampling=sampling, constraint=form)
    tools = question.tools if question.must_call else ()
    of_calls: dict[str, Any] = {"tools": tools, "one_call": question.one_call, "must_call": question.must_call}
    return Question(problem, prompt_ids, 1, Single(), settings, messages, **of_calls)


def deltas_of(index: int, answer: Answer) -> list[Delta]:
    """An answer that has not been streamed."""
    found = [Delta(index, "reasoning", answer.reasoning)] if answer.reasoning else []
    if answer.content:
        found.append(Delta(index, "content", answer.content))
    return [*found, *(Delta(index, "call", call=call, number=i) for i, call in enumerate(answer.calls))]


class Shown:
    """What a streaming client has been given of the first answer: its reasoning, and its content as it is written.

    Content streams where the trajectory that is continued is the selected one; elsewhere it comes at the end. White
    space at the end is held back, and so are the token that ends the answer and what may begin a call: what has been
    sent is always the beginning of what is sent without a stream.
    """

    def __init__(self, service: Service, question: Question, *, silent: bool = False) -> None:
        whole = service.format.is_whole
        self._live = not silent and (question.k == 1 if whole else question.answers_selected)
        self._ends, self._tools = service.ends, bool(question.tools)
        self._index: int | None = 0 if whole else None
        self._text = self._sent = ""
        self._reasoned = False
        self._thinking: dict[int, str] = {}

    def take(self, event: SearchEvent) -> list[Delta]:
        """The deltas that an event gives."""
        if not self._live:
            return []
        match event:
            case Finished():
                self._thinking[event.id] = event.trajectory.thinking.strip()
            case Answering() if not self._sent:
                self._index, self._text = event.id, ""
            case Text() if event.id == self._index:
                self._text += event.delta
                return self._send(self._ready(), self._thinking.get(event.id))
        return []

    def rest(self, answer: Answer) -> list[Delta]:
        """What is still to be sent, now that the answer is known."""
        if not answer.content.startswith(self._sent):
            return []
        calls = (Delta(0, "call", call=call, number=i) for i, call in enumerate(answer.calls))
        return [*self._send(answer.content, answer.reasoning, last=True), *calls]

    def _ready(self) -> str:
        text = self._text.lstrip()
        for end in self._ends:
            text = text.removesuffix(end)
        if self._tools:
            if text.startswith(BARE):
                return ""
            text = text.partition(OPENING)[0]
            held = next((n for n in range(len(OPENING), 0, -1) if text.endswith(OPENING[:n])), 0)
            text = text[: len(text) - held]
        return text.rstrip()

    def _send(self, content: str, reasoning: str | None, *, last: bool = False) -> list[Delta]:
        deltas: list[Delta] = []
        new = content[len(self._sent) :]
        if not self._reasoned and (new or last):
            self._reasoned = True
            if reasoning:
                deltas.append(Delta(0, "reasoning", reasoning))
        if new:
            self._sent += new
            deltas.append(Delta(0, "content", new))
        return deltas
