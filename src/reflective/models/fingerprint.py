"""The fingerprint of a head's model: shapes, a digest of the vocabulary, and features of a fixed prompt.

It is stored with a head and compared when the head is loaded with a model. Shapes and vocabulary must be the same. The
features are the hidden states that the head reads, at some positions of a fixed text, projected to a few numbers. How
far a model's features are from them is its deviation: 0 for the same weights, about 1 for unrelated ones. A re-saved
copy is the same within rounding, and a quantised copy is close (measured: docs/checkpoints.md).

Letters: T tokens of the fixed text, P positions of it, H hidden size, K projections.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy
import torch
from torch import Tensor

from reflective.errors import CheckpointError

VERSION: Final = 1
TEXT: Final = (
    "A train leaves at 9:40 and travels 135 km at 60 km/h. When does it arrive?\n\n"
    "Distance divided by speed: 135 / 60 = 2.25 hours, which is 2 hours and 15 minutes.\n\n"
    "So it arrives at 11:55. def area(r): return 3.14159 * r ** 2  # a circle's\n"
    "Let x be the number of apples; then 3x + 4 = 19, hence x = 5. The answer is \\boxed{5}."
)
TOKENS: Final = 48  # T, at most
POSITIONS: Final = range(12, TOKENS, 3)  # P; the first positions are left out: many models park large values there
PROJECTIONS: Final = 64  # K
SAMPLED_IDS: Final = range(0, 2**15, 64)  # token ids whose texts are digested; padding of a vocabulary lies above
SHAPES: Final = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")

LIMIT: Final = 0.6  # deviation from which a model is another one: above int4 with a scale per row, below other weights
NOTICE: Final = 0.1  # deviation above which the user is warned; int8 stays below it


def fingerprint_of(model: Any, tokenizer: Any, layer: int) -> dict[str, Any]:
    """The fingerprint of a Hugging Face model for a head that reads `hidden_states[layer]`, as a JSON object.

    It takes one forward of `TOKENS` tokens.
    """

    def read(ids: list[int], positions: list[int], index: int) -> Tensor:
        return hidden_states(model, ids, index)[positions]

    return make_fingerprint(model, tokenizer, layer, read)


def make_fingerprint(
    model: Any, tokenizer: Any, layer: int, read: Callable[[list[int], list[int], int], Tensor]
) -> dict[str, Any]:
    """`fingerprint_of` where `read(ids, positions, index)` gives `hidden_states[index]` (P, H) at some positions.

    For models whose weights an engine holds; `model` itself may be without memory.
    """
    layers = int(model.config.get_text_config().num_hidden_layers)
    index = layer if layer >= 0 else layers + 1 + layer
    rows = int(model.get_input_embeddings().weight.shape[0])
    ids = [i for i in tokenizer.encode(TEXT, add_special_tokens=False, verbose=False) if i < rows][:TOKENS]
    centred = _centred(_projected(read(ids, _positions(ids), index)))
    numbers = (centred / centred.pow(2).mean().sqrt().clamp(min=1e-12)).half().numpy()
    return {
        "version": VERSION,
        "shapes": _shapes(model.config),
        "vocabulary": _vocabulary_digest(tokenizer),
        "layer": index,
        "tokens": ids,
        "features": base64.b64encode(numpy.ascontiguousarray(numbers, dtype="<f2").tobytes()).decode(),
    }


def check_shapes(fingerprint: Mapping[str, Any], model_config: Any, tokenizer: Any, name: str) -> None:
    """Raise `CheckpointError` where the model `name` has other shapes or another vocabulary."""
    _check_version(fingerprint)
    theirs, ours = dict(fingerprint.get("shapes", {})), _shapes(model_config)
    if theirs != ours:
        told = "; ".join(f"{key} {theirs.get(key)}, here {ours[key]}" for key in ours if theirs.get(key) != ours[key])
        raise CheckpointError(refusal(name, f"it was trained for another one ({told})"))
    if fingerprint.get("vocabulary") != _vocabulary_digest(tokenizer):
        raise CheckpointError(refusal(name, "it was trained with another vocabulary"))


def tokens_and_positions(fingerprint: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """The fixed tokens, and the positions among them whose features are compared."""
    _check_version(fingerprint)
    ids = [int(i) for i in fingerprint["tokens"]]
    return ids, _positions(ids)


def deviation(fingerprint: Mapping[str, Any], features: Tensor) -> float:
    """How far features (P, H) at the fixed positions are from the stored ones: 0 the same, about 1 unrelated.

    Raises `CheckpointError` where they are not finite, or the stored ones are damaged.
    """
    try:
        raw = numpy.frombuffer(base64.b64decode(fingerprint["features"], validate=True), dtype="<f2")
        stored = torch.from_numpy(raw.astype("float32")).view(len(features), PROJECTIONS)
    except (KeyError, TypeError, ValueError, RuntimeError):
        raise CheckpointError("the head's fingerprint is damaged. Copy its config.json again.") from None
    found = _centred(_projected(features))
    # d = √(1 − cos) over all positions and projections, both centred: free of the scale of the hidden states
    cosine = float((stored * found).sum() / (stored.norm() * found.norm()).clamp(min=1e-12))
    if math.isnan(cosine):
        raise CheckpointError("the model's hidden states are not finite, so its head can't be checked. Try float32.")
    return math.sqrt(max(1.0 - cosine, 0.0))


def measure(fingerprint: Mapping[str, Any], model: Any) -> float:
    """The deviation of a Hugging Face model, by one forward."""
    ids, positions = tokens_and_positions(fingerprint)
    return deviation(fingerprint, hidden_states(model, ids, int(fingerprint["layer"]))[positions])


def check_deviation(found: float, name: str) -> None:
    """Raise `CheckpointError` where the model `name` is another one."""
    if found > LIMIT:
        raise CheckpointError(refusal(name, f"it was trained for other weights (deviation {found:.2f}, limit {LIMIT})"))


def notice(found: float) -> str:
    """What a user should know of a deviation; "" where it is rounding."""
    if found <= NOTICE:
        return ""
    return (
        f"the model differs from the one that its head was trained with (deviation {found:.2f}; int8 copies have up to "
        f"{NOTICE}, int4 copies up to {LIMIT}), so its scores may be less reliable."
    )


def refusal(name: str, reason: str) -> str:
    """The one line that refuses a head, with the ways out."""
    return (
        f"the head does not belong to the model {name!r}: {reason}. Give the model's own head, or use it all the same: "
        "--head-anyway (check_fingerprint=False)."
    )


@torch.inference_mode()
def hidden_states(model: Any, ids: Sequence[int], layer: int) -> Tensor:
    """`hidden_states[layer]` of a Hugging Face model, (T, H)."""
    body = getattr(model, model.base_model_prefix, model)  # without the logits, which nobody reads
    training = model.training
    try:
        found = body.eval()(torch.tensor([list(ids)], device=model.device), output_hidden_states=True, use_cache=False)
    finally:
        body.train(training)
    states: Tensor = found.hidden_states[layer][0]
    return states


def _check_version(fingerprint: Mapping[str, Any]) -> None:
    if fingerprint.get("version") != VERSION:
        raise CheckpointError(
            f"the head's fingerprint is of version {fingerprint.get('version')!r}; this reflective reads {VERSION}. "
            "Upgrade reflective, or use the head unchecked: --head-anyway (check_fingerprint=False)."
        )


def _positions(ids: Sequence[int]) -> list[int]:
    return [p for p in POSITIONS if p < len(ids)] or list(range(len(ids)))


def _shapes(model_config: Any) -> dict[str, Any]:
    text = model_config.get_text_config()
    return {name: getattr(text, name, None) for name in SHAPES}


def _vocabulary_digest(tokenizer: Any) -> str:
    """Of the texts of some token ids: the same however the tokenizer is stored, padded or extended."""
    named = {i: token for token, i in tokenizer.get_vocab().items()}
    text = "\n".join(f"{i} {named[i]}" for i in SAMPLED_IDS if i in named)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _projected(features: Tensor) -> Tensor:
    """(P, H) -> (P, K), by fixed random signs, which keep angles (Johnson and Lindenstrauss)."""
    features = features.float().cpu()
    count = features.shape[-1] * PROJECTIONS
    bits = numpy.frombuffer(hashlib.shake_256(b"reflective fingerprint 1").digest(count // 8), dtype=numpy.uint8)
    signs = torch.from_numpy(numpy.unpackbits(bits).astype("float32") * 2 - 1).view(-1, PROJECTIONS)  # (H, K)
    return features @ signs


def _centred(projected: Tensor) -> Tensor:
    """Without the mean over positions: what all tokens have in common says little of a model."""
    return projected - projected.mean(0)
