"""What can be known of a model without its weights: tokenizer, config, judge, ends of text, context length."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from reflective.errors import CheckpointError, first_line
from reflective.judge.judge import Judge, headless_judge
from reflective.judge.sidecar import has_head, head_folder, no_head, read_judge
from reflective.models.source import quiet, resolve_source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAMPLING: Final = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")  # of a generation config
TOKENIZER_FILES: Final = ("tokenizer.json", "*.model", "vocab.*", "*.tiktoken", "tekken.json")


@dataclass(frozen=True, eq=False)
class Metadata:
    """A model as whoever serves it must know it. `judge` has no head where the model has none."""

    name: str
    folder: Path
    tokenizer: Any
    model_config: Any
    judge: Judge
    eos_ids: frozenset[int]
    context_length: int

    @property
    def vocabulary(self) -> int:
        """Number of token ids that the model knows."""
        return int(self.model_config.get_text_config().vocab_size)


def read_metadata(
    source: str | Path,
    *,
    require_head: bool = True,
    head: str | Path | None = None,
    detection: Mapping[str, Any] | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
    weights: bool = False,
) -> Metadata:
    """The metadata of "nano", a folder or a hub id; of a hub model the weights are downloaded only with `weights`.

    The judge is the one in the folder `head`, or else the model's own. `detection` says how the format of a model
    without a head is found (see `judge.detection.detect_format`); `template_kwargs` is added to what the chat
    template is given.
    """
    folder = resolve_source(source, weights=weights)
    with quiet():
        if head is None and require_head and not has_head(folder):
            raise CheckpointError(no_head(source))
        model_config, tokenizer = read_plain(folder, source)
        ends = _eos_ids(folder, model_config, tokenizer)
        judge = read_judge(_head_source(head) if head is not None else folder, model_config, tokenizer)
        if judge is None:
            own = _own_sampling(folder)
            judge = headless_judge(model_config, tokenizer, sampling=own, end_ids=ends, **(detection or {}))
        elif detection:
            raise CheckpointError(
                f"the head of '{head or source}' was trained with a format of its own, which can't be changed. Leave "
                "the options of marks and steps out, or use the model without its head."
            )
    if template_kwargs:
        config = replace(judge.config, template_kwargs={**judge.config.template_kwargs, **template_kwargs})
        judge = replace(judge, config=config)
    text = model_config.get_text_config()
    return Metadata(
        name=str(source),
        folder=folder,
        tokenizer=tokenizer,
        model_config=model_config,
        judge=judge,
        eos_ids=ends,
        context_length=int(getattr(text, "max_position_embeddings", 0) or 0),
    )


def read_plain(folder: Path, source: str | Path) -> tuple[Any, PreTrainedTokenizerBase]:
    """The model's config and tokenizer, without its weights."""
    from transformers import AutoConfig, AutoTokenizer

    try:
        model_config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises whatever its parsers raise
        raise CheckpointError(
            f"the config.json of '{source}' is not one of a model that transformers knows: {first_line(error)}"
        ) from None
    if not any(path for pattern in TOKENIZER_FILES for path in folder.glob(pattern)):
        raise CheckpointError(  # transformers would make one that knows no word
            f"'{source}' has no tokenizer. Copy tokenizer.json and tokenizer_config.json into the folder."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the same
        raise CheckpointError(
            f"the tokenizer of '{source}' can't be loaded: {first_line(error)} "
            "Copy tokenizer.json and tokenizer_config.json into the folder."
        ) from None
    return model_config, tokenizer


def eos_ids_of(sources: Iterable[Any]) -> frozenset[int]:
    """Every token that ends an answer, by any of the configurations and tokenizers that say so."""
    found: set[int] = set()
    for source in sources:
        ids = getattr(source, "eos_token_id", None)
        found.update([ids] if isinstance(ids, int) else ids or [])
    return frozenset(found)


def _eos_ids(folder: Path, model_config: Any, tokenizer: Any) -> frozenset[int]:
    """Every token that ends an answer: the generation config's, the model's and the tokenizer's."""
    sources: list[Any] = [model_config, model_config.get_text_config(), tokenizer, _generation_config(folder)]
    return eos_ids_of(sources)


def _own_sampling(folder: Path) -> dict[str, float]:
    """How the model's makers want its tokens drawn, as far as their generation config says."""
    config = _generation_config(folder)
    if config is None or not config.do_sample:
        return {}
    found = {name: getattr(config, name, None) for name in SAMPLING}
    return {name: value for name, value in found.items() if isinstance(value, int | float) and value}


def _generation_config(folder: Path) -> Any:
    """The model's `generation_config.json`; None where it has none."""
    from transformers import GenerationConfig

    if not (folder / "generation_config.json").is_file():
        return None
    try:
        return GenerationConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the same
        raise CheckpointError(
            f"'{folder / 'generation_config.json'}' can't be read: {first_line(error)} Mend or remove it."
        ) from None


def _head_source(head: str | Path) -> Path:
    folder = Path(head).expanduser()
    if head_folder(folder) is None and not has_head(folder):
        raise CheckpointError(f"no head in '{head}': name a folder with config.json and head.safetensors (--head).")
    return folder
