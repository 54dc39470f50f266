"""The SPRM head: one small MLP that scores a step from the hidden state that enters the last decoder layer.

It is the whole of what the method adds to a language model (paper, section 3.2). Letters: H hidden size, … any
leading dimensions.

Departures from the reference:
- Weights are kept in float32 whatever the backbone's type, and the logit comes out in float32.
- Optionally the token log-probabilities of the step enter as two additive features, initialised to no effect.
- Optionally a step's score is multiplied with the geometric mean p of its tokens' probabilities, to a power v: where
  every step looks right σ is flat, and p still tells trajectories apart. 0, no effect, while the head is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn

from reflective.judge.heads import StepHead, head_kind
from reflective.judge.logprobs import LogprobTerms

if TYPE_CHECKING:
    from reflective.judge.config import JudgeConfig

BACKBONE_GRADIENT_SCALE: Final = 1e-4  # share of the head's gradient that reaches the backbone; reference, dp_actor.py
DROPOUT: Final = 0.5  # reference, fsdp_workers.py
EXPANSION: Final = 2  # width of the hidden layer in units of H; paper, section 3.2

# ours -> the reference's: nn.Sequential(Linear, ReLU, Dropout, Linear) numbers its members
REFERENCE_KEYS: Final[Mapping[str, str]] = {
    "hidden.weight": "0.weight",
    "hidden.bias": "0.bias",
    "output.weight": "3.weight",
    "output.bias": "3.bias",
}


@head_kind("paper")
class SPRMHead(StepHead):
    """s = W2 · dropout(relu(W1 · h + b1)) + b2, plus w · c where log-probability features are on; there, the step's
    score is σ(s) · p^v, and the logit that of this product."""

    def __init__(
        self,
        hidden_size: int,
        dropout: float = DROPOUT,
        logprob_features: bool = False,
        probability_exponent: float = 0.0,
    ) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.hidden = nn.Linear(hidden_size, EXPANSION * hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(EXPANSION * hidden_size, 1)
        self.logprob_weight = nn.Parameter(torch.zeros(2)) if logprob_features else None
        if probability_exponent and not logprob_features:
            raise ValueError("a probability_exponent needs logprob_features: it reads the steps' log-probabilities.")
        self.probability_exponent = probability_exponent
        self.float()  # also where torch's default type is another

    @classmethod
    def from_config(cls, config: JudgeConfig) -> SPRMHead:
        """A head of the config's shapes, with weights that torch draws."""
        return cls(config.hidden_size, config.dropout, config.logprob_features, config.probability_exponent)

    @property
    def uses_logprobs(self) -> bool:
        """Whether `forward` wants the log-probability features c."""
        return self.logprob_weight is not None

    @property
    def logprob_terms(self) -> LogprobTerms | None:  # type: ignore[override]  # computed here, so that it follows w
        """w and v as numbers, for engines that add them to MLP(h) themselves; None for a plain head."""
        if self.logprob_weight is None:
            return None
        mean, lowest = self.logprob_weight.tolist()
        return LogprobTerms(mean, lowest, self.probability_exponent)

    def forward(self, h: Tensor, logprob_features: Tensor | None = None) -> Tensor:
        """Step logits (…) in float32 from hidden states (…, H) of any floating type.

        `logprob_features` c is (…, 2): the mean and the lowest log-probability of the step's tokens. It is wanted
        exactly by a head that `uses_logprobs`.
        """
        if h.shape[-1] != self.hidden_size:
            raise ValueError(f"the head reads hidden states of width {self.hidden_size}; got shape {tuple(h.shape)}.")
        if (logprob_features is not None) != self.uses_logprobs:
            raise ValueError(
                f"this head was built {'with' if self.uses_logprobs else 'without'} log-probability features; "
                f"{'pass' if self.uses_logprobs else 'leave out'} logprob_features."
            )
        s = self.mlp(h)
        if self.logprob_weight is not None and logprob_features is not None:
            if logprob_features.shape != (*h.shape[:-1], 2):
                want, got = (*h.shape[:-1], 2), tuple(logprob_features.shape)
                raise ValueError(f"logprob_features must have shape {want}; got {got}.")
            # s = MLP(h) + w · c
            s = s + logprob_features.float() @ self.logprob_weight.float()  # (…, 2) @ (2,) -> (…)
            if self.probability_exponent:
                s = _times_probability(s, logprob_features[..., 0].float(), self.probability_exponent)
        return s

    def mlp(self, h: Tensor) -> Tensor:
        """MLP(h) (…) in float32 from hidden states (…, H): the paper's head, all of it without log-probabilities."""
        # s = W2 · dropout(relu(W1 · h + b1)) + b2 (paper, section 3.2)
        x = torch.relu(self.hidden(h.to(self.hidden.weight.dtype)))  # (…, H) -> (…, 2H)
        s: Tensor = self.output(self.dropout(x)).squeeze(-1).float()  # (…, 2H) -> (…)
        return s


def _times_probability(s: Tensor, logprob: Tensor, exponent: float) -> Tensor:
    """`logprobs.times_probability` of tensors (…)."""
    loss = -exponent * logprob.clamp(max=0.0)
    log_q = nn.functional.logsigmoid(s) - loss
    return torch.where(loss > 0, log_q - torch.log(-torch.expm1(log_q)), s)


def scale_backbone_gradient(h: Tensor, scale: float = BACKBONE_GRADIENT_SCALE) -> Tensor:
    """The value of `h`, with `scale` times its gradient: the head learns at full rate, the backbone barely feels it."""
    # h ← scale·h + (1 − scale)·stopgrad(h) (reference, dp_actor.py), written so that the value stays bit for bit:
    # the bracket is exactly zero, and its gradient is `scale`
    return h.detach() + scale * (h - h.detach())


def to_reference(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A head's state dict under the reference's keys. Log-probability features have no place there: ValueError."""
    unknown = sorted(set(state) - set(REFERENCE_KEYS))
    if unknown:
        raise ValueError(f"the reference's format can't hold {', '.join(unknown)}; it knows the plain head only.")
    return {REFERENCE_KEYS[key]: tensor for key, tensor in state.items()}


def from_reference(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict for `SPRMHead` from one with the reference's keys, in float32; any "module." prefix goes."""
    ours = {theirs: key for key, theirs in REFERENCE_KEYS.items()}
    plain = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    if set(plain) != set(ours):
        got = ", ".join(sorted(state)[:8]) or "nothing"
        raise ValueError(f"a reference head has the keys {', '.join(sorted(ours))}; got {got}.")
    return {ours[key]: tensor.float() for key, tensor in plain.items()}
