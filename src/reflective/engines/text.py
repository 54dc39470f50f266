"""Between text and token ids, alike for every engine and for training: prompts, what is written, where it ends.

No torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from reflective.errors import InputError, first_line
from reflective.judge.format import step_positions
from reflective.judge.judge import Judge

if TYPE_CHECKING:
    from reflective.engines.base import Engine


def encode_chat(
    tokenizer: Any,
    judge: Judge,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> tuple[int, ...]:
    """Token ids of a chat in the model's template, with the reasoning opened where it lies between marks.

    Raises `InputError` where the template refuses the messages.
    """
    if getattr(tokenizer, "chat_template", None):
        kwargs = dict(judge.config.template_kwargs)
        if tools:
            kwargs["tools"] = list(tools)
        try:
            text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True, **kwargs)
        except Exception as error:  # a template is a program of the model's author, and raises what it likes
            roles = ", ".join(dict.fromkeys(message["role"] for message in messages))
            raise InputError(
                f"the model's chat template refuses these messages (roles {roles}): {first_line(error)}."
            ) from error
    else:
        text = "\n\n".join(message["content"] for message in messages) + "\n"
    ids = list(tokenizer.encode(text, add_special_tokens=False, verbose=False))
    if not judge.format.open(ids).reasoning:
        ids += judge.format.opening_ids
    return tuple(ids)


def text_decoder(tokenizer: Any) -> Callable[[list[int]], str]:
    """Token ids to text, special tokens included; around the checks of every call that `transformers` makes."""
    from transformers import PreTrainedTokenizerFast

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and type(tokenizer)._decode is PreTrainedTokenizerFast._decode:
        return partial(backend.decode, skip_special_tokens=False)
    return lambda ids: str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


STEP_END: Final = " ⏎"  # marks where a step ends


def marked_steps(engine: Engine, token_ids: Sequence[int]) -> str:
    """The text of a response with a mark behind each of its steps, for a reader."""
    parts, rest = steps_of_text(engine, token_ids)
    return "".join(part.rstrip("\n") + f"{STEP_END}\n\n" for part in parts) + rest


def steps_of_text(engine: Engine, token_ids: Sequence[int]) -> tuple[list[str], str]:
    """The texts of the steps of a response, and what follows the last one.

    The reasoning counts as opened, as every prompt of ours leaves it.
    """
    format = engine.judge.format
    parts, start = [], 0
    for position in step_positions(format, token_ids, format.opening_ids):
        end = position + (token_ids[position] not in format.end_ids)
        parts.append(engine.decode(token_ids[start:end]))
        start = position + 1
    return parts, engine.decode(token_ids[start:])
