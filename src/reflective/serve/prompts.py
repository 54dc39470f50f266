"""A request's messages and options as what the search needs: a problem, a budget, a strategy, settings, a prompt.

Roles are kept; "developer" is the newer name of "system". Reasoning of earlier turns is left out of the prompt.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from reflective.api import Reflective
from reflective.engines.base import Sampling
from reflective.errors import InputError
from reflective.search import (
    AUTO,
    STRATEGIES,
    BestOfN,
    Settings,
    Single,
    Steering,
    Strategy,
    resolve_effort,
)
from reflective.search.settings import check_problem
from reflective.selection import by_score
from reflective.serve.faults import TOO_LONG, Fault
from reflective.serve.forms import Forms, JsonForm
from reflective.serve.schemas import ChatRequest, Message, ReflectiveOptions
from reflective.serve.tools import checked_tools, must_call
from reflective.types import Problem

EFFORTS: Mapping[str, int] = {"none": 1, "minimal": 1, "xhigh": 64}  # those of OpenAI's that `solve` has no name for
LONGEST_TOKEN = 64  # characters a token: a prompt that is longer than a context full of such is not even read
ANSWER_TOKENS = 4096  # of an answer behind its reasoning, where the client sets no bound and the context has room

Messages = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, checked, and ready to be begun.

    `tools` are those that the prompt offers; with `must_call` the answer must be calls. `following` is the form in
    which a model whose whole response is the reasoning is asked for its answer once more, behind the selected response;
    the answers of others are held to their form at once (`settings.constraint`).
    """

    problem: Problem
    prompt_ids: tuple[int, ...]
    k: int
    strategy: Strategy
    settings: Settings
    messages: Messages
    n: int = 1
    tools: tuple[dict[str, Any], ...] = ()
    one_call: bool = False
    must_call: bool = False
    following: JsonForm | None = None
    options: ReflectiveOptions = field(default_factory=ReflectiveOptions)

    @property
    def names(self) -> list[str]:
        """Of the functions that are offered."""
        return [tool["function"]["name"] for tool in self.tools]

    @property
    def answers_selected(self) -> bool:
        """Whether the first trajectory that is continued to its answer is the selected one."""
        strategy = self.strategy
        return isinstance(strategy, Single) or (isinstance(strategy, BestOfN) and strategy.answers == "selected")


class BestAnswers(BestOfN):
    """Best of n that writes the answers of the `count` best trajectories."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def on_idle(self, run: Steering) -> None:
        for t in by_score([t for t in run.trajectories if t.closed])[: self.count]:
            if t.finish_reason == "think_end":
                run.answer(t.index)


def number_of(effort: str | int) -> str | int:
    """The trajectories of an effort, a name of OpenAI's or ours or a number; or "auto". Raises `InputError`."""
    if effort == AUTO:
        return effort
    return EFFORTS[effort] if isinstance(effort, str) and effort in EFFORTS else resolve_effort(effort)


def _effort_of(request: ChatRequest, default: str | int, n: int) -> str | int:
    """The number of trajectories, at least `n`, or "auto". Raises `Fault`."""
    own = request.reflective.effort if request.reflective is not None else None
    asked = next((given for given in (own, request.reasoning_effort) if given is not None), default)
    try:
        number = number_of(asked)
        return number if isinstance(number, str) else max(number, n)
    except InputError as error:
        param = "reasoning_effort" if own is None else "reflective.effort"
        raise Fault(400, str(error), param=param, code="invalid_value") from error


