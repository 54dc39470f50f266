"""Prompt templates: a text with one `{problem}` in it, where the question goes."""

from __future__ import annotations

from typing import Final

from reflective.errors import InputError

SLOT: Final = "{problem}"
BOXED: Final = f"{SLOT}\nPlease reason step by step, and put your final answer within \\boxed{{}}."
_BOXED_ASKED: Final = "\\boxed{}"  # a question that asks for a box already is not asked twice


def check_prompt(prompt: str) -> str:
    """The prompt. Raises `InputError` where it has no place for the question, or several."""
    if prompt.count(SLOT) != 1:
        raise InputError(f"a prompt needs {SLOT} exactly once, where the question goes; got {prompt!r}.")
    return prompt


def ask(question: str, prompt: str) -> str:
    """The question inside the prompt."""
    check_prompt(prompt)
    if prompt == BOXED and _BOXED_ASKED in question:
        return question
    return prompt.replace(SLOT, question)
