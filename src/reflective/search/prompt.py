"""The prompt of a problem: its text or its messages, in the model's chat template."""

from __future__ import annotations

from reflective.engines.base import Engine
from reflective.errors import InputError
from reflective.types import Problem


def encode_problem(engine: Engine, problem: Problem, system: str | None = None) -> tuple[int, ...]:
    """The prompt: the problem, or its messages, behind the system message where there is one."""
    if system is None and not problem.messages:
        return engine.encode_prompt(problem.text)
    messages = [dict(message) for message in problem.messages] or [{"role": "user", "content": problem.text}]
    if system is not None:
        if messages[0]["role"] == "system":
            raise InputError("a system message was given twice: among the messages and as `system`. Leave one out.")
        messages.insert(0, {"role": "system", "content": system})
    return engine.encode_messages(messages)
