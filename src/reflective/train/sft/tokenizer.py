"""A small byte-level BPE tokenizer, learnt from texts, in the form that every Hugging Face runtime loads.

What it promises: any Unicode text survives encode and decode; a digit is always a token of its own, with or without
the space before it, so that numbers look alike wherever they stand; `.\\n\\n` is exactly one token, which makes it a
step token; `<think>` and `</think>` are one token each; the same texts give the same tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from reflective.errors import InputError

PAD, MESSAGE_START, MESSAGE_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
THINK, THINK_END, STEP_END = "<think>", "</think>", ".\n\n"
SPECIAL = (PAD, MESSAGE_START, MESSAGE_END)  # left out by `skip_special_tokens`
PLAIN_ADDED = (THINK, THINK_END, STEP_END)  # one token each, but text like any other
BYTES = 256

# A digit, a word or one sign, each with at most one space before it; newlines; other white space one by one.
PIECES = r" ?\p{N}| ?\p{L}+|\n+| ?[^\s\p{L}\p{N}]|\s"
SPACED_DIGITS = "".join(f" {digit}" for digit in range(10))

# The prompt opens the reasoning; the model goes on with a newline and its first step.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>{% endif %}"
)


def build_tokenizer(texts: Iterable[str], vocab_size: int, model_max_length: int = 1024) -> PreTrainedTokenizerFast:
    """Learns at most `vocab_size` tokens (bytes, merges and the six added tokens) from `texts`."""
    least = BYTES + len(SPECIAL) + len(PLAIN_ADDED) + 10
    if vocab_size < least:
        raise InputError(f"a vocabulary of {vocab_size} is too small: bytes, digits and marks alone need {least}.")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL) - len(PLAIN_ADDED),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_with_digits(texts), trainer)
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in SPECIAL])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in PLAIN_ADDED])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=MESSAGE_END,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=model_max_length,
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes the tokenizer, a generic one under the class name that every version of transformers knows."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("tokenizer_class") == "TokenizersBackend":  # its name since transformers 5
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def padded_vocab_size(tokens: int, multiple: int = 64, spare: int = 2) -> int:
    """Rows of the embedding: a multiple that leaves `spare` ids which the tokenizer never uses."""
    return -(-(tokens + spare) // multiple) * multiple


def _with_digits(texts: Iterable[str]) -> Iterator[str]:
    """The texts, and often enough each digit behind a space, so that all twenty forms of a digit become tokens."""
    return chain(texts, (SPACED_DIGITS for _ in range(100_000)))
