"""The head inside vLLM: step scores leave stock vLLM in the pass that generates, with no fork and no second pass.

vLLM calls `register` in each of its processes (entry point `vllm.general_plugins`). From then on each model class
that vLLM loads is a subclass of its own that looks for a head in the checkpoint. Without one it does exactly what it
did; with one

    forward         asks the backbone for the hidden state that enters the head's layer (the hook that vLLM has for
                    EAGLE-3, which also crosses pipeline stages) and carries it beside the final hidden state;
    compute_logits  runs the head on the positions that are sampled from, and writes its logit into vocabulary slots
                    (`reflective.engines.vllm.slots`).

What can't be scored correctly is refused when the model is loaded: a class without that hook, speculative decoding,
processed log-probabilities, sampling that is sharded over ranks.

Letters: T positions of a batch, R rows that are sampled from, H hidden size, V vocabulary.

Departure from the reference: it scores with a second copy of the model, in a second pass over decoded text.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from reflective.engines.vllm.plan import OURS, Plan, make_plan
from reflective.engines.vllm.slots import write_slots
from reflective.errors import EngineError

PARTS: Final = "sprm."  # prefix of the head's weights where they come with the model's
LARGEST_VOCABULARY: Final = 2**18  # texts of tokens that are remembered
COUNTED_AT_ONCE: Final = 2**18  # values; fewer are counted sooner than a compiled function is found


def register() -> None:
    """Make vLLM load reflective versions of its model classes. Calling it again changes nothing."""
    from vllm import ModelRegistry

    remember_texts()
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
                gather_at_once()
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
            # w · c, where a head reads log-probabilities, is added by whoever knows the whole step
            if logits is None:
                return None
            return write_slots(plan.slots, logits.float(), self.sprm.mlp(feature), normalise=plan.normalise)

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


# ---- what slots cost


def remember_texts() -> None:
    """Let vLLM's server turn each token into text once: it does so for the slots beside every token that is written.

    The result is the same. Calling it again changes nothing.
    """
    from vllm.v1.engine import logprobs

    own = logprobs.convert_ids_list_to_tokens
    if list(inspect.signature(own).parameters) == ["tokenizer", "token_ids"]:
        logprobs.convert_ids_list_to_tokens = _remembered(own)


def _remembered(own: Any) -> Any:
    if hasattr(own, "__wrapped__"):
        return own

    @functools.lru_cache(maxsize=LARGEST_VOCABULARY)
    def text_of(tokenizer: Any, token: int) -> str:
        (text,) = own(tokenizer, [token])
        return str(text)

    @functools.wraps(own)
    def convert(tokenizer: Any, token_ids: Any) -> list[str]:
        return [text_of(tokenizer, token) for token in token_ids]

    return convert


def gather_at_once() -> None:
    """Let vLLM's sampler read the slots of all rows in one operation. Calling it again changes nothing.

    vLLM 0.32 fills a table row by row, a tenth of a step of a small model at 32 rows. Where rows ask for different
    ids, or the sampler is not the one that this was written for, vLLM's own code runs.
    """
    from vllm.v1.sample import sampler

    own = sampler.Sampler.gather_specific_token_logprobs
    if list(inspect.signature(own).parameters) == ["self", "logprobs", "logprob_token_ids", "sampled"]:
        sampler.Sampler.gather_specific_token_logprobs = _at_once(own, sampler)


def _at_once(own: Any, sampler: Any) -> Any:
    if hasattr(own, "__wrapped__"):
        return own
    import torch

    @functools.lru_cache(maxsize=64)
    def on_device(ids: tuple[int, ...], device: Any) -> Any:
        return torch.tensor(ids, device=device)

    @functools.wraps(own)
    def specific_logprobs(self: Any, logprobs: Any, logprob_token_ids: Any, sampled: Any) -> Any:
        wanted = list(logprob_token_ids.values())
        if len(wanted) != len(logprobs) or any(ids != wanted[0] for ids in wanted):
            return own(self, logprobs, logprob_token_ids, sampled)
        ids = on_device(tuple(wanted[0]), logprobs.device)  # (n,)
        columns = torch.cat([sampled.unsqueeze(-1), ids.expand(len(wanted), -1)], dim=-1)  # (R, 1 + n)
        values = logprobs.gather(-1, columns)  # (R, V) -> (R, 1 + n)
        chosen = values[:, :1].contiguous()  # (R, 1)
        if logprobs.numel() <= COUNTED_AT_ONCE:
            ranks = (logprobs >= chosen).sum(-1)  # (R, V) -> (R,)
        else:
            for tensor in (logprobs, chosen):  # as vLLM does: one compiled count for any number of rows
                torch._dynamo.decorators.mark_unbacked(tensor, 0)
            ranks = sampler.batched_count_greater_than(logprobs, chosen)
        return sampler.LogprobsTensors(columns.to(torch.int32), values, ranks)

    return specific_logprobs


# ---- parts of the model


def _mark(vllm_config: Any, plan: Plan) -> None:
    """Let vLLM's cache of compiled models tell this model from the one without the extra output."""
    extra = vllm_config.additional_config
    if isinstance(extra, dict):
        vllm_config.additional_config = {**extra, OURS: {**extra.get(OURS, {}), "layer": plan.layer}}


def _empty_head(plan: Plan) -> Any:
    """A head with the plan's shapes, where and as vLLM makes its modules; weights come with `load_weights`."""
    from reflective.judge.heads import new_head

    return new_head(plan.judge.config).eval()


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
