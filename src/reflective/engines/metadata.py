"""A model as whoever serves it elsewhere must know it: tokenizer, head, slots, ends of text; no backbone's weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reflective.engines.text import eos_ids_of
from reflective.engines.vllm.slots import Slots, slots_of
from reflective.errors import CheckpointError
from reflective.judge.logprobs import LogprobTerms
from reflective.models.load import has_head, no_head, read_head, read_plain
from reflective.models.source import quiet, resolve_source


@dataclass(frozen=True, eq=False)
class Described:
    """What can be known of a model without its weights. Without a head, `head`, `config` and `slots` are None."""

    name: str
    folder: Path
    tokenizer: Any
    model_config: Any
    head: Any
    config: Any
    slots: Slots | None
    eos_ids: frozenset[int]
    context_length: int

    @property
    def vocabulary(self) -> int:
        """Number of token ids that the model knows."""
        return int(self.model_config.get_text_config().vocab_size)

    @property
    def logprob_terms(self) -> LogprobTerms | None:
        """What log-probabilities add to MLP(h), where the head reads them."""
        terms: LogprobTerms | None = self.head.logprob_terms if self.head is not None else None
        return terms


def describe_model(source: str | Path, *, require_head: bool = True) -> Described:
    """Tokenizer, config and head of "nano", a folder or a hub id; the backbone's weights are not read."""
    folder = resolve_source(source, weights=False)
    if require_head and not has_head(folder):
        raise CheckpointError(no_head(source))
    with quiet():
        model_config, tokenizer = read_plain(folder, source)
        head, config = read_head(folder, model_config, tokenizer)
    if config is not None and config.feature_position != "before":
        raise CheckpointError(
            f"the head of '{source}' reads {config.feature_position!r} the step token; generation scores a step from "
            "the position before it. Train the head with feature_position 'before'."
        )
    text = model_config.get_text_config()
    return Described(
        name=str(source),
        folder=folder,
        tokenizer=tokenizer,
        model_config=model_config,
        head=head,
        config=config,
        slots=slots_of(tokenizer, text) if head is not None else None,
        eos_ids=_eos_ids(folder, model_config, tokenizer),
        context_length=int(getattr(text, "max_position_embeddings", 0) or 0),
    )


def _eos_ids(folder: Path, model_config: Any, tokenizer: Any) -> frozenset[int]:
    """Every token that ends an answer: the generation config's, the model's and the tokenizer's."""
    from transformers import GenerationConfig

    sources: list[Any] = [model_config, model_config.get_text_config(), tokenizer]
    if (folder / "generation_config.json").is_file():
        sources.append(GenerationConfig.from_pretrained(folder, local_files_only=True))
    return eos_ids_of(sources)
