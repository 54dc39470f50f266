"""A fresh head: where its tokens come from, and what is said where the tokenizer lacks them."""

from __future__ import annotations

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from reflective.errors import CheckpointError
from reflective.judge.config import JudgeConfig
from reflective.judge.detection import turn_ids
from reflective.judge.format import step_positions
from tiny import init_head, tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return tiny_model("qwen2")


def bytes_only(*added: str) -> PreTrainedTokenizerFast:
    """A tokenizer without ".\\n\\n" as one token."""
    vocabulary = {piece: i for i, piece in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in added])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def marks(tokenizer: PreTrainedTokenizerFast, config: JudgeConfig) -> list[str]:
    """The opening and the closing mark, each one token."""
    ids = [min(ids) for mark in (config.format.opening, config.format.closing) for ids in mark]
    return list(tokenizer.convert_ids_to_tokens(ids))


def test_tokens_are_found_in_the_tokenizer(model: PreTrainedModel) -> None:
    tokenizer = tiny_tokenizer()
    head, config = init_head(model, tokenizer)
    assert tuple(sorted(config.format.step_ids)) == tuple(tokenizer.encode(".\n\n"))
    assert marks(tokenizer, config) == ["<think>", "</think>"]
    assert head.hidden_size == config.hidden_size == 64


def test_turns_of_the_template_are_known_to_the_rule(model: PreTrainedModel) -> None:
    tokenizer = tiny_tokenizer()
    _, config = init_head(model, tokenizer)
    assert tokenizer.convert_ids_to_tokens(sorted(config.format.turn_ids)) == [
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
    ]
    typed = [{"role": "user", "content": "what does <think> mean"}]
    prompt = tokenizer.apply_chat_template(typed, tokenize=False, add_generation_prompt=True).removesuffix("<think>\n")
    response = tokenizer.encode("It opens.\n\nThe thinking.\n\n")
    assert step_positions(config.format, response, tokenizer.encode(prompt)) == []
    assert len(step_positions(config.format, response, tokenizer.encode(prompt + "<think>\n"))) == 2


def test_turn_marks_that_do_not_count_as_special_are_found_in_the_template() -> None:
    tokenizer = bytes_only("<think>", "</think>", "<|User|>", "<|Assistant|>", "<tool>")
    assert turn_ids(tokenizer) == set()
    tokenizer.chat_template = (
        "{% for m in messages %}<|User|>{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}"
    )
    names = ["<|User|>", "<|Assistant|>", "<think>"]
    assert turn_ids(tokenizer) == set(tokenizer.convert_tokens_to_ids(names))
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    assert turn_ids(tokenizer) == set()


def test_the_weights_depend_on_the_seed_alone(model: PreTrainedModel) -> None:
    tokenizer = tiny_tokenizer()
    state = torch.get_rng_state()
    a, _ = init_head(model, tokenizer, seed=7)
    assert torch.equal(torch.get_rng_state(), state)  # and draw nothing from the caller's generator
    torch.randn(3)
    b, _ = init_head(model, tokenizer, seed=7)
    c, _ = init_head(model, tokenizer, seed=8)
    assert torch.equal(a.hidden.weight, b.hidden.weight)
    assert not torch.equal(a.hidden.weight, c.hidden.weight)


def test_step_tokens_may_be_named(model: PreTrainedModel) -> None:
    _, config = init_head(model, tiny_tokenizer(), step_token_ids=[198, 257, 198])
    assert tuple(sorted(config.format.step_ids)) == (198, 257)
    with pytest.raises(CheckpointError, match="vocabulary of 263"):
        init_head(model, tiny_tokenizer(), step_token_ids=[299])


def test_rules_that_read_the_vocabulary(model: PreTrainedModel) -> None:
    _, paper = init_head(model, tiny_tokenizer(), rule="paper")
    _, chinese = init_head(model, tiny_tokenizer(), rule="chinese")
    assert paper.format.step_ids == {257}
    assert chinese.format.step_ids == {198, 256, 257}  # "\n", "\n\n", ".\n\n"


def test_a_tokenizer_that_splits_the_mark_is_refused_where_it_is_asked_for(model: PreTrainedModel) -> None:
    with pytest.raises(CheckpointError, match=r"writes '.\\n\\n' as 3 tokens"):
        init_head(model, bytes_only("<think>", "</think>"), rule="reference")


def test_a_tokenizer_without_think_belongs_to_a_model_that_reasons_in_its_response(model: PreTrainedModel) -> None:
    tokenizer = bytes_only()
    tokenizer.eos_token = "!"
    _, config = init_head(model, tokenizer, step_token_ids=[13])
    assert config.format.is_whole and config.format.end_ids == {tokenizer.eos_token_id}


def test_other_marks_of_the_thinking_may_be_named(model: PreTrainedModel) -> None:
    tokenizer = bytes_only("<begin>", "<end>")
    _, config = init_head(model, tokenizer, step_token_ids=[13], think="<begin>", think_end="<end>")
    assert marks(tokenizer, config) == ["<begin>", "<end>"]


def test_settings_reach_head_and_config(model: PreTrainedModel) -> None:
    head, config = init_head(
        model, tiny_tokenizer(), layer=1, dropout=0.1, logprob_features=True, aggregation="min", feature_position="at"
    )
    assert head.uses_logprobs and head.dropout.p == 0.1
    assert (config.layer, config.aggregation, config.feature_position) == (1, "min", "at")
    with pytest.raises(CheckpointError, match="3 layers has 4"):
        init_head(model, tiny_tokenizer(), layer=9)
