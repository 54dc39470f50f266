"""Between text and token ids, alike for every engine and for training: prompts, what is written, where it ends.

No torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from reflective.judge.format import StepRule, StepTracker


def encode_chat(tokenizer: Any, rule: StepRule | None, messages: Sequence[dict[str, str]]) -> tuple[int, ...]:
    """Token ids of a chat in the model's template; where it does not open the thinking, `<think>` is appended."""
    if getattr(tokenizer, "chat_template", None):
        text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    else:
        text = "\n\n".join(message["content"] for message in messages) + "\n"
    ids = list(tokenizer.encode(text, add_special_tokens=False, verbose=False))
    if rule is not None and not StepTracker(rule, ids).thinking:
        ids.append(rule.think_id)
    return tuple(ids)


def text_decoder(tokenizer: Any) -> Callable[[list[int]], str]:
    """Token ids to text, special tokens included; around the checks of every call that `transformers` makes."""
    from transformers import PreTrainedTokenizerFast

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and type(tokenizer)._decode is PreTrainedTokenizerFast._decode:
        return partial(backend.decode, skip_special_tokens=False)
    return lambda ids: str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def eos_ids_of(sources: Iterable[Any]) -> frozenset[int]:
    """Every token that ends an answer, by any of the configurations and tokenizers that say so."""
    found: set[int] = set()
    for source in sources:
        ids = getattr(source, "eos_token_id", None)
        found.update([ids] if isinstance(ids, int) else ids or [])
    return frozenset(found)
