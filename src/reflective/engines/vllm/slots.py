"""How step scores travel inside log-probabilities: the agreement between the vLLM plugin and its clients. No torch.

At every position the model writes into vocabulary slots, ids that the tokenizer never uses. The serving engine gives
their values back beside the sampled token's (`logprob_token_ids`), so a score is aligned with its token by
construction. With lse the logarithm of the softmax normaliser and s the head's logit:

    mode            SCORE            REFERENCE     NORMALISER
    raw_logprobs    −200 + s − lse   −200 − lse    (−200 − lse)
    raw_logits      −200 + s         −200          −200 + lse

so s = SCORE − REFERENCE in both. The mode shows in REFERENCE, which is exactly −200 for logits and never for
log-probabilities of a real vocabulary; a sampled token's log-probability is its value, less lse in the mode
raw_logits. NORMALISER is filled only for heads that read log-probabilities.

Letters: R rows that are sampled from, V vocabulary.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from reflective.errors import CheckpointError, EngineError

OFFSET: Final = -200.0  # a slot's logit: exp(−200) is no float32, so that no temperature up to 2 ever draws it
LOGIT_LIMIT: Final = 64.0  # |s| is cut here; σ(64) is 1 in float64
LARGEST_NORMALISER: Final = 150.0  # of |lse| in models that work; what lies outside is no score
LOGPROB_SLACK: Final = 1e-3  # a log-probability may exceed 0 by rounding

Mode = Literal["raw_logprobs", "raw_logits"]

# tokens that model makers keep in reserve, and rows without a token that GGUF names [PAD151665]: in no text
RESERVED: Final = re.compile(
    r"[<\[]\W*(unused|reserved|reserved_special_token|extra|control|dummy|placeholder|pad)\W?_?\d+\W*[>\]]",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Slots:
    """The three ids, and the mode that was found in the handshake (None: not known yet)."""

    score: int
    reference: int
    normaliser: int

    @property
    def ids(self) -> tuple[int, int, int]:
        """What to ask for, in the order of the values."""
        return self.score, self.reference, self.normaliser


def choose_slots(vocabulary: Mapping[str, int], size: int, taken: Iterable[int] = ()) -> Slots:
    """The three highest free ids of a vocabulary of `size` logits: first those of no token, then reserved tokens.

    `vocabulary` maps tokens to ids, `taken` are ids with a use, whatever their token is called. Server and client
    choose alike, since both know the tokenizer. Raises `CheckpointError` where there are fewer than three.
    """
    used, taken = set(vocabulary.values()), set(taken)
    free = [i for i in range(size - 1, -1, -1) if i not in used and i not in taken]
    if len(free) < 3:
        reserved = [i for token, i in vocabulary.items() if i < size and RESERVED.fullmatch(token)]
        free += sorted(set(reserved) - taken, reverse=True)
    if len(free) < 3:
        raise CheckpointError(
            f"the vocabulary of {size} has {len(free)} ids that the tokenizer never uses; step scores need 3 to travel "
            "in. Add rows with: model.resize_token_embeddings(len(tokenizer) + 3), and save the model."
        )
    return Slots(*free[:3])


def slots_of(tokenizer: Any, text_config: Any) -> Slots:
    """The slots of a model, from its tokenizer and the config of its language part: the same ones on all sides."""
    taken: set[int] = set()
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "sep_token_id", "mask_token_id"):
        for source in (text_config, tokenizer):
            ids = getattr(source, name, None)
            taken.update([ids] if isinstance(ids, int) else ids or [])
    return choose_slots(tokenizer.get_vocab(), int(text_config.vocab_size), taken)


def write_slots(slots: Slots, logits: Any, s: Any, *, normalise: bool) -> Any:
    """Logits (R, V) in float32 with the slots filled from s (R,), in place.

    `normalise` fills NORMALISER, in the mode raw_logits. Tensors are used as they come; torch is not imported.
    """
    # a column at a time: the index of several would have to be copied to the device, which waits for it
    for slot in slots.ids:
        logits[:, slot] = OFFSET
    if normalise:
        # −200 + lse; what this slot adds to the sum is below the resolution of float32
        lse = logits.logsumexp(-1).clamp(-LARGEST_NORMALISER, LARGEST_NORMALISER)
        logits[:, slots.normaliser] = OFFSET + lse
    logits[:, slots.score] += s.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
    return logits


def read_mode(reference: float) -> Mode:
    """The mode that the value of the reference slot tells of."""
    return "raw_logits" if reference == OFFSET else "raw_logprobs"


def read_logit(score: float, reference: float) -> float:
    """s from the values of two slots. Raises `EngineError` where these are not what the plugin writes."""
    s = score - reference
    if not (abs(reference - OFFSET) <= LARGEST_NORMALISER and abs(s) <= LOGIT_LIMIT * 1.01):  # false for NaN, too
        raise EngineError(
            f"the server's log-probabilities hold no step scores (slots: {score:.4g}, {reference:.4g}): "
            "is reflective installed where vLLM runs, and is its plugin loaded (VLLM_PLUGINS)?"
        )
    return s


def read_logprob(value: float, reference: float, normaliser: float | None) -> float | None:
    """The log-probability of a token from its value; None where only logits are known and no normaliser."""
    if read_mode(reference) == "raw_logprobs":
        return min(value, 0.0)
    # lse: the slot holds −200 + lse
    lse = None if normaliser is None or normaliser <= OFFSET - LARGEST_NORMALISER else normaliser - OFFSET
    if lse is None or not math.isfinite(value) or value - lse > LOGPROB_SLACK:
        return None
    return min(value - lse, 0.0)