def read(request: ChatRequest, model: Reflective, effort: str | int, forms: Forms) -> Question:
    """What the request asks. Raises `Fault`, `InputError` and `ContextError`; takes as long as its prompt is long."""
    engine = model.engine
    messages = [turn(message, f"messages[{i}]") for i, message in enumerate(request.messages)]
    if messages and messages[-1]["role"] == "assistant":
        raise Fault(
            400,
            "the last message is the assistant's; an answer can't be continued here. End with a user's or a tool's.",
            param="messages",
            code="invalid_value",
        )
    length = sum(len(message["content"]) for message in messages)
    if length > engine.context_length * LONGEST_TOKEN:
        raise Fault(
            400,
            f"the messages have {length:,} characters; the context is {engine.context_length:,} tokens.",
            param="messages",
            code=TOO_LONG,
        )
    tools = checked_tools(request, engine)
    problem = _problem(messages, tools)
    n = request.n or 1
    k, strategy, settings = _plan(request, model, effort, n)
    if n > 1 and type(strategy) is BestOfN and strategy.answers == "selected":
        strategy = BestAnswers(n)
    limit = request.max_completion_tokens or request.max_tokens
    form, whole = forms.of(request, tools), engine.judge.format.is_whole
    if n > 1 and form is not None and whole:
        what = "this model's answer in a form is asked for behind its selected response; there is only one."
        raise Fault(400, what, param="n", code="unsupported_parameter")
    settings = replace(settings, total_tokens=limit, constraint=None if whole else form)
    prompt_ids = engine.encode_messages(messages, tools=tools or None)
    settings.budgets(engine, len(prompt_ids))  # raises where there is no room
    return Question(
        problem,
        prompt_ids,
        k,
        strategy,
        settings,
        messages,
        n=n,
        tools=tuple(tools),
        one_call=request.parallel_tool_calls is False,
        must_call=must_call(request),
        following=form if whole else None,
        options=request.reflective or ReflectiveOptions(),
    )


def turn(message: Message, where: str) -> dict[str, Any]:
    """A message as chat templates take it."""
    role = "system" if message.role == "developer" else message.role
    content = message.content
    if isinstance(content, list):
        for i, part in enumerate(content):
            if part.type not in ("text", "input_text", "output_text") or part.text is None:
                raise Fault(
                    400,
                    f"content of type {part.type!r:.40} can't be read; only text can.",
                    param=f"{where}.content[{i}].type",
                    code="unsupported_content",
                )
        content = "".join(part.text or "" for part in content)
    if content is None and role != "assistant":
        raise Fault(400, f"a {message.role} message needs content.", param=f"{where}.content", code="invalid_value")
    rendered: dict[str, Any] = {"role": role, "content": content or ""}
    if message.tool_calls:
        rendered["tool_calls"] = [
            {"type": "function", "id": call.id, "function": _called(call.function.name, call.function.arguments)}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        rendered["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        rendered["name"] = message.name
    return rendered


def _called(name: str, arguments: str) -> dict[str, Any]:
    """A call as templates print it: arguments as an object where they are one."""
    try:
        value = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        value = arguments
    return {"name": name, "arguments": value}


def _problem(messages: Messages, tools: Sequence[Any]) -> Problem:
    """The conversation as a problem; its text is the last user message, or where there is none the last message."""
    told = [message for message in messages if message["content"].strip()]
    asked = [message for message in told if message["role"] == "user"] or told
    if not asked:
        raise Fault(400, "no message has any text.", param="messages", code="invalid_value")
    # answers are compared as texts where they are calls of functions
    return check_problem(Problem(asked[-1]["content"], kind="exact" if tools else "math", messages=tuple(messages)))


def _plan(request: ChatRequest, model: Reflective, effort: str | int, n: int) -> tuple[int, Strategy, Settings]:
    """Trajectories, strategy and settings as the request has them. Raises `Fault` and `InputError`."""
    asked = _effort_of(request, effort, n)
    own = request.reflective or ReflectiveOptions()
    strategy = own.strategy if own.strategy is not None else "single" if asked == 1 else AUTO
    options: Any = {"effort": asked, "answers": own.answers, "answer_tokens": ANSWER_TOKENS, "strategy": strategy}
    if own.strategy_options:
        options["strategy_options"] = own.strategy_options
    for name in Sampling.__annotations__:
        if (value := getattr(request, name)) is not None:
            options[name] = value
    if options.get("top_k") == -1:  # off, as vLLM writes it
        options["top_k"] = 0
    options["seed"] = secrets.randbits(31) if request.seed is None else request.seed
    if request.stop:
        options["stop"] = request.stop
    try:
        return model.plan(**options)
    except InputError as error:  # sizes and types are checked: what is left is the strategy
        param = None
        if own.strategy is not None or own.strategy_options:
            named = strategy == AUTO or strategy in STRATEGIES
            param = "reflective.strategy_options" if named and own.strategy_options else "reflective.strategy"
        raise Fault(400, str(error), param=param, code="invalid_value") from error
