"""A request's messages and options as what the search needs: a problem, a budget, a strategy, settings, a prompt.

Roles are kept. "developer" is the newer name of "system". Reasoning of earlier turns is left out of the prompt.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reflective.api import Reflective
from reflective.search import BestOfN, Settings, Single, Strategy
from reflective.search.settings import check_problem
from reflective.serve.faults import Fault
from reflective.serve.schemas import ChatRequest, Message
from reflective.types import Problem

EFFORTS: Mapping[str, int] = {"none": 1, "minimal": 1, "xhigh": 64}  # those of OpenAI's that `solve` has no name for
LONGEST_TOKEN = 64  # characters a token: a prompt that is longer than a context full of such is not even read


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, checked, and ready to be begun."""

    problem: Problem
    prompt_ids: tuple[int, ...]
    k: int
    strategy: Strategy
    settings: Settings

    @property
    def answers_selected(self) -> bool:
        """Whether the first trajectory that is continued to its answer is the selected one."""
        strategy = self.strategy
        return isinstance(strategy, Single) or (isinstance(strategy, BestOfN) and strategy.answers == "selected")


def effort_of(request: ChatRequest, default: str | int) -> str | int:
    """The budget: a name that `resolve_effort` knows, or a number."""
    asked = request.reflective.effort if request.reflective is not None else None
    if asked is None:
        asked = request.reasoning_effort
    if asked is None:
        asked = default
    return EFFORTS.get(asked, asked) if isinstance(asked, str) else asked


def read(request: ChatRequest, model: Reflective, effort: str | int) -> Question:
    """What the request asks. Raises `Fault`, `InputError` and `ContextError`; takes as long as its prompt is long."""
    messages = [_message(message, f"messages[{i}]") for i, message in enumerate(request.messages)]
    if not any(message["role"] == "user" and message["content"].strip() for message in messages):
        raise Fault(400, "no user message has any text.", param="messages", code="invalid_value")
    length = sum(len(message["content"]) for message in messages)
    if length > model.engine.context_length * LONGEST_TOKEN:
        raise Fault(
            400,
            f"the messages have {length:,} characters; the context is {model.engine.context_length:,} tokens.",
            param="messages",
            code="context_length_exceeded",
        )
    problem = check_problem(Problem.of_messages(messages))
    k, strategy, settings = model.plan(**_options(request, effort))
    prompt_ids = model.engine.encode_messages(messages)
    settings.budgets(model.engine, len(prompt_ids))  # raises where there is no room
    return Question(problem, prompt_ids, k, strategy, settings)


def _message(message: Message, where: str) -> dict[str, str]:
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
    if content is None and message.role != "assistant":
        raise Fault(400, f"a {message.role} message needs content.", param=f"{where}.content", code="invalid_value")
    return {"role": role, "content": content or ""}


def _options(request: ChatRequest, effort: str | int) -> Any:
    asked = effort_of(request, effort)
    own = request.reflective
    options: dict[str, Any] = {"effort": asked}
    if own is not None and own.strategy is not None:
        options["strategy"] = own.strategy
    elif asked == 1:
        options["strategy"] = "single"
    if own is not None:
        options["answers"] = own.answers
    for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty"):
        if (value := getattr(request, name)) is not None:
            options[name] = value
    if options.get("top_k") == -1:  # off, as vLLM writes it
        options["top_k"] = 0
    options["seed"] = secrets.randbits(31) if request.seed is None else request.seed
    limit = request.max_completion_tokens or request.max_tokens
    if limit is not None:
        options["max_tokens"] = limit
    return options
