"""A fresh head for a model that has none, and where its steps end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from reflective.errors import CheckpointError
from reflective.judge.aggregate import DEFAULT_AGGREGATION
from reflective.judge.config import FeaturePosition, SPRMConfig
from reflective.judge.format import RuleName, step_ids_by_rule
from reflective.judge.heads.paper import DROPOUT, SPRMHead

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def init_head(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    rule: RuleName = "reference",
    step_token_ids: Iterable[int] | None = None,
    think: str = "<think>",
    think_end: str = "</think>",
    layer: int = -2,
    feature_position: FeaturePosition = "before",
    aggregation: str = DEFAULT_AGGREGATION,
    dropout: float = DROPOUT,
    logprob_features: bool = False,
    provenance: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> tuple[SPRMHead, SPRMConfig]:
    """A randomly initialised float32 head on the model's device, and its config.

    Steps end at `step_token_ids`, or else at the tokens that `rule` finds. The weights depend on `seed` alone, so
    that all ranks of a training run begin with the same head.
    """
    config = infer_config(
        tokenizer,
        int(model.config.get_text_config().hidden_size),
        rule=rule,
        step_token_ids=step_token_ids,
        think=think,
        think_end=think_end,
        layer=layer,
        feature_position=feature_position,
        aggregation=aggregation,
        dropout=dropout,
        logprob_features=logprob_features,
        provenance=provenance or {},
    )
    check_fit(config, model.config, tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = new_head(config)
    return head.to(model.device), config


def new_head(config: SPRMConfig) -> SPRMHead:
    """A head as the config says, with weights that torch draws."""
    return SPRMHead(config.hidden_size, config.dropout, config.logprob_features, config.probability_exponent)


def infer_config(
    tokenizer: PreTrainedTokenizerBase,
    hidden_size: int,
    *,
    rule: RuleName = "reference",
    step_token_ids: Iterable[int] | None = None,
    think: str = "<think>",
    think_end: str = "</think>",
    **settings: Any,
) -> SPRMConfig:
    """The config of a head for this tokenizer; `settings` are further fields of `SPRMConfig`."""
    think_id, think_end_id = _single_token(tokenizer, think), _single_token(tokenizer, think_end)
    if step_token_ids is None:
        vocabulary = {} if rule == "reference" else _texts(tokenizer)
        ids: Iterable[int] = step_ids_by_rule(rule, lambda text: _encode(tokenizer, text), vocabulary)
    else:
        ids = step_token_ids
    return SPRMConfig(
        hidden_size=hidden_size,
        step_token_ids=tuple(sorted(set(ids))),
        think_id=think_id,
        think_end_id=think_end_id,
        turn_token_ids=tuple(sorted(turn_ids(tokenizer) - {think_id, think_end_id})),
        **settings,
    )


def turn_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids of the special tokens, and of the added tokens that the chat template writes around a message.

    The second half is needed since some models mark turns by added tokens that don't count as special.
    """
    added: dict[int, Any] = tokenizer.added_tokens_decoder
    special = {i for i, token in added.items() if token.special} | set(tokenizer.all_special_ids)
    if not getattr(tokenizer, "chat_template", None):
        return special
    try:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": "x"}], tokenize=False, add_generation_prompt=True
        )
    except Exception:  # a template is a program of the model's author: whatever it raises, it tells us nothing
        return special
    return special | (set(_encode(tokenizer, str(text))) & set(added))


def check_fit(config: SPRMConfig, model_config: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise `CheckpointError` if a head with this config can't belong to the model and tokenizer."""
    text_config = model_config.get_text_config()
    if config.hidden_size != text_config.hidden_size:
        raise CheckpointError(
            f"the head reads hidden states of width {config.hidden_size}, this model's are {text_config.hidden_size} "
            "wide. The head belongs to another model; train one for this."
        )
    config.layer_index(text_config.num_hidden_layers)
    known = min(int(text_config.vocab_size), len(tokenizer))
    for what, ids in (
        ("step tokens", config.step_token_ids),
        ("<think>", (config.think_id,)),
        ("</think>", (config.think_end_id,)),
    ):
        missing = [i for i in ids if i >= known]
        if missing:
            raise CheckpointError(
                f"{what} {', '.join(map(str, missing[:5]))} of the head lie outside the model's vocabulary of {known} "
                "tokens. The head belongs to another model or tokenizer."
            )


def _single_token(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    for i, token in tokenizer.added_tokens_decoder.items():
        if token.content == text:  # encoding it alone may put a space before it
            return int(i)
    ids = _encode(tokenizer, text)
    if len(ids) != 1:
        raise CheckpointError(
            f"the tokenizer has no single token for {text!r} (it writes {len(ids)}), so the thinking can't be found. "
            "Add one (tokenizer.add_tokens, model.resize_token_embeddings, then fine-tune), "
            "or name the model's own marks with think= and think_end=."
        )
    return ids[0]


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def _texts(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """What each ordinary token decodes to."""
    added = tokenizer.added_tokens_decoder
    return {i: str(tokenizer.decode([i])) for i in tokenizer.get_vocab().values() if i not in added}
