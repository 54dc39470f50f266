from __future__ import annotations

import random
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from reflective.errors import InputError
from reflective.train.sft.tokenizer import build_tokenizer, padded_vocab_size, save_tokenizer

TEXTS = ["12 + 7 = 19, 19 - 7 = 12, right.\n\nSo 19, checked.\n\n</think>\n\n\\boxed{19}"] * 20


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(build_tokenizer(TEXTS, 300), folder)
    return AutoTokenizer.from_pretrained(folder)


def ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


@pytest.mark.parametrize(
    "text", [".\n\n", "<think>", "</think>", "<|im_end|>", *"0123456789", *(f" {i}" for i in range(10))]
)
def test_is_one_token(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    assert len(ids(tokenizer, text)) == 1


def test_numbers_are_written_digit_by_digit(tokenizer: PreTrainedTokenizerBase) -> None:
    four, spaced_four = ids(tokenizer, "4")[0], ids(tokenizer, " 4")[0]
    assert ids(tokenizer, " 444") == [spaced_four, four, four]


def test_the_step_end_is_one_token_wherever_it_stands(tokenizer: PreTrainedTokenizerBase) -> None:
    step_end = ids(tokenizer, ".\n\n")[0]
    assert ids(tokenizer, "So 1.\n\n</think>\n\n\\boxed{1}").count(step_end) == 1
    assert ids(tokenizer, "1.\n\n\n") == [*ids(tokenizer, "1"), step_end, *ids(tokenizer, "\n")]


def test_any_text_survives(tokenizer: PreTrainedTokenizerBase) -> None:
    rng = random.Random(0)
    texts = ["", " ", "\r\n\t  x\u00a0y", "é e\u0301 日本語 🙂\u200d🙂 ½ ٣", "<think>\n1.\n\n</think>", " .\n\n.\n\n"]
    texts += [
        "".join(chr(rng.choice([rng.randrange(32, 127), rng.randrange(0xD7FF), 10, 32])) for _ in range(40))
        for _ in range(50)
    ]
    for text in texts:
        assert tokenizer.decode(ids(tokenizer, text)) == text


def test_thinking_is_kept_where_special_tokens_are_not(tokenizer: PreTrainedTokenizerBase) -> None:
    text = "<|im_start|><think>\n1.\n\n</think><|im_end|>"
    assert tokenizer.decode(ids(tokenizer, text), skip_special_tokens=True) == "<think>\n1.\n\n</think>"


def test_the_prompt_opens_the_thinking(tokenizer: PreTrainedTokenizerBase) -> None:
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "1 + 1?"}], add_generation_prompt=True, tokenize=False
    )
    assert prompt == "<|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n<think>"


def test_prompt_and_completion_meet_at_a_token_boundary(tokenizer: PreTrainedTokenizerBase) -> None:
    prompt, completion = "assistant\n<think>", "\n1 + 1 = 2.\n\n</think>"
    assert ids(tokenizer, prompt + completion) == ids(tokenizer, prompt) + ids(tokenizer, completion)


def test_the_same_texts_give_the_same_tokenizer(tmp_path: Path) -> None:
    for name in "ab":
        save_tokenizer(build_tokenizer(TEXTS, 300), tmp_path / name)
    assert (tmp_path / "a" / "tokenizer.json").read_bytes() == (tmp_path / "b" / "tokenizer.json").read_bytes()


def test_a_vocabulary_too_small_for_bytes_is_refused() -> None:
    with pytest.raises(InputError, match="too small"):
        build_tokenizer(TEXTS, 256)


@pytest.mark.parametrize(("tokens", "rows"), [(1024, 1088), (1022, 1024), (1023, 1088), (62, 64)])
def test_the_padded_vocabulary_leaves_two_unused_ids(tokens: int, rows: int) -> None:
    assert padded_vocab_size(tokens) == rows
