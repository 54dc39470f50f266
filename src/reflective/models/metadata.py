"""What can be known of a model without its weights: tokenizer, config, judge, ends of text, context length."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from reflective.errors import CheckpointError, InputError, first_line
from reflective.judge.judge import Judge, headless_judge
from reflective.judge.sidecar import has_head, head_folder, no_head, read_judge
from reflective.models.fingerprint import check_shapes
from reflective.models.library_logging import quiet
from reflective.models.shipped import ShippedHead, head_of_hub_id, heads_by_shapes, shipped_heads
from reflective.models.source import resolve_source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAMPLING: Final = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")  # of a generation config
NO_HEAD: Final = "none"  # in place of a head's folder
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
    head_folder: Path | None = None
    """Where the head lies, if not in the model's folder."""
    shipped: str = ""
    """The name of the package's head that was found for the model, which its weights have yet to confirm."""
    remark: str = ""
    """What a user should know of the model; "" where there is nothing to say."""

    @property
    def vocabulary(self) -> int:
        """Number of token ids that the model knows."""
        return int(self.model_config.get_text_config().vocab_size)


def read_metadata(
    source: str | Path,
    *,
    folder: Path | None = None,
    require_head: bool = True,
    head: str | Path | None = None,
    check_fingerprint: bool = True,
    detection: Mapping[str, Any] | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
    weights: bool = False,
) -> Metadata:
    """The metadata of "nano", a folder, a GGUF file or a hub id.

    `folder` is where it is known to lie. Of a hub model the weights are downloaded only with `weights`. The judge
    is the one in the folder `head`, or else the model's own, or else one that the package ships for it (with
    `weights` also one that fits by its shapes); head "none" leaves all of them out. Without `check_fingerprint`, a
    head may belong to another model of the same width. `detection` says how the format of a model without a head is
    found (see `judge.detection.detect_format`); `template_kwargs` is added to what the chat template is given.
    """
    folder = folder or resolve_source(source, weights=weights)
    wanted = str(head) != NO_HEAD
    if not wanted and require_head:
        raise InputError(f"head is {NO_HEAD!r}, but a head is needed here. Leave it out, or name a head's folder.")
    place = _head_source(head) if head is not None and wanted else folder if wanted and has_head(folder) else None
    with quiet():
        if place is None and require_head and not shipped_heads():
            raise CheckpointError(no_head(source))
        model_config, tokenizer = read_plain(folder, source)
        ends = _eos_ids(folder, model_config, tokenizer)
        shipped = None
        if place is None and wanted and not detection:
            shipped = _shipped_head(source, model_config, tokenizer, weights)
        if place is None and require_head and shipped is None:
            raise CheckpointError(no_head(source))
        place = shipped.folder if shipped is not None else place
        judge = read_judge(place, model_config, tokenizer) if place is not None else None
        if judge is None:
            own = _own_sampling(folder)
            judge = headless_judge(model_config, tokenizer, sampling=own, end_ids=ends, **(detection or {}))
        elif detection:
            raise CheckpointError(
                f"the head of '{head or source}' was trained with a format of its own, which can't be changed. Leave "
                "the options of marks and steps out, or use the model without its head."
            )
    if check_fingerprint and judge.config.fingerprint is not None:
        check_shapes(judge.config.fingerprint, model_config, tokenizer, str(source))
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
        head_folder=place if place != folder else None,
        shipped=shipped.name if shipped is not None else "",
        remark=_remark(tokenizer, judge, shipped),
    )


def _shipped_head(source: str | Path, model_config: Any, tokenizer: Any, weights: bool) -> ShippedHead | None:
    """The package's head for a model; one that only fits by its shapes where weights will be there to confirm it."""
    named = head_of_hub_id(source)
    if named is not None or not weights:
        return named
    return next(iter(heads_by_shapes(model_config, tokenizer)), None)


def _remark(tokenizer: Any, judge: Judge, shipped: ShippedHead | None) -> str:
    told = []
    if shipped is not None:
        told.append(f"step scores by the head {shipped.name!r}, which comes with the package (reflective heads).")
    if not getattr(tokenizer, "chat_template", None) and (shipped is not None or not judge.scores):
        told.append(
            "The model has no chat template, as base models have none: problems are given to it as plain text. Its "
            "instruct version answers better."
        )
    return " ".join(told)


def read_plain(folder: Path, source: str | Path) -> tuple[Any, PreTrainedTokenizerBase]:
    """The model's config and tokenizer, without its weights."""
    from transformers import AutoConfig, AutoTokenizer

    try:
        model_config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises whatever its parsers raise
        raise CheckpointError(
            f"the config.json of '{source}' is not one of a model that transformers knows: {first_line(error)}."
        ) from None
    if not any(path for pattern in TOKENIZER_FILES for path in folder.glob(pattern)):
        raise CheckpointError(  # transformers would make one that knows no word
            f"'{source}' has no tokenizer. Copy tokenizer.json and tokenizer_config.json into the folder."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the same
        raise CheckpointError(
            f"the tokenizer of '{source}' can't be loaded: {first_line(error)}. "
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
            f"'{folder / 'generation_config.json'}' can't be read: {first_line(error)}. Mend or remove it."
        ) from None


def _head_source(head: str | Path) -> Path:
    folder = Path(head).expanduser()
    if head_folder(folder) is None and not has_head(folder):
        raise CheckpointError(f"no head in '{head}': name a folder with config.json and head.safetensors (--head).")
    return folder
