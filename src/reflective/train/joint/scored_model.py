"""The head inside the model: one forward gives the policy's log-probabilities and the step logits.

The step logits are a declared field of the model's output: DDP and accelerate's mixed precision rebuild an output from
its declared fields. The head is a submodule and runs inside the wrapped forward, which FSDP and ZeRO-3 need.

Letters: B trajectories, n steps, T positions, H hidden size.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Hashable, Mapping
from dataclasses import make_dataclass
from typing import Any, Final, cast

import torch
from torch import Tensor

from reflective.judge.config import JudgeConfig
from reflective.judge.heads import StepHead, new_head
from reflective.judge.heads.paper import scale_backbone_gradient

HEAD: Final = "sprm"  # the submodule's name (`models.save.SUBMODULE_PREFIX`)


def base_model(model: Any) -> Any:
    """The causal LM itself, inside adapters where there are any."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def is_head(name: str) -> bool:
    """Whether a parameter of this name is the head's, whatever wraps the model."""
    return f".{HEAD}." in f".{name}"


def split_head(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A model's state dict as the head's, under the head's own names, and the rest."""
    head = {name.rpartition(f"{HEAD}.")[2]: tensor for name, tensor in state.items() if is_head(name)}
    return head, {name: tensor for name, tensor in state.items() if not is_head(name)}


def whole_head(config: JudgeConfig, state: Mapping[str, Tensor]) -> StepHead:
    """A head with these weights (the one in the model may be sharded). No random number is drawn: a run that saves
    goes on as one that does not."""
    with torch.random.fork_rng(devices=[]):
        head = new_head(config)
    head.load_state_dict(state)
    return head


def attach_head(model: Any, head: StepHead, layer: int, gradient_scale: float) -> None:
    """Let the model's forward take `step_index` (B, n) and give `step_logits` (B, n) back.

    `layer` is a place in `hidden_states`, from 0 (`JudgeConfig.layer_index`). `gradient_scale` is the share of the
    head's gradient that reaches the backbone. Call it when whatever else patches the forward has done so. Without
    `step_index`, the forward is what it was. Places below 0 are read at position 0: the caller masks them out.
    """
    lm = base_model(model)
    lm.add_module(HEAD, head)
    inner = lm.forward
    wanted, feature = _capture(layer, lm.config.get_text_config().num_hidden_layers)

    @functools.wraps(type(lm).forward)  # generation checks the signature
    def forward(
        self: Any, *args: Any, step_index: Tensor | None = None, step_logprobs: Tensor | None = None, **kwargs: Any
    ) -> Any:
        if step_index is None:
            return inner(*args, **kwargs)
        caught: list[Tensor] = []
        hook = self.base_model.register_forward_hook(lambda _, __, out: caught.append(feature(out)))
        try:
            out = inner(*args, **{**kwargs, "output_hidden_states": wanted})
        finally:
            hook.remove()
        logits = step_logits(getattr(self, HEAD), caught[0], step_index, step_logprobs, gradient_scale)
        kind = _with_step_logits(cast(Hashable, type(out)))
        return kind(**dict(out.items()), step_logits=logits)

    lm.forward = types.MethodType(forward, lm)


def _capture(layer: int, layers: int) -> tuple[bool | list[int], Callable[[Any], Tensor]]:
    """What to ask `transformers` for as `output_hidden_states`, and where the feature (B, T, H) then is.

    A list asks for the outputs of these decoder layers alone, so that no other hidden state is kept.
    """
    if layer == layers:
        return False, lambda out: out.last_hidden_state
    if layer == 0:  # embeddings are no layer's output
        return True, lambda out: out.hidden_states[0]
    return [layer - 1], lambda out: out.hidden_states[layer - 1]


def step_logits(
    head: StepHead, hidden: Tensor, step_index: Tensor, step_logprobs: Tensor | None, gradient_scale: float
) -> Tensor:
    """s (B, n) at the positions `step_index` (B, n) of the hidden states (B, T, H)."""
    index = step_index.clamp(min=0).unsqueeze(-1).expand(-1, -1, hidden.shape[-1])  # (B, n, H)
    features = scale_backbone_gradient(hidden.gather(1, index), gradient_scale)
    with torch.autocast(hidden.device.type, enabled=False):  # the head computes in its own float32
        if head.keeps_state:
            return torch.stack([head.read(steps) for steps in features])  # padding comes after a row's steps
        return head.read(features, step_logprobs)


@functools.cache
def _with_step_logits(kind: Any) -> Any:
    """The output's class with one more declared field."""
    return make_dataclass(f"{kind.__name__}WithStepLogits", [("step_logits", Tensor | None, None)], bases=(kind,))
